"""Where a lesion may lie, and where it likely lies: within its organ, clear of others, as real lesions do."""

import numpy as np
from scipy import ndimage
from scipy.signal import fftconvolve

from lldm3d.lesions.pool import LesionClasses, organ_box

CLEAR = 2  # voxels that stay free between two lesions
BANDWIDTH = 0.1  # of the density of real centres, in sides of the organ's box
CUBE = np.ones((3, 3, 3), bool)  # a voxel and its 26 neighbours


def allowed_voxels(label: np.ndarray, classes: LesionClasses) -> np.ndarray:
    """The voxels [X, Y, Z] of a label map that a new lesion may cover: organ, and `CLEAR` voxels from any lesion."""
    lesions = np.isin(label, classes.lesions)
    near = ndimage.binary_dilation(lesions, CUBE, iterations=CLEAR) if lesions.any() else lesions
    return np.isin(label, classes.organ) & ~near


def overlap(volume: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """For each voxel [X, Y, Z] how many of a mask's voxels lie in `volume` when its middle lies there."""
    return np.rint(fftconvolve(np.float64(volume), np.float64(mask[::-1, ::-1, ::-1]), mode="same"))


def possible_centres(allowed: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """All voxels [N, 3] at which the middle of a mask may lie, so that all of it is allowed."""
    found = np.argwhere(allowed)
    if len(found) < mask.sum():
        return np.empty((0, 3), int)
    low, high = found.min(0), found.max(0) + 1
    inner = allowed[tuple(map(slice, low, high))]
    return np.argwhere(overlap(inner, mask) == mask.sum()) + low


def draw_centre(
    rng: np.random.Generator, label: np.ndarray, mask: np.ndarray, classes: LesionClasses, places: np.ndarray
) -> tuple[int, int, int] | None:
    """A voxel for the middle of a new lesion; None where there is no room for it.

    All places with room are found at once. One is drawn by the kernel density of the centres of real lesions relative
    to the organ's box (ours: LN-Gen's heuristic is not told; SYSTEMS 3.10).

    Args:
        mask: of the lesion [x, y, z], odd sizes.
        places: of real lesions [N, 3], see `RealLesion`; any place is as likely where there are none.
    """
    centres = possible_centres(allowed_voxels(label, classes), mask)
    if not len(centres):
        return None
    low, high = organ_box(label, classes)
    weights = place_density((centres - low) / np.maximum(high - low, 1), places)
    return tuple(map(int, centres[rng.choice(len(centres), p=weights / weights.sum())]))


def place_density(points: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The density of `places` [N, 3] at points [P, 3], up to a factor; never quite 0."""
    found = np.full(len(points), 1e-6)
    for place in places:
        found += np.exp(-((points - place) ** 2).sum(1) / (2 * BANDWIDTH**2))
    return found


def in_volume(mask: np.ndarray, centre: tuple[int, int, int], size: tuple[int, int, int]) -> np.ndarray:
    """A mask of odd sizes with its middle at a voxel of a volume of some size, cut where it leaves it."""
    half = np.array(mask.shape) // 2
    wide = np.zeros(np.array(size) + 2 * half, bool)
    wide[tuple(slice(c, c + n) for c, n in zip(centre, mask.shape, strict=True))] = mask
    return wide[tuple(slice(h, h + n) for h, n in zip(half, size, strict=True))]


def misfit(label: np.ndarray, centre: tuple[int, int, int], mask: np.ndarray, classes: LesionClasses) -> str | None:
    """Why a mask cannot lie at a voxel of a label map; None where it can."""
    if label[centre] in classes.lesions:
        return "there is a lesion already"
    if label[centre] not in classes.organ:
        return "that is outside the organ"
    inner = in_volume(mask, centre, label.shape)
    if inner.sum() < mask.sum():
        return "it would leave the scan"
    if not np.isin(label[inner], (*classes.organ, *classes.lesions)).all():
        return "it would leave the organ"
    if not allowed_voxels(label, classes)[inner].all():
        return f"it would come within {CLEAR} voxels of another lesion"
    return None
