"""The class `body`: what of a scan is patient and has no label, for what draws an image from its label alone."""

import numpy as np
from monai.transforms import FillHoles, KeepLargestConnectedComponent
from scipy.ndimage import binary_closing, binary_opening, gaussian_filter
from skimage.filters import threshold_otsu
from skimage.morphology import disk

from lldm3d.data.volumes import thick_axis

BODY = "body"
SMOOTHING = 2.0  # mm: noise in the air beside a patient lies above the threshold in places
GAP = 12.0  # mm that a closing bridges: skin breaks where it is dark
DIMMER = 0.5  # how far a slice's own threshold may fall below the scan's: coils reach less far into the outer ones


def body_mask(image: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """The voxels of the patient, bool [X, Y, Z], in an image of the same shape with values in [0, 1]; `spacing` in mm.

    Otsu's threshold of each slice, smoothed, of its square root, as bright fat would else lift it above muscle; then
    closed, the largest piece, and without holes within each slice, in which lungs and bowel are.
    """
    across = axis if (axis := thick_axis(spacing)) is not None else 2
    smooth = np.sqrt(gaussian_filter(image, [SMOOTHING / length for length in spacing]))
    whole = threshold_otsu(smooth)
    planes, steps = np.moveaxis(smooth, across, 0), np.delete(spacing, across)
    own = [whole if np.ptp(plane) == 0 else threshold_otsu(plane) for plane in planes]
    limits = np.clip(own, DIMMER * whole, whole)[:, None, None]
    gap = max(1, round(GAP / steps.mean()))
    mask = np.pad(planes > limits, ((0, 0), (gap, gap), (gap, gap)))
    mask = np.stack([binary_opening(binary_closing(plane, disk(gap)), disk(gap // 2)) for plane in mask])
    mask = KeepLargestConnectedComponent(independent=False)(mask[None].astype(np.uint8)).numpy()[0]
    filled = np.stack([FillHoles(connectivity=1)(plane[None]).numpy()[0] > 0 for plane in mask])
    return np.moveaxis(filled[:, gap:-gap, gap:-gap], 0, across)
