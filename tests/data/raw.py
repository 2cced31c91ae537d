"""Tiny raw data sets for the tests of lldm3d.data."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np

LABELS = {"0": "background", "1": "liver", "2": "vein"}


def volumes(size: tuple[int, ...] = (20, 18, 12), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """An image and its label in RAS: a box of liver (1) with a vein (2) through it, not in the middle."""
    label = np.zeros(size, np.uint8)
    label[3:12, 4:14, 2:8] = 1
    label[6:8, 4:14, 4:6] = 2
    noise = np.random.default_rng(seed).normal(0, 5, size)
    return (np.array([10, 100, 200])[label] + noise).astype(np.float32), label


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


def load(path: str | Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def write_decathlon(folder: Path, num_cases: int = 5, patients: list[str] | None = None, **extra) -> Path:
    """Write a Decathlon folder of `num_cases`; `extra` goes into dataset.json."""
    entries = []
    for number in range(num_cases):
        image, label = volumes(seed=number)
        entry = {"image": f"./imagesTr/case_{number}.nii.gz", "label": f"./labelsTr/case_{number}.nii.gz"}
        save(folder / entry["image"], image)
        save(folder / entry["label"], label)
        entries.append(entry | ({"patient": patients[number]} if patients else {}))
    content = {"name": "tiny", "labels": LABELS, "training": entries, "test": ["./imagesTs/x.nii.gz"]} | extra
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder
