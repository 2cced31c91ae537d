"""Reading one case of a prepared data set: the one way for all stages."""

from dataclasses import dataclass

import numpy as np

from lldm3d.data.dataset import Case, Schema
from lldm3d.data.volumes import corners_apart, load_volume, spacing_of
from lldm3d.errors import UserError

SPACING_TOLERANCE = 0.01  # relative
CORNER_TOLERANCE = 0.1  # voxels between image and label, at any corner


@dataclass(frozen=True)
class Scan:
    """One pair: image [X, Y, Z] float32, label [X, Y, Z] uint8 or None where the case has none, affine [4, 4] in mm."""

    image: np.ndarray
    label: np.ndarray | None
    affine: np.ndarray | None = None

    @property
    def foreground(self) -> np.ndarray:
        """Mask [X, Y, Z] of what is labelled, everything where there is no label."""
        return self.label > 0 if self.label is not None else np.ones(self.image.shape, bool)


def read_pair(case: Case, schema: Schema) -> Scan:
    """Read image and label of a case, both in the nearest RAS orientation, whatever axes their files have.

    Raises UserError where a file does not fit `schema`, image and label lie in different places, or the image shows
    nothing.
    """
    image, affine = load_volume(case.image)
    check_grid(case.image, image, affine, schema)
    if not np.isfinite(image).all():
        raise UserError(f"{case.image}: holds NaN or infinite values; remove the case or make it again")
    low, high = image.min(), image.max()
    if low == high:
        raise UserError(f"{case.image}: is constant ({low:g} everywhere); remove the case or make it again")
    image = image.astype(np.float32)
    if case.rescale:
        image = (image - low) / (high - low)
    if case.label is None:
        return Scan(image, None, affine)
    return Scan(image, read_label(case.label, schema, affine), affine)


def read_label(path: str, schema: Schema, image_affine: np.ndarray | None = None) -> np.ndarray:
    """Read a label map [X, Y, Z] uint8 in RAS orientation.

    Raises UserError where it does not fit `schema`, or lies elsewhere than the image of `image_affine` [4, 4].
    """
    label, affine = load_volume(path)
    check_grid(path, label, affine, schema)
    check_label(path, label, schema)
    if image_affine is not None:
        distance, allowed = corners_apart(label.shape, affine, image_affine), CORNER_TOLERANCE * min(schema.spacing)
        if distance > allowed:
            raise UserError(
                f"{path}: lies elsewhere than its image, by {distance:.2f} mm at a corner, allowed are {allowed:.2f}; "
                "write both with one affine"
            )
    return label.astype(np.uint8)


def check_label(path: str, label: np.ndarray, schema: Schema) -> None:
    """Raises UserError where a label map holds values that are no class."""
    values = np.unique(label)
    if values.min() < 0 or values.max() >= len(schema.class_names) or (values != np.round(values)).any():
        allowed = f"0..{len(schema.class_names) - 1} ({', '.join(schema.class_names)})"
        raise UserError(f"{path}: holds the values {values[:10].tolist()}, allowed are {allowed}")


def check_grid(path: str, array: np.ndarray, affine: np.ndarray, schema: Schema) -> None:
    """Raises UserError where size or spacing differ from those of the data set."""
    spacing = spacing_of(affine)
    if array.shape != schema.roi_size or not np.allclose(spacing, schema.spacing, rtol=SPACING_TOLERANCE):
        raise UserError(
            f"{path}: has {array.shape} voxels of {np.round(spacing, 3).tolist()} mm, but its data set says "
            f"{schema.roi_size} of {list(schema.spacing)} mm; bring all scans to one grid with `lldm3d prepare`"
        )
