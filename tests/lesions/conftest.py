"""A tiny prepared data set with lesions, and its editor."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from lldm3d.lesions.editor import Editor, open_editor

SIZE, SPACING = (32, 32, 20), (2.0, 2.0, 3.0)  # voxels, mm
CLASSES = ("background", "liver", "vein", "tumour")
SPLITS = {"training": 4, "validation": 1, "test": 1}
LESIONS = ((-12, 4, 6), (10, -8, -3)), (5, 7)  # centres in mm from the middle of the liver, radii in mm


def write_lesion_case(folder: Path, name: str, seed: int) -> dict:
    """A liver of 50 mm with a vein and one or two tumours, whose own values stand out from noise."""
    rng = np.random.default_rng(seed)
    axes = [(np.arange(n) - n / 2) * length for n, length in zip(SIZE, SPACING, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1) + rng.uniform(-2, 2, 3)
    label = ((points / (26, 24, 22)) ** 2).sum(-1).__lt__(1).astype(np.uint8)
    label[(label > 0) & ((points[..., :2] ** 2).sum(-1) < 9)] = 2
    for centre, radius in list(zip(*LESIONS, strict=True))[: 1 + seed % 2]:
        label[((points - centre - rng.uniform(-2, 2, 3)) ** 2).sum(-1) < radius**2] = 3
    image = (np.array([0.1, 0.7, 0.9, 0.3])[label] + rng.normal(0, 0.03, SIZE)).clip(0, 1).astype(np.float32)
    entry = {"patient": name}
    for key, array in (("image", image), ("label", label)):
        path = folder / f"{key}sTr/{name}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        affine = np.diag([*SPACING, 1.0])
        affine[:3, 3] = (-31, -31, -28)
        nib.save(nib.Nifti1Image(array, affine), path)
        entry[key] = f"./{key}sTr/{name}.nii.gz"
    return entry


def write_lesions(folder: Path, prefix: str = "case") -> None:
    """Write the data set."""
    numbers, listed = list(range(sum(SPLITS.values()))), {}
    for split, n in SPLITS.items():
        own, numbers = numbers[:n], numbers[n:]
        listed[split] = [write_lesion_case(folder, f"{prefix}_{number:02d}", number) for number in own]
    content = {
        "name": "lesions",
        "modality": {"0": "MRI"},
        "labels": {str(value): name for value, name in enumerate(CLASSES)},
        **listed,
        "roi_size": list(SIZE),
        "spacing": list(SPACING),
        "intensity": "min_max",
        "tubular": ["vein"],
        "lesions": ["tumour"],
        "inside": {"vein": "liver", "tumour": "liver"},
    }
    (folder / "dataset.json").write_text(json.dumps(content))


@pytest.fixture(scope="session")
def lesion_dataset(tmp_path_factory) -> Path:
    """Four training cases, one of validation, one test case (do not write into it)."""
    folder = tmp_path_factory.mktemp("lesion_dataset")
    write_lesions(folder)
    return folder


@pytest.fixture(scope="session")
def editor(lesion_dataset) -> Editor:
    return open_editor(lesion_dataset)
