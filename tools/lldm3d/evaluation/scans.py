"""Reading both sides of a comparison, and refusing what cannot be compared."""

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from lldm3d.data.dataset import Schema
from lldm3d.data.sources import stem
from lldm3d.errors import UserError
from lldm3d.files import load_nifti

MIN_TRAINING, MIN_SYNTHETIC = 4, 2  # two halves of two; a variance


@dataclass(frozen=True)
class Scan:
    """One pair: image [X, Y, Z] float32 and label [X, Y, Z] uint8."""

    image: np.ndarray
    label: np.ndarray


def case_name(case: dict) -> str:
    """The image's file name without its suffix: crops of one patient are cases of their own."""
    return stem(Path(case["image"]))


def read(case: dict, schema: Schema) -> Scan:
    """Read a case. Raises UserError where a file does not fit `schema`, or holds an image that shows nothing."""
    image, affine = load_nifti(case["image"])
    label, label_affine = load_nifti(case["label"])
    check_grid(case["image"], image, affine, schema)
    check_grid(case["label"], label, label_affine, schema)
    if not np.isfinite(image).all():
        raise UserError(f"{case['image']}: holds NaN or infinite values; remove the case or make it again")
    if image.min() == image.max():
        raise UserError(f"{case['image']}: is constant ({image.min():g} everywhere); remove the case or make it again")
    check_label(case["label"], label, schema)
    return Scan(image.astype(np.float32), label.astype(np.uint8))


def check_label(path: str, label: np.ndarray, schema: Schema) -> None:
    """Raises UserError where a label map holds values that are no class."""
    values = np.unique(label)
    if values.min() < 0 or values.max() >= len(schema.class_names) or (values != np.round(values)).any():
        allowed = f"0..{len(schema.class_names) - 1} ({', '.join(schema.class_names)})"
        raise UserError(f"{path}: holds the values {values[:10].tolist()}, allowed are {allowed}")


def check_grid(path: str, array: np.ndarray, affine: np.ndarray, schema: Schema) -> None:
    """Raises UserError where size or spacing differ from those of the data set."""
    spacing = nib.affines.voxel_sizes(affine)
    if array.shape != schema.roi_size or not np.allclose(spacing, schema.spacing, rtol=0.01):
        raise UserError(
            f"{path}: has {array.shape} voxels of {np.round(spacing, 3).tolist()} mm, but its data set says "
            f"{schema.roi_size} of {list(schema.spacing)} mm; run `lldm3d prepare` or `lldm3d generate` again"
        )


def check_sides(real: Schema, synthetic: Schema, real_dir: Path, synthetic_dir: Path) -> None:
    """Raises UserError where the two data sets differ in classes, spacing or size: nothing could be compared."""
    for key in ("class_names", "spacing", "roi_size"):
        ours, theirs = getattr(real, key), getattr(synthetic, key)
        if ours != theirs:
            raise UserError(
                f"the two data sets differ in {key}: {real_dir} has {list(ours)}, {synthetic_dir} has {list(theirs)}; "
                "prepare the real one as it was for training, or generate with models trained on it"
            )


def check_counts(training: list, synthetic: list, real_dir: Path, synthetic_dir: Path) -> None:
    """Raises UserError where either side has too few cases for any metric."""
    for cases, least, folder in ((training, MIN_TRAINING, real_dir), (synthetic, MIN_SYNTHETIC, synthetic_dir)):
        if len(cases) < least:
            raise UserError(f"{folder}: has {len(cases)} training cases, at least {least} are needed; add cases")
