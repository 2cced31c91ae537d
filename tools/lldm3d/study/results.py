"""Reading what the segmentations of a work directory scored."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lldm3d.agreement import METRICS
from lldm3d.errors import UserError
from lldm3d.segmentation import HEADER

MEAN = "mean"  # over the classes of a task
OF_ALL_CLASSES = ("dice", "nsd")  # metrics that are defined wherever the truth has the class, so that a mean is fair

# seed: patient: value
Results = dict[int, dict[str, float]]


@dataclass(frozen=True)
class Score:
    """One value: of a case and class, of one trained network."""

    network: str
    task: str
    regime: str
    seed: int
    case: str
    patient: str
    class_name: str
    metric: str
    value: float


def read_scores(work: Path) -> list[Score]:
    """The values in all W/segment/<network>/<task>/<regime>/seed_<k>/metrics.csv; what is not defined is left out.

    Raises UserError where a file is not such a table.
    """
    files = sorted((work / "segment").glob("*/*/*/seed_*/metrics.csv"))
    return [score for file in files for score in read_stage(file)]


def read_stage(path: Path) -> list[Score]:
    network, task, regime, seed = path.parts[-5:-1]
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != HEADER:
            raise UserError(f"{path}: has the columns {reader.fieldnames}, they must be {HEADER}; run its stage again")
        return [
            Score(network, task, regime, int(seed[5:]), row["case"], row["patient"], row["class"], metric, value)
            for row in reader
            for metric in METRICS
            if (value := number(row[metric])) is not None
        ]


def number(text: str) -> float | None:
    return float(text) if text else None


def grouped(scores: Iterable[Score]) -> dict[tuple[str, str, str, str], dict[str, Results]]:
    """(metric, network, task, class): regime: seed: patient: mean over the patient's cases.

    Patients, not cases, are what a statistic may take as independent. A task of several classes also has `mean`.
    """
    cases: dict[tuple, list[float]] = {}
    for score in scores:
        place = (score.metric, score.network, score.task, score.class_name, score.regime, score.seed, score.patient)
        cases.setdefault(place, []).append(score.value)
    patients = {place: float(np.mean(values)) for place, values in cases.items()}
    groups: dict[tuple, dict[str, Results]] = {}
    for (*line, regime, seed, patient), value in {**patients, **over_classes(patients)}.items():
        groups.setdefault(tuple(line), {}).setdefault(regime, {}).setdefault(seed, {})[patient] = value
    return groups


def over_classes(patients: dict[tuple, float]) -> dict[tuple, float]:
    """The mean over the classes that a patient has, for tasks of several classes."""
    classes = {(task, name) for _, _, task, name, *_ in patients}
    found: dict[tuple, list[float]] = {}
    for (metric, network, task, _, *rest), value in patients.items():
        if metric in OF_ALL_CLASSES and sum(other == task for other, _ in classes) > 1:
            found.setdefault((metric, network, task, MEAN, *rest), []).append(value)
    return {place: float(np.mean(values)) for place, values in found.items()}
