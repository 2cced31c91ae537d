"""The calibre of vessels in a label map: wider or thinner along their centre lines."""

import numpy as np
from scipy import ndimage
from skimage.morphology import skeletonize

from lldm3d.data.labels import pieces_of, signed_distance


def with_calibre(
    label: np.ndarray, value: int, factor: float, spacing: tuple[float, float, float], kept: tuple[int, ...]
) -> np.ndarray:
    """The label map [X, Y, Z] in which the radius of a tubular class is `factor` times what it was.

    Seen from a voxel the radius is its distance to the centre line less that to the surface, which is negative inside.
    A wider vessel covers all but the classes `kept`; what a thinner one leaves becomes the nearest other class, and its
    centre line stays whole. A part in which skimage finds no centre line stays as it is.

    Args:
        spacing: mm.
    """
    line, (parts, _) = skeletonize(label == value), pieces_of(label, value)
    mask = np.isin(parts, np.unique(parts[line])) & (label == value)
    if not mask.any():
        return label.copy()
    distance, beyond = ndimage.distance_transform_edt(~line, spacing), signed_distance(mask, spacing)
    within, found = line | (distance <= factor * (distance - beyond)), label.copy()
    if factor > 1:
        found[within & ~np.isin(label, kept)] = value
        return found
    left = mask & ~within
    around = ndimage.distance_transform_edt(label == value, spacing, return_distances=False, return_indices=True)
    found[left] = label[tuple(around)][left]
    return found
