"""Utility: does training with synthetic data make the segmentation of real test cases better?"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lldm3d.errors import UserError
from lldm3d.evaluation.comparison import bootstrap

REGIMES = ("R", "S", "R+S")
METRICS = {"dice": "Dice", "hd95": "HD95 (mm)"}
MEAN = "mean"
HEADER = ["case", "class", "dice", "hd95"]
# seed: metric: class: case: value
Results = dict[int, dict[str, dict[str, dict[str, float]]]]


@dataclass(frozen=True)
class Cell:
    """One regime: the mean over seeds of the mean over cases, and its standard deviation over seeds."""

    mean: float | None
    std: float | None  # None with a single seed
    seeds: int
    cases: int


@dataclass(frozen=True)
class Gain:
    """A regime minus R, over the cases that both have; `interval`: paired bootstrap over cases, 95 %."""

    absolute: float | None
    interval: tuple[float, float] | None
    relative: float | None  # % of R
    cases: int


@dataclass(frozen=True)
class Line:
    """One line of the table of a network."""

    network: str
    metric: str  # dice, hd95
    class_name: str  # or `mean`, over the classes
    cells: dict[str, Cell]  # of each regime
    gains: dict[str, Gain]  # of S and R+S


def utility_lines(work: Path, class_names: Sequence[str]) -> list[Line]:
    """All lines of W/segment/<network>/<regime>/seed_<k>/metrics.csv; none where no segmentation was tested."""
    networks = sorted(folder.name for folder in (work / "segment").glob("*") if folder.is_dir())
    lines = []
    for network in networks:
        found = {regime: read_regime(work / "segment" / network / regime) for regime in REGIMES}
        if any(found.values()):
            lines += [line(network, metric, name, found) for metric in METRICS for name in (*class_names[1:], MEAN)]
    return lines


def read_regime(folder: Path) -> Results:
    """The tested cases of all seeds of a regime."""
    files = sorted(folder.glob("seed_*/metrics.csv"))
    return {int(file.parent.name.removeprefix("seed_")): read_metrics(file) for file in files}


def read_metrics(path: Path) -> dict[str, dict[str, dict[str, float]]]:
    """metric: class: case: value; an empty entry, a value that is not defined, is left out.

    Raises UserError where the file is not a table of `case,class,dice,hd95`.
    """
    content: dict[str, dict[str, dict[str, float]]] = {metric: {} for metric in METRICS}
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != HEADER:
            raise UserError(f"{path}: has the columns {reader.fieldnames}, they must be {HEADER}; run its stage again")
        for row in reader:
            for metric in METRICS:
                if row[metric]:
                    content[metric].setdefault(row["class"], {})[row["case"]] = float(row[metric])
    return content


def line(network: str, metric: str, name: str, found: dict[str, Results]) -> Line:
    per_seed = {regime: [of_class(seed[metric], name) for seed in seeds.values()] for regime, seeds in found.items()}
    gains = {regime: gain(per_seed["R"], per_seed[regime]) for regime in REGIMES[1:]}
    return Line(network, metric, name, {regime: cell(seeds) for regime, seeds in per_seed.items()}, gains)


def of_class(classes: dict[str, dict[str, float]], name: str) -> dict[str, float]:
    """Each case's value of a class; of `mean`, the mean over the classes that are defined in the case."""
    if name != MEAN:
        return classes.get(name, {})
    cases = sorted({case for values in classes.values() for case in values})
    return {case: float(np.mean([v[case] for v in classes.values() if case in v])) for case in cases}


def cell(seeds: list[dict[str, float]]) -> Cell:
    means = [float(np.mean(list(values.values()))) for values in seeds if values]
    cases = len(set().union(*seeds)) if seeds else 0
    std = float(np.std(means, ddof=1)) if len(means) > 1 else None
    return Cell(float(np.mean(means)) if means else None, std, len(means), cases)


def gain(real: list[dict[str, float]], other: list[dict[str, float]]) -> Gain:
    """Seed-averaged values of each case, `other` minus `real`."""
    a, b = averaged(real), averaged(other)
    cases = sorted(a.keys() & b.keys())
    if not cases:
        return Gain(None, None, None, 0)
    base, changed = (np.array([values[case] for case in cases]) for values in (a, b))
    difference = changed - base
    relative = 100 * difference.mean() / base.mean() if base.mean() > 0 else None
    return Gain(float(difference.mean()), bootstrap(np.mean, difference), relative, len(cases))


def averaged(seeds: list[dict[str, float]]) -> dict[str, float]:
    """Each case's mean over the seeds in which it is defined."""
    cases = set().union(*seeds) if seeds else set()
    return {case: float(np.mean([values[case] for values in seeds if case in values])) for case in cases}
