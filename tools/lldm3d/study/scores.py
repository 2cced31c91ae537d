"""A segmentation of the study: its data lists, the scores of its predictions, and how they are read again."""

import math
from pathlib import Path

import numpy as np
import pandas as pd

from lldm3d.agreement import METRICS, agreement
from lldm3d.data.dataset import LEFT_OUT_VALUE, SPLITS, Task, load_cases, load_schema
from lldm3d.data.regimes import parse_regime, regime_cases
from lldm3d.errors import UserError
from lldm3d.evaluation.metrics import read_csv, write_csv
from lldm3d.files import load_checkpoint, load_nifti, read_json, write_json
from lldm3d.study.stages import LAYOUT, REAL, RECORDS, SegmentStage

HEADER = ["case", "patient", "class", *METRICS]
ENDS = ["until", "network", "task", "regime", "pairs", "seed", "capped"]
SCORES = ["until", "network", "task", "regime", "pairs", "seed", "case", "patient", "class", "metric", "value"]


def write_data_lists(
    real_dir: str | Path, pairs_dir: str | Path | None, regime: str, seed: int, folder: str | Path
) -> None:
    """Write the cases of the last (or only) training to `folder`/dataset.json, of one before to `folder`/first/.

    The former also keeps what the generator of the pairs saw, which may be drawn anew later.
    """
    *before, last = data_lists(real_dir, pairs_dir, regime, seed)
    manifest = Path(pairs_dir) / "manifest.json" if pairs_dir else None
    if manifest and manifest.is_file():
        last["generator_saw"] = read_json(manifest).get("saw")
    for content in before:
        write_json(Path(folder) / "first" / "dataset.json", content)
    write_json(Path(folder) / "dataset.json", last)


def data_lists(real_dir: str | Path, pairs_dir: str | Path | None, regime: str, seed: int) -> list[dict]:
    """The cases of each training of a regime as the content of dataset.json, with absolute paths.

    Training is as the regime says; validation and test are the real ones. Raises UserError as `regime_cases` does.
    """
    about = read_json(Path(real_dir) / "dataset.json")
    if parse_regime(regime).synthetic and pairs_dir and load_schema(pairs_dir, left_out=True).left_out:
        about["left_out"] = LEFT_OUT_VALUE
    held_out = {split: [case.as_dict() for case in load_cases(real_dir, split)] for split in SPLITS[1:]}
    counts = {"numTest": len(held_out["test"])}
    return [
        about | counts | held_out | {"numTraining": len(cases), "training": [case.as_dict() for case in cases]}
        for cases in regime_cases(real_dir, pairs_dir, regime, seed)
    ]


def data_list(real_dir: str | Path, pairs_dir: str | Path | None, regime: str, seed: int) -> dict:
    """The one list of a regime, for programs that train once. Raises UserError where it has two."""
    found = data_lists(real_dir, pairs_dir, regime, seed)
    if len(found) > 1:
        first, second = regime.split(">")
        raise UserError(
            f"the regime {regime} has two trainings, and so no single list; take {first.lstrip('0123456789.')} and "
            f"{second}, and start the second training from the weights of the first"
        )
    return found[0]


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
        pred, truth = read_prediction(Path(predictions_dir) / f"{case.name}_pred.nii.gz", case.label, task)
        for value, target in list(enumerate(task.class_names))[1:]:
            kinds = {"tubular": target in task.tubular, "lesions": target in task.lesions}
            found = agreement(pred == value, truth == value, spacing, **kinds)
            values = {key: value for key, value in found.items() if math.isfinite(value)}
            rows.append({"case": case.name, "patient": case.patient, "class": target, **values})
    write_csv(path, HEADER, rows)


def read_prediction(pred_path: Path, label_path: str, task: Task) -> tuple[np.ndarray, np.ndarray]:
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


def tables_in(work: Path) -> list[Path]:
    """The scores of all tested segmentations: W/segment/.../metrics.csv."""
    return sorted((work / "segment").glob(f"{'*/' * LAYOUT.count('/')}metrics.csv"))


def read_scores(work: Path) -> pd.DataFrame:
    """A row for each value in all W/segment/.../metrics.csv, with the columns `SCORES`; undefined ones are left out.

    Raises UserError where a folder or file is none of a study.
    """
    types, found = dict.fromkeys(HEADER, str) | dict.fromkeys(METRICS, float), []
    for path in tables_in(work):
        try:  # only of a metric an empty field means that there is none: a class may bear the name NA
            table = read_csv(path, dtype=types, keep_default_na=False, na_values=dict.fromkeys(METRICS, [""]))
        except ValueError as error:
            raise UserError(f"{path}: is no table ({error}); run its stage again") from None
        if list(table) != HEADER:
            raise UserError(f"{path}: has the columns {list(table)}, they must be {HEADER}; run its stage again")
        values = table.melt(HEADER[:3], var_name="metric").dropna(subset="value")
        found.append(values.assign(**vars(SegmentStage.parse(path.parent)))[SCORES])
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=SCORES)


def read_ends(work: Path) -> pd.DataFrame:
    """A row for each finished training to convergence (two of S>R) with the columns `ENDS`.

    `capped`: it ended at the cap on its steps, not by patience, as its last state says; without a state it is left out.
    """
    found = []
    for path in sorted((work / "segment" / "convergence").glob(f"{'*/' * (LAYOUT.count('/') - 1)}metrics.csv")):
        states = [path.parent / "first/state.pt", path.parent / "state.pt"]
        for state in filter(Path.is_file, states):
            ended = load_checkpoint(state, made_by=path.parent.name, mmap=True)
            found.append({**vars(SegmentStage.parse(path.parent)), "capped": not ended.get("stopped")})
    return pd.DataFrame(found, columns=ENDS)


def read_mixed(work: Path) -> list[str]:
    """The segmentations whose seeds were trained with different settings, or on other pairs of the same folder."""
    seen: dict[str, dict[str, str]] = {}
    mixed: list[str] = []
    for path in tables_in(work):
        record = (work / RECORDS / path.parent.relative_to(work)).with_suffix(".json")
        if record.is_file():
            name, content = str(path.parent.parent.relative_to(work / "segment")), read_json(record)
            depends = {"settings": content["settings"], **content["inputs"]}
            known = seen.setdefault(name, depends)
            mixed += [name] if any(known.get(key, value) != value for key, value in depends.items()) else []
            known |= depends
    return list(dict.fromkeys(mixed))


def read_saw(work: Path) -> list[tuple[SegmentStage, dict | None]]:
    """Each tested segmentation with synthetic pairs, and what their generator saw; None where no manifest says it."""
    stages = {path.with_name("dataset.json"): SegmentStage.parse(path.parent) for path in tables_in(work)}
    with_pairs = {path: stage for path, stage in stages.items() if stage.pairs != REAL}
    return [(stage, read_json(path).get("generator_saw")) for path, stage in with_pairs.items() if path.is_file()]
