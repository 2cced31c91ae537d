"""The spacing and the size that all cases of a data set get."""

from collections.abc import Sequence

import numpy as np

from lldm3d.data.check import Survey
from lldm3d.data.volumes import SAME, resampled_size

MULTIPLE = 16  # autoencoder and diffusion networks halve a volume up to four times
HELD = 0.95  # share of the cases whose labelled voxels a size must hold along an axis


def choose_spacing(surveys: list[Survey], spacing: Sequence[float] | None) -> tuple[float, float, float]:
    """The given spacing (mm), else that of the data; where cases differ the median of each axis, said in a line."""
    if spacing is not None:
        return tuple(float(length) for length in spacing)
    found = np.array([survey.spacing for survey in surveys])
    median = tuple(float(f"{length:.6g}") for length in np.median(found, axis=0))
    if not np.allclose(found, median, rtol=SAME):
        low, high = found.min(0).round(4).tolist(), found.max(0).round(4).tolist()
        print(f"spacing: the cases have {low} to {high} mm; all are resampled to the median {list(median)} mm")
    return median


def choose_roi_size(
    surveys: list[Survey], spacing: tuple[float, float, float], roi_size: Sequence[int] | None
) -> tuple[int, int, int]:
    """The given size (voxels), else along each axis what the median scan fills and the labels need.

    That is the largest multiple of 16 within the median scan, or more where the labelled voxels of one case in twenty
    would not fit. Holding every scan whole instead would fill most of a small one with zeros: networks then learn
    where the scan ends, at a multiple of the cost (hippocampus MR: 58 % zeros at 48x64x48, 3 % at 32x48x32).
    """
    if roi_size is not None:
        return tuple(int(size) for size in roi_size)
    scans = [resampled_size(survey.size, survey.spacing, spacing) for survey in surveys]
    labelled = [resampled_size(survey.labelled, survey.spacing, spacing) for survey in surveys]
    filled = np.floor(np.median(scans, axis=0) / MULTIPLE)
    needed = np.ceil(np.quantile(labelled, HELD, axis=0) / MULTIPLE)
    return tuple((np.maximum(np.maximum(filled, needed), 1) * MULTIPLE).astype(int).tolist())
