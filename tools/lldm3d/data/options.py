"""Checking the options of `lldm3d prepare` before any file is read."""

from collections.abc import Sequence

from lldm3d.data.geometry import MULTIPLE
from lldm3d.errors import UserError

INTENSITIES = ("min_max", "percentile")
SPLIT_UNITS = ("patient", "case")


def require_options(
    roi_size: Sequence[int] | None,
    spacing: Sequence[float] | None,
    crops: int | None,
    intensity: str,
    percentiles: Sequence[float],
    split: Sequence[float],
    split_by: str,
    max_cases: int | None,
) -> None:
    """Raise one UserError that lists every option with a value that is not allowed."""
    checks = (
        (roi_size is None or _numbers(roi_size, 3, lambda size: size > 0 and size % MULTIPLE == 0),
         f"--roi_size {roi_size!r}: three multiples of {MULTIPLE} (voxels) are needed, such as 160,160,64"),
        (spacing is None or _numbers(spacing, 3, lambda length: length > 0),
         f"--spacing {spacing!r}: three lengths above 0 (mm) are needed, such as 1.5,1.5,3"),
        (crops is None or _count(crops), f"--crops {crops!r}: a number from 1 is needed"),
        (crops is None or roi_size is not None, "--crops needs the size of the crops: give --roi_size"),
        (intensity in INTENSITIES, f"--intensity {intensity!r}: allowed are {', '.join(INTENSITIES)}"),
        (_numbers(percentiles, 2, lambda p: 0 <= p <= 100) and percentiles[0] < percentiles[1],
         f"--percentiles {percentiles!r}: two rising numbers from 0 to 100 are needed, such as 0.5,99.5"),
        (_numbers(split, 3, lambda part: part > 0) and abs(sum(split) - 1) < 1e-6,
         f"--split {split!r}: three parts above 0 with the sum 1 are needed, such as 0.7,0.1,0.2"),
        (split_by in SPLIT_UNITS, f"--split_by {split_by!r}: allowed are {', '.join(SPLIT_UNITS)}"),
        (max_cases is None or _count(max_cases), f"--max_cases {max_cases!r}: a number from 1 is needed"),
    )  # fmt: skip
    if faults := [message for good, message in checks if not good]:
        raise UserError("; ".join(faults))


def _numbers(values: object, length: int, good) -> bool:
    listed = isinstance(values, (list, tuple)) and len(values) == length
    return listed and all(type(value) in (int, float) and good(value) for value in values)


def _count(value: object) -> bool:
    return type(value) is int and value >= 1
