"""Smooth random warps of a pair of image and label: how far anatomy may move and stay anatomy."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.transforms import Rand3DElasticd
from scipy.ndimage import affine_transform, center_of_mass
from scipy.spatial import KDTree
from skimage.morphology import skeletonize

from lldm3d.data.labels import one_hot
from lldm3d.data.volumes import keeping_volume
from lldm3d.errors import UserError

# ranges of the warp at strength 1: the shapes of organs vary by more between patients
DEGREES, SCALE, SHIFT = 5.0, 0.08, 1.5  # rotation, relative change of size, voxels
ELASTIC, SMOOTHNESS = 1.0, 6.0  # voxels: standard deviation of the displacement, and of the Gaussian that smooths it


def warp_pair(
    image: np.ndarray,
    label: np.ndarray | None,
    classes: int,
    seed: Sequence[int],
    strength: float = 1.0,
    thin: Collection[int] = (),
) -> tuple[np.ndarray, np.ndarray | None]:
    """An image and its label map [X, Y, Z], moved alike by a random affine and a smooth displacement.

    Each class is resampled linearly as a channel of its own and the largest part of a voxel wins, so that no class
    appears between two others. A `thin` class wins from the part at which it keeps its volume, and where its centreline
    is moved to: else a vein loses a quarter of its voxels and falls into seven pieces. The image is resampled by cubic
    splines, which keep its noise and texture. No flips, as organs have a side. MONAI's `Rand3DElasticd` does the warp.

    Args:
        label: None for an image alone.
        classes: of the label, with background.
        strength: 0 leaves the pair as it is, 1 is what the constants above say.
        thin: classes of vessels and lesions.
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
        voxels = torch.from_numpy(np.indices(label.shape, np.float32))
        pair["label"] = torch.cat([one_hot(torch.as_tensor(np.uint8(label))[None, None], classes)[0], voxels])
    moved = {key: np.asarray(volume) for key, volume in warp(pair).items()}
    image = moved["image"][0].clip(image.min(), image.max())
    return image, None if label is None else winners(moved["label"][:classes], label, moved["label"][classes:], thin)


def winners(parts: np.ndarray, label: np.ndarray, origins: np.ndarray, thin: Collection[int]) -> np.ndarray:
    """The class of each voxel of a warped label map.

    Args:
        parts: what each class fills of each voxel, [classes, X, Y, Z]; changed in place.
        label: before the warp.
        origins: the voxel of `label` from which each voxel comes, [3, X, Y, Z].
        thin: classes to keep whole.
    """
    nearest = KDTree(origins.reshape(3, -1).T) if thin else None
    for index in thin:
        part = parts[index]
        if volume := part.sum(dtype=np.float64):
            line = np.argwhere(skeletonize(np.pad(label == index, 1))) - 1
            part.flat[_moved_line(line, nearest, label.shape)] = 1
            part[part >= keeping_volume(part, volume)] += 1  # so that it is larger than any other class's
    return parts.argmax(0).astype(np.uint8)


def _moved_line(line: np.ndarray, nearest: KDTree, shape: tuple[int, ...]) -> np.ndarray:
    """Flat indices of the voxels to which the points [N, 3] of a line are moved, without gaps between neighbours.

    Args:
        nearest: of the places from which voxels come.
    """
    neighbours = KDTree(line).query_pairs(1.8, output_type="ndarray") if len(line) else np.zeros((0, 2), int)
    moved = np.stack(np.unravel_index(nearest.query(line)[1], shape), -1)
    torn = abs(moved[neighbours[:, 0]] - moved[neighbours[:, 1]]).max(1) > 1
    apart, voxels = nearest.query(np.concatenate([line, line[neighbours[torn]].mean(1)]))
    return voxels[apart < 1]  # farther ones left the volume


@dataclass(frozen=True)
class LabelMoves:
    """GEM-3D's augmentation of label maps before images are drawn: all classes together, within axial slices.

    The authors rotate by 2.5 degrees at most, and tumours in brains they also flip and move by about 10 to 28 mm.
    """

    spacing: Sequence[float]  # mm
    rotation: float = 0.0  # degrees at most, round the middle of what is labelled
    shift: float = 0.0  # mm at most, in any direction
    flip: bool = False  # left and right, half of the cases; not where classes have a side

    def __post_init__(self) -> None:
        for name in ("rotation", "shift"):
            if not isinstance(value := getattr(self, name), int | float) or not 0 <= value < math.inf:
                raise UserError(f"--{name} {value}: must be a number of at least 0")

    @property
    def moving(self) -> bool:
        return bool(self.rotation or self.shift or self.flip)

    def __call__(self, label: torch.Tensor, seed: int, indices: Sequence[int]) -> torch.Tensor:
        """The label maps [B, 1, X, Y, Z] of the cases `indices`, moved."""
        if not self.moving:
            return label
        moved = [self.moved(one[0].numpy(), [seed, index]) for one, index in zip(label, indices, strict=True)]
        return torch.as_tensor(np.stack(moved))[:, None]

    def moved(self, label: np.ndarray, seed: Sequence[int]) -> np.ndarray:
        """Raises UserError where nothing of it is left."""
        if not label.any():
            return label
        rng = np.random.default_rng(seed)
        angle, direction = np.radians(rng.uniform(-self.rotation, self.rotation)), rng.uniform(0, 2 * np.pi)
        length, side = rng.uniform(0, self.shift), -1 if self.flip and rng.random() < 0.5 else 1
        size = np.diag([*self.spacing[:2], 1])  # voxels to mm
        turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        matrix = np.linalg.inv(size) @ turn @ np.diag([side, 1, 1]) @ size
        middle = np.array(center_of_mass(label > 0))
        step = np.linalg.inv(size) @ [length * np.cos(direction), length * np.sin(direction), 0]
        offset = middle - matrix @ (middle + step)
        found = affine_transform(label, matrix, offset, order=0, mode="constant")
        if not found.any():
            raise UserError(f"--shift {self.shift}: moves all that is labelled out of the volume; give fewer mm")
        return found
