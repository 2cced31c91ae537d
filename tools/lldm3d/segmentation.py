"""A segmentation of the study: the data list that it learns from, and the scores of its predictions."""

import csv
import math
from pathlib import Path

import numpy as np

from lldm3d.agreement import METRICS, agreement
from lldm3d.data.dataset import SPLITS, load_cases, load_schema
from lldm3d.data.regimes import regime_cases
from lldm3d.data.sources import stem
from lldm3d.data.tasks import Task
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
