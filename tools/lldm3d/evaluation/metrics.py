"""The table of metrics: one row for each figure, and distances beside their floors at equal N."""

import csv
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

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


DRAWS = 50  # random subsets of each comparison


@dataclass(frozen=True)
class Comparison:
    """`value` and `floor` are means over the draws; `interval` holds 95 % of the values of single draws."""

    between: str
    value: float | None
    interval: tuple[float, float] | None
    n: int
    floor: float | None
    note: str


def compare(
    distance: Callable, synthetic: Sequence, training: Sequence, test: Sequence, seed: int = 0, least: int = 2
) -> list[Comparison]:
    """Compare synthetic cases with real training cases and with real test cases.

    Distances of samples depend on N, so that value and floor share it: each draw splits the training cases into two
    halves A and B of n cases and takes n synthetic cases S; the value is distance(S, B), the floor distance(A, B).
    Against the test cases T the floor is distance(training, T), again with n cases on each side. Fewer than `least`
    cases give no value.
    """
    rng = np.random.default_rng(seed)
    n = min(len(training) // 2, len(synthetic))

    def halves() -> tuple[float, float]:
        order = rng.permutation(len(training))
        a, b = take(training, order[:n]), take(training, order[n : 2 * n])
        return distance(take(synthetic, rng.permutation(len(synthetic))[:n]), b), distance(a, b)

    m = min(len(training), len(synthetic), len(test))

    def held_out() -> tuple[float, float]:
        s, r, t = (take(cases, rng.permutation(len(cases))[:m]) for cases in (synthetic, training, test))
        return distance(s, t), distance(r, t)

    return [
        summarise(halves, n, "synthetic / real training", "floor: half of real training / other half", least),
        summarise(held_out, m, "synthetic / real test", "floor: real training / real test", least),
    ]


def compare_altered(distance: Callable, altered: np.ndarray, training: np.ndarray, n: int, seed: int = 0) -> Comparison:
    """A yardstick: what an alteration of real images does, measured between halves as in `compare`.

    `altered` holds the training cases in the same order. The value is distance(altered A, B), the floor distance(A, B).
    """
    rng = np.random.default_rng(seed)

    def halves() -> tuple[float, float]:
        order = rng.permutation(len(training))
        a, b = order[:n], order[n : 2 * n]
        return distance(altered[a], training[b]), distance(training[a], training[b])

    return summarise(halves, n, "blurred real training / real training", "yardstick; floor: the same without the blur")


def summarise(
    draw: Callable[[], tuple[float, float]], n: int, between: str, floor_note: str, least: int = 2
) -> Comparison:
    """Mean and interval over the draws; no value where there are fewer than `least` cases or nothing to measure."""
    if n < least:
        return Comparison(between, None, None, n, None, f"{n} cases on one side, at least {least} are needed")
    values, floors = np.array([draw() for _ in range(DRAWS)]).T
    if np.isnan(values).all():
        return Comparison(between, None, None, n, None, "does not occur in these cases")
    low, high = np.nanpercentile(values, [2.5, 97.5])
    floor = None if np.isnan(floors).all() else float(np.nanmean(floors))
    return Comparison(between, float(np.nanmean(values)), (float(low), float(high)), n, floor, floor_note)


def take(cases: Sequence, index: np.ndarray) -> Sequence:
    """The cases at `index`, of an array [N, D] or of a list."""
    return cases[index] if isinstance(cases, np.ndarray) else [cases[i] for i in index]


def bootstrap(
    statistic: Callable, *samples: np.ndarray, draws: int = 1000, seed: int = 0
) -> tuple[float, float] | None:
    """95 % interval of `statistic(*samples)` when each sample's cases are drawn again; None below two cases."""
    if min(map(len, samples)) < 2:
        return None
    rng = np.random.default_rng(seed)
    values = [statistic(*(x[rng.integers(len(x), size=len(x))] for x in samples)) for _ in range(draws)]
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)
