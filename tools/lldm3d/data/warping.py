"""Smooth random warps of a pair of image and label: how far anatomy may move and stay anatomy."""

from collections.abc import Sequence

import numpy as np
import torch
from monai.transforms import Rand3DElasticd

from lldm3d.data.labels import one_hot

# ranges of the warp at strength 1: the shapes of organs vary by more between patients
DEGREES, SCALE, SHIFT = 5.0, 0.08, 1.5  # rotation, relative change of size, voxels
ELASTIC, SMOOTHNESS = 1.0, 6.0  # voxels: standard deviation of the displacement, and of the Gaussian that smooths it


def warp_pair(
    image: np.ndarray, label: np.ndarray | None, classes: int, seed: Sequence[int], strength: float = 1.0
) -> tuple[np.ndarray, np.ndarray | None]:
    """An image and its label map [X, Y, Z], moved alike by a random affine and a smooth displacement.

    Each class is resampled linearly as a channel of its own and the largest wins, so that no class appears between two
    others. The image is resampled by cubic splines, which keep its noise and texture. No flips, as organs have a side.
    MONAI's `Rand3DElasticd` does the warp.

    Args:
        label: None for an image alone.
        classes: of the label, with background.
        strength: 0 leaves the pair as it is, 1 is what the constants above say.
    """
    if strength == 0:
        return image, label
    smoothing = (2 * np.pi**0.5 * SMOOTHNESS) ** 1.5  # uniform noise of +-1 has this much less spread once smoothed
    magnitude = strength * ELASTIC * 3**0.5 * smoothing
    warp = Rand3DElasticd(
        keys=("label", "image"),
        allow_missing_keys=True,
        sigma_range=(SMOOTHNESS, SMOOTHNESS),
        magnitude_range=(magnitude, magnitude),
        prob=1.0,
        rotate_range=(strength * DEGREES * np.pi / 180,) * 3,
        scale_range=(strength * SCALE,) * 3,
        translate_range=(strength * SHIFT,) * 3,
        mode=("bilinear", 3),
        padding_mode=("reflection", "reflect"),  # what lies at the edges would be drawn out to streaks
    )
    warp.set_random_state(int(np.random.SeedSequence(list(seed)).generate_state(1)[0]))
    pair = {"image": torch.as_tensor(np.float32(image))[None]}
    if label is not None:
        pair["label"] = one_hot(torch.as_tensor(np.uint8(label))[None, None], classes)[0]
    moved = {key: np.asarray(volume) for key, volume in warp(pair).items()}
    image = moved["image"][0].clip(image.min(), image.max())
    return image, None if label is None else moved["label"].argmax(0).astype(np.uint8)
