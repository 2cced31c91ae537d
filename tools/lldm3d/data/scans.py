"""Reading one case of a prepared data set: the one way for all stages."""

from dataclasses import dataclass, replace

import numpy as np

from lldm3d.data.dataset import LEFT_OUT_VALUE, Case, Schema
from lldm3d.data.volumes import corners_apart, load_volume, spacing_of, turned_grid
from lldm3d.errors import UserError

SPACING_TOLERANCE = 0.01  # relative
OVERSHOOT = 2  # of [0, 1] by noisy images; what goes beyond it was never scaled to it
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
    """Read image and label of a case, both along the axes of its data set, whatever axes their files have.

    An image of one value is read, as a method that fails may draw it. Raises UserError where a file does not fit
    `schema`, or image and label lie in different places.
    """
    image, affine = load_volume(case.image, axes=schema.axes)
    check_grid(case.image, image.shape, affine, schema)
    if not np.isfinite(image).all():
        raise UserError(f"{case.image}: holds NaN or infinite values; remove the case or make it again")
    low, high = image.min(), image.max()
    if low == high and case.rescale:
        raise UserError(f"{case.image}: is constant ({low:g} everywhere); remove the case or make it again")
    if not case.rescale and (low < -OVERSHOOT or high > 1 + OVERSHOOT):
        raise UserError(
            f"{case.image}: holds intensities from {low:g} to {high:g}, but those of its data set are from 0 to 1; "
            "prepare its scans with `lldm3d prepare`"
        )
    image = image.astype(np.float32)
    if case.rescale:
        image = (image - low) / (high - low)
    if case.label is None:
        return Scan(image, None, affine)
    return Scan(image, read_label(case.label, schema, affine), affine)


def read_pair_of_any_size(case: Case, schema: Schema) -> Scan:
    """The same, of a pair that has not the size of its data set, as other programs may make it."""
    shape, _ = turned_grid(case.image, schema.axes)
    return read_pair(case, replace(schema, roi_size=shape))


def read_label(path: str, schema: Schema, image_affine: np.ndarray | None = None) -> np.ndarray:
    """Read a label map [X, Y, Z] uint8, turned with its image where there is one.

    Raises UserError where it does not fit `schema`, or lies elsewhere than the image of `image_affine` [4, 4].
    """
    label, affine = load_volume(path, axes=schema.axes if image_affine is None else image_affine)
    check_grid(path, label.shape, affine, schema)
    check_label(path, label, schema)
    if image_affine is not None:
        check_place(path, label.shape, affine, image_affine)
    return label.astype(np.uint8)


def check_headers(case: Case, schema: Schema) -> None:
    """Raises UserError where a pair of any size, by its headers alone, has another spacing than `schema`, or its image
    and label lie in different places."""
    shape, affine = turned_grid(case.image, schema.axes)
    check_grid(case.image, schema.roi_size, affine, schema)
    if case.label is not None:
        of_label = turned_grid(case.label, schema.axes)
        if of_label[0] != shape:
            raise UserError(f"{case.label}: has {of_label[0]} voxels, its image {shape}; write both on one grid")
        check_place(case.label, shape, of_label[1], affine)


def check_place(path: str, shape: tuple[int, ...], affine: np.ndarray, image_affine: np.ndarray) -> None:
    """Raises UserError where a label lies elsewhere than its image."""
    distance = corners_apart(shape, affine, image_affine)
    allowed = CORNER_TOLERANCE * min(spacing_of(image_affine))
    if distance > allowed:
        raise UserError(
            f"{path}: lies elsewhere than its image, by {distance:.2f} mm at a corner, allowed are {allowed:.2f}; "
            "write both with one affine"
        )


def check_label(path: str, label: np.ndarray, schema: Schema) -> None:
    """Raises UserError where a label map holds values that are no class."""
    values = np.setdiff1d(label, [LEFT_OUT_VALUE] if schema.left_out else [])
    if not np.isin(values, range(len(schema.class_names))).all():
        allowed = f"0..{len(schema.class_names) - 1} ({', '.join(schema.class_names)})"
        raise UserError(f"{path}: holds the values {values[:10].tolist()}, allowed are {allowed}")


def check_grid(path: str, shape: tuple[int, ...], affine: np.ndarray, schema: Schema) -> None:
    """Raises UserError where size or spacing differ from those of the data set."""
    spacing = spacing_of(affine)
    if shape != schema.roi_size or not np.allclose(spacing, schema.spacing, rtol=SPACING_TOLERANCE):
        raise UserError(
            f"{path}: has {shape} voxels of {np.round(spacing, 3).tolist()} mm, but its data set says "
            f"{schema.roi_size} of {list(schema.spacing)} mm; bring all scans to one grid with `lldm3d prepare`"
        )
