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
    """One pair: image [X, Y, Z] float32 and label [X, Y, Z] uint8, None where the case has none."""

    image: np.ndarray
    label: np.ndarray | None

    @property
    def foreground(self) -> np.ndarray:
        """Mask [X, Y, Z] of what is labelled, everything where there is no label."""
        return self.label > 0 if self.label is not None else np.ones(self.image.shape, bool)


def case_name(case: dict) -> str:
    """The image's file name without its suffix: crops of one patient are cases of their own."""
    return stem(Path(case["image"]))


def read(case: dict, schema: Schema) -> Scan:
    """Read a case. Raises UserError where a file does not fit `schema`, or holds an image that shows nothing."""
    image, affine = load_nifti(case["image"])
    check_grid(case["image"], image, affine, schema)
    if not np.isfinite(image).all():
        raise UserError(f"{case['image']}: holds NaN or infinite values; remove the case or make it again")
    low, high = image.min(), image.max()
    if low == high:
        raise UserError(f"{case['image']}: is constant ({low:g} everywhere); remove the case or make it again")
    image = image.astype(np.float32)
    if case.get("rescale"):
        image = (image - low) / (high - low)
    return Scan(image, read_label(case["label"], schema) if case["label"] else None)


def read_label(path: str, schema: Schema) -> np.ndarray:
    """Read a label map. Raises UserError where it does not fit `schema`."""
    label, affine = load_nifti(path)
    check_grid(path, label, affine, schema)
    check_label(path, label, schema)
    return label.astype(np.uint8)


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
            f"{schema.roi_size} of {list(schema.spacing)} mm; bring all scans to one grid with `lldm3d prepare`"
        )


def check_sides(real: Schema, synthetic: Schema, real_dir: Path, synthetic_dir: Path) -> None:
    """Raises UserError where the two sides differ in spacing, size, or classes where both name them."""
    keys = ["spacing", "roi_size", *(["class_names"] if real.class_names and synthetic.class_names else [])]
    for key in keys:
        ours, theirs = getattr(real, key), getattr(synthetic, key)
        if key == "spacing" and np.allclose(ours, theirs, rtol=0.01):
            continue
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
