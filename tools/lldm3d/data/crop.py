"""Cutting volumes to one size around what matters."""

import numpy as np

CENTERS = ("foreground", "image")  # besides the names of classes


def center_mask(label: np.ndarray, center: str, class_names: list[str]) -> np.ndarray:
    """Where the centre of the crop may lie, bool [X, Y, Z]: a class, else all foreground, else everywhere."""
    candidates = [label == class_names.index(center)] if center in class_names else []
    candidates += [label > 0] if center != "image" else []
    return next((mask for mask in candidates if mask.any()), np.ones(label.shape, bool))


def middle(mask: np.ndarray) -> np.ndarray:
    """The middle of the bounding box of `mask`, in voxels: a crop around it keeps the whole of what fits."""
    low, high = bounding_box(mask)
    return (low + high) // 2


def bounding_box(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First voxel [3] and last voxel + 1 [3] of the box that holds `mask`, which must not be empty."""
    filled = [np.flatnonzero(mask.any(axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    return np.array([where[0] for where in filled]), np.array([where[-1] + 1 for where in filled])


def window(center: np.ndarray, size: tuple[int, ...], roi_size: tuple[int, ...]) -> np.ndarray:
    """First voxel [3] of the crop of `roi_size` round `center`.

    The crop is moved to lie inside the volume; along an axis where the volume is smaller it lies in the middle of the
    crop, and the first voxel is negative.
    """
    room = np.subtract(size, roi_size)
    return np.where(room >= 0, np.clip(center - np.array(roi_size) // 2, 0, np.maximum(room, 0)), room // 2)


def cut(volume: np.ndarray, start: np.ndarray, roi_size: tuple[int, ...]) -> np.ndarray:
    """The crop of `roi_size` that begins at `start`; 0 outside the volume."""
    low = np.maximum(start, 0)
    high = np.minimum(start + roi_size, volume.shape)
    part = np.zeros(roi_size, volume.dtype, order="F")  # as it will lie in its file
    part[tuple(map(slice, low - start, high - start))] = volume[tuple(map(slice, low, high))]
    return part


def move(affine: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The affine [4, 4] of a crop that begins at the voxel `start`."""
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ start
    return moved
