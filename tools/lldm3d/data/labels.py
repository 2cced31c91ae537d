"""Label maps, their one-hot form, and the distance of voxels to a class."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage


def one_hot(label: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Class indices [B, 1, X, Y, Z] to float32 [B, num_classes, X, Y, Z].

    Labels are one-hot in and out of the label autoencoder: a scalar map that is blurred on its way makes classes that
    are not there (between liver and tumour lie the vessels). MONAI's `one_hot` keeps MetaTensors and the label's dtype.

    Raises:
        ValueError: on a value outside 0 .. num_classes - 1.
    """
    label = torch.as_tensor(label).long()
    low, high = int(label.min()), int(label.max())
    if low < 0 or high >= num_classes:
        raise ValueError(f"label values must lie in 0..{num_classes - 1}, got {low}..{high}")
    hot = torch.zeros(len(label), num_classes, *label.shape[2:], device=label.device)
    return hot.scatter_(1, label, 1.0)


def class_sizes(label: torch.Tensor, num_classes: int) -> torch.Tensor:
    """How large each class but the background is in indices [1, X, Y, Z]: the cube root of its voxels, [K - 1]."""
    return torch.bincount(label.long().flatten(), minlength=num_classes)[1:num_classes].float().pow(1 / 3)


def signed_distance(mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Distance (mm) of each voxel's centre to the surface of a mask [X, Y, Z], negative inside.

    The surface lies half a voxel beyond the last centre inside. Where there is none, all is infinitely far from it.
    MONAI's `DistanceTransformEDT` is one-sided.
    """
    if mask.all() or not mask.any():
        return np.where(mask, -np.inf, np.inf).astype(np.float32)
    outside = ndimage.distance_transform_edt(~mask, spacing)
    inside = ndimage.distance_transform_edt(mask, spacing)
    half = min(spacing) / 2
    return np.where(mask, half - inside, outside - half).astype(np.float32)
