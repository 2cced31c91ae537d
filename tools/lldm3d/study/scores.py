"""A segmentation of the study: its data list, the scores of its predictions, and how they are read again."""

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lldm3d.agreement import METRICS, agreement
from lldm3d.data.dataset import SPLITS, Task, load_cases, load_schema
from lldm3d.data.regimes import regime_cases
from lldm3d.data.sources import stem
from lldm3d.errors import UserError
from lldm3d.files import load_nifti, read_json, whole, write_json

HEADER = ["case", "patient", "class", *METRICS]


def write_data_list(
    real_dir: str | Path, synthetic_dir: str | Path | None, regime: str, seed: int, path: str | Path
) -> None:
    """Write `data_list` as dataset.json."""
    write_json(path, data_list(real_dir, synthetic_dir, regime, seed))


def data_list(real_dir: str | Path, synthetic_dir: str | Path | None, regime: str, seed: int) -> dict:
    """The cases of a regime as the content of dataset.json in the prepared layout, with absolute paths.

    Training is as the regime says; validation and test are the real ones. Raises UserError as `regime_cases` does.
    """
    training = regime_cases(real_dir, synthetic_dir, regime, seed)
    lists = {"training": training, **{split: load_cases(real_dir, split) for split in SPLITS[1:]}}
    about = read_json(Path(real_dir) / "dataset.json")
    return about | {"numTraining": len(training), "numTest": len(lists["test"]), **lists}


def write_case_metrics(dataset_dir: str | Path, predictions_dir: str | Path, task: Task, path: str | Path) -> None:
    """Score `<case>_pred.nii.gz` of each test case and write the table `HEADER`; what is not defined stays empty.

    Args:
        dataset_dir: prepared data set, with the classes of the data.
        predictions_dir: label maps of the task's classes.

    Raises:
        UserError: where a prediction is missing, or does not fit its label.
    """
    spacing, rows = load_schema(dataset_dir).spacing, []
    for case in load_cases(dataset_dir, "test"):
        name = stem(Path(case["image"]))
        pred, truth = read_pair(Path(predictions_dir) / f"{name}_pred.nii.gz", case["label"], task)
        for value, target in list(enumerate(task.class_names))[1:]:
            kinds = {"tubular": target in task.tubular, "lesions": target in task.lesions}
            found = agreement(pred == value, truth == value, spacing, **kinds)
            values = {key: value for key, value in found.items() if math.isfinite(value)}
            rows.append({"case": name, "patient": case["patient"], "class": target, **values})
    with whole(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, HEADER, lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(rows)


def read_pair(pred_path: Path, label_path: str, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Prediction and label [X, Y, Z] uint8 in the classes of the task."""
    if not pred_path.is_file():
        raise UserError(f"{pred_path}: no such file; run the segmentation bundle's `inferring` on the test cases")
    pred, label = (load_nifti(path)[0].astype(np.uint8) for path in (pred_path, label_path))
    if pred.shape != label.shape or pred.max() >= len(task.class_names):
        raise UserError(
            f"{pred_path}: has {pred.shape} voxels with values up to {pred.max()}, its label {label.shape} voxels and "
            f"the task {task.name} {len(task.class_names) - 1} classes; delete this stage's folder and run it again"
        )
    return pred, np.asarray(task.targets, np.uint8)[label]


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
            if (value := parse_number(row[metric])) is not None
        ]


def parse_number(text: str) -> float | None:
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
