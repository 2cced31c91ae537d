"""The spacing and the size that all cases of a data set get."""

from collections.abc import Sequence

import numpy as np

from lldm3d.data.check import Survey
from lldm3d.data.volumes import SAME, resampled_size

MULTIPLE = 16  # autoencoder and diffusion networks halve a volume up to four times
ROOM = 1.5  # a size that holds all cases may be this much larger than the median case


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
    """The given size (voxels), else along each axis the smallest multiple of 16 that holds every case.

    Where that is more than 1.5 times the median case (one large scan among small ones would fill the others with
    zeros), it is the median rounded up to a multiple of 16, and larger cases are cropped.
    """
    if roi_size is not None:
        return tuple(int(size) for size in roi_size)
    sizes = np.array([resampled_size(survey.size, survey.spacing, spacing) for survey in surveys])
    median = np.median(sizes, axis=0)
    all_held, usual = (np.ceil(size / MULTIPLE).astype(int) * MULTIPLE for size in (sizes.max(axis=0), median))
    chosen = np.where(all_held <= ROOM * np.maximum(median, MULTIPLE), all_held, usual)
    return tuple(chosen.tolist())
