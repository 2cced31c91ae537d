"""Real training pairs, smoothly warped: the labels of the source `training`, and the images that truly fit them."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from monai.transforms import Rand3DElastic

from lldm3d.data.dataset import Case, load_cases, load_schema
from lldm3d.data.labels import one_hot
from lldm3d.errors import UserError
from lldm3d.files import load_nifti, save_nifti, write_json
from lldm3d.pairs.folder import write_dataset_json
from lldm3d.pairs.sources import TRAINING, LabelFile
from lldm3d.processes import in_processes

# ranges of the warp at strength 1: the shapes of organs vary by more between patients, but stay anatomy
DEGREES, SCALE, SHIFT = 5.0, 0.08, 1.5  # rotation, relative change of size, voxels
ELASTIC, SMOOTHNESS = 1.0, 6.0  # voxels: standard deviation of the displacement, and of the Gaussian that smooths it


class Warp(NamedTuple):
    """One warped pair to be written."""

    index: int  # of all, from which the warp follows
    case: Case
    name: str


def write_warped_pairs(
    dataset_dir: str | Path, output_dir: str | Path, n: int, seed: int = 0, strength: float = 1.0
) -> list[LabelFile]:
    """Write `n` pairs of real training cases, each smoothly warped anew, as a folder of pairs on the prepared grid.

    The cases are taken in turn; `labels.json` lists the labels. No flips, as organs have a side. Methods draw images
    for these labels; the warped real images show what warping alone is worth, and which drawn ones repeat a patient.

    Args:
        strength: of the warp; 0 leaves the pairs as they are, 1 is what the constants above say.
    """
    folder, dataset_dir = Path(output_dir).resolve(), Path(dataset_dir)
    cases = [case for case in load_cases(dataset_dir, TRAINING) if case.label]
    if not cases:
        raise UserError(f"{dataset_dir}: has no labelled training cases to warp")
    rounds = [(index, cases[index % len(cases)], index // len(cases)) for index in range(n)]
    warps = [Warp(index, case, f"{case.name}_warp{number:02d}") for index, case, number in rounds]
    classes = len(load_schema(dataset_dir).class_names)
    write = partial(write_warped, folder=folder, classes=classes, seed=seed, strength=strength)
    list(in_processes(write, warps, "warping real pairs"))
    files = [LabelFile(str(folder / f"labelsTr/{w.name}.nii.gz"), w.name, w.case.patient) for w in warps]
    about = "Real training scans, smoothly warped: no synthetic data."
    write_dataset_json(folder, dataset_dir, about, [w.name for w in warps], [w.case.patient for w in warps])
    write_json(folder / "labels.json", {"strength": strength, "labels": [asdict(file) for file in files]})
    return files


def write_warped(warp: Warp, folder: Path, classes: int, seed: int, strength: float) -> None:
    """Write one warped pair."""
    (image, affine), (label, _) = load_nifti(warp.case.image), load_nifti(warp.case.label)
    label = label.astype(np.uint8)
    if strength > 0:
        label, image = warp_pair(label, image, classes, [seed, warp.index], strength)
    save_nifti(folder / f"labelsTr/{warp.name}.nii.gz", label, affine)
    save_nifti(folder / f"imagesTr/{warp.name}.nii.gz", image.astype(np.float32), affine)


def warp_pair(
    label: np.ndarray, image: np.ndarray, classes: int, seed: Sequence[int], strength: float
) -> tuple[np.ndarray, np.ndarray]:
    """A label map and an image [X, Y, Z], moved alike by a random affine and a smooth displacement.

    Each class is resampled linearly as a channel of its own and the largest wins, so that no class appears between two
    others. MONAI's `Rand3DElastic` does the warp.
    """
    smoothing = (2 * np.pi**0.5 * SMOOTHNESS) ** 1.5  # uniform noise of +-1 has this much less spread once smoothed
    magnitude = strength * ELASTIC * 3**0.5 * smoothing
    warp = Rand3DElastic(
        sigma_range=(SMOOTHNESS, SMOOTHNESS),
        magnitude_range=(magnitude, magnitude),
        prob=1.0,
        rotate_range=(strength * DEGREES * np.pi / 180,) * 3,
        scale_range=(strength * SCALE,) * 3,
        translate_range=(strength * SHIFT,) * 3,
        mode="bilinear",
        padding_mode="border",
    )
    warp.set_random_state(int(np.random.SeedSequence(list(seed)).generate_state(1)[0]))
    hot = one_hot(torch.as_tensor(label)[None, None], classes)[0]
    moved = np.asarray(warp(torch.cat([hot, torch.as_tensor(np.float32(image))[None]])))
    return moved[:-1].argmax(0).astype(np.uint8), moved[-1].clip(image.min(), image.max())
