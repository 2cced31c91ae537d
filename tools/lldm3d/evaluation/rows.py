"""The table of metrics: one row for each figure, with all that is needed to judge it."""

import csv
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from lldm3d.files import whole

LOWER, HIGHER, NEAR_FLOOR = "lower", "higher", "near floor"


@dataclass(frozen=True)
class Row:
    """One figure. `value` is None where it cannot be had; `note` then says why."""

    group: str  # fidelity, labels, alignment, copies, diversity, paired
    name: str  # the metric, such as FID
    between: str  # what is compared, synthetic side first
    value: float | None
    direction: str  # what is good: lower, higher, near floor
    class_name: str | None = None
    unit: str = ""
    interval: tuple[float, float] | None = None  # 95 %
    n: int | None = None  # cases on each side
    floor: float | None = None  # what real data gets by the same computation
    network: str | None = None  # the network that the figure depends on, and the SHA-256 of its weights
    weights: str | None = None
    note: str = ""

    def plain(self) -> dict:
        """The row as JSON: `class_name` is written as `class`; NaN and infinity become None."""
        content = {("class" if key == "class_name" else key): value for key, value in asdict(self).items()}
        for key in ("value", "floor"):
            content[key] = finite(content[key])
        interval = [finite(bound) for bound in self.interval or ()]
        content["interval"] = interval if interval and None not in interval else None
        return content


def finite(value: float | None) -> float | None:
    """`value` as a float, or None where it is None, NaN or infinite."""
    return float(value) if value is not None and math.isfinite(value) else None


def number(value: float | None, signed: bool = False) -> str:
    """A figure for reading: three digits or so; a dash where there is none."""
    if value is None:
        return "–"
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3 if size >= 0.01 else None
    if value == int(value):
        text = f"{int(value):,}"
    elif digits is None:
        text = f"{value:.2g}" if size >= 1e-4 else f"{value:.1e}"
    else:
        text = f"{value:,.{digits}f}"
    return (f"+{text}" if signed and value > 0 else text).replace("-", "−")


def write_csv(path: str | Path, rows: Iterable[Row]) -> None:
    """Write the rows as CSV; the interval takes two columns, and what is None is empty."""
    columns = ["class" if field.name == "class_name" else field.name for field in fields(Row)]
    at = columns.index("interval")
    columns[at : at + 1] = ["interval_low", "interval_high"]
    with whole(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for row in rows:
            content = row.plain()
            content["interval_low"], content["interval_high"] = content.pop("interval") or (None, None)
            writer.writerow(content)
