"""What each method reached, read from what its stages left."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from lldm3d.evaluation.rows import HIGHER, LOWER
from lldm3d.files import read_json
from lldm3d.methods.registry import Method, load_method, seed_stage

REAL = "synthetic / real training"
TO_REAL = ("FID", "KID", "precision", "recall", "share of near copies")
AMONG_THEMSELVES = ("SSIM of pairs", "MS-SSIM of pairs")


@dataclass(frozen=True)
class Measure:
    """A column of the table."""

    title: str
    unit: str = ""
    direction: str = ""  # what is good: lower, higher, or nothing that is


@dataclass(frozen=True)
class Result:
    """One figure of one training of a method."""

    method: str
    seed: int
    measure: Measure
    value: float
    interval: tuple[float, float] | None = None  # 95 %, of the draws of cases
    floor: float | None = None  # what real cases get
    n: int | None = None


@dataclass(frozen=True)
class Cell:
    """One figure of a method over its seeds."""

    mean: float
    std: float | None  # None of one seed
    interval: tuple[float, float] | None  # the lowest and the highest bound of the seeds


SECONDS = Measure("seconds a volume", "s", LOWER)
MEMORY = Measure("peak memory", "GB", LOWER)
MINUTES = Measure("training", "min")
PARAMETERS = Measure("parameters", "M")


def read_results(work: Path, names: Iterable[str], seeds: Iterable[int]) -> list[Result]:
    """All figures of the methods in W/methods. Raises UserError where a file is missing or broken."""
    return [result for name in names for seed in seeds for result in of_training(work, name, seed)]


def of_training(work: Path, name: str, seed: int) -> list[Result]:
    """The figures of one training of a method: those of its evaluation, then its cost."""
    folder = work / seed_stage(name, seed)
    found = [quality(name, seed, row) for row in read_json(folder / "evaluation/metrics.json")["rows"] if shown(row)]
    cost = read_json(folder / "cost.json")
    drawing, trainings = cost["drawing"], cost["trainings"].values()
    figures = {
        SECONDS: drawing["seconds"] / drawing["volumes"],
        MEMORY: drawing["memory_gb"],
        MINUTES: sum(training["seconds"] for training in trainings) / 60,
        PARAMETERS: drawing["parameters"] / 1e6,
    }
    costs = [Result(name, seed, measure, value) for measure, value in figures.items() if value is not None]
    return [*found, *costs]


def shown(row: dict) -> bool:
    """Whether the table has this row of an evaluation: fidelity to the training cases, variety, copies."""
    if row["value"] is None:
        return False
    return row["between"] == REAL and row["name"].split(",")[0] in TO_REAL or row["name"] in AMONG_THEMSELVES


def quality(name: str, seed: int, row: dict) -> Result:
    direction = row["direction"] if row["direction"] in (LOWER, HIGHER) else ""
    interval = tuple(row["interval"]) if row["interval"] else None
    return Result(
        name, seed, Measure(row["name"], row["unit"], direction), row["value"], interval, row["floor"], row["n"]
    )


def cells(results: Iterable[Result]) -> dict[Measure, dict[str, Cell]]:
    """{measure: {method: cell}}, both in the order of the results."""
    grouped: dict[Measure, dict[str, list[Result]]] = {}
    for result in results:
        grouped.setdefault(result.measure, {}).setdefault(result.method, []).append(result)
    return {measure: {name: cell(items) for name, items in by.items()} for measure, by in grouped.items()}


def cell(items: list[Result]) -> Cell:
    values = [item.value for item in items]
    bounds = [item.interval for item in items if item.interval]
    interval = (min(low for low, _ in bounds), max(high for _, high in bounds)) if bounds else None
    return Cell(mean(values), stdev(values) if len(values) > 1 else None, interval)


def leads(measure: Measure, ours: Cell, other: Cell) -> bool:
    """Whether `ours` is better than `other` beyond the intervals of all seeds."""
    if not ours.interval or not other.interval:
        return False
    if measure.direction == LOWER:
        return ours.interval[1] < other.interval[0]
    return measure.direction == HIGHER and ours.interval[0] > other.interval[1]


def methods_of(names: Iterable[str]) -> dict[str, Method]:
    return {name: load_method(name) for name in names}
