"""The lesions of a study one by one: which are found, by their length, and how many are found where there is none."""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage
from skimage.measure import label as components

from lldm3d.data.dataset import Task, load_cases, load_schema
from lldm3d.evaluation.metrics import read_csv, write_csv
from lldm3d.files import atomic_write
from lldm3d.lesions.masks import long_axis
from lldm3d.study.scores import read_prediction
from lldm3d.study.stages import LAYOUT, Arm, SegmentStage

HEADER = ["case", "patient", "class", "long_axis", "covered"]  # covered: share of a true lesion; empty of a false one
SIZES = {"all": (0, np.inf), "< 10 mm": (0, 10), "10-20 mm": (10, 20), "> 20 mm": (20, np.inf)}
RULES = {"one voxel": np.finfo(float).tiny, "half": 0.5}  # a lesion is found from this share on
GROUP = ["until", "network", "task", "class", "regime", "pairs"]
COLUMNS = [*GROUP, "size", "lesions", *(f"sensitivity, {rule}" for rule in RULES), "false positives a scan"]


def write_case_lesions(dataset_dir: str | Path, predictions_dir: str | Path, task: Task, path: str | Path) -> None:
    """Write the table `HEADER` of all lesions of the test cases, and of all that was found where there is none.

    Raises UserError where a prediction is missing, or does not fit its label.
    """
    spacing, rows = load_schema(dataset_dir).spacing, []
    for case in load_cases(dataset_dir, "test"):
        pred, truth = read_prediction(Path(predictions_dir) / f"{case.name}_pred.nii.gz", case.label, task)
        for name in task.lesions:
            value = task.class_names.index(name)
            about = {"case": case.name, "patient": case.patient, "class": name}
            rows += [about | row for row in lesion_rows(pred == value, truth == value, spacing)]
    write_csv(path, HEADER, rows)


def lesion_rows(pred: np.ndarray, truth: np.ndarray, spacing: tuple[float, float, float]) -> list[dict]:
    """Long axis (mm) and covered share of each true lesion, a 26-connected component of a mask [X, Y, Z].

    Then the long axis of each predicted component that has no voxel of a true one.
    """
    found = []
    for mask, other, true in ((truth, pred, True), (pred, truth, False)):
        parts = components(mask, connectivity=3)
        for number, box in enumerate(ndimage.find_objects(parts), start=1):
            part = parts[box] == number
            share = float(other[box][part].mean())
            if true or share == 0:
                found.append({"long_axis": long_axis(part, spacing)} | ({"covered": share} if true else {}))
    return found


def read_lesions(work: Path) -> pd.DataFrame:
    """All rows of W/segment/.../lesions.csv, with their stage and `scans`, the number of its test cases."""
    found = []
    for path in sorted((work / "segment").glob(f"{'*/' * LAYOUT.count('/')}lesions.csv")):
        text = {name: str for name in HEADER[:3]}
        table = read_csv(path, dtype=text, keep_default_na=False, na_values={"covered": [""]})
        scans = read_csv(path.with_name("metrics.csv"), dtype=str, keep_default_na=False)["case"].nunique()
        found.append(table.assign(**vars(SegmentStage.parse(path.parent)), scans=scans))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def detection_table(found: pd.DataFrame) -> pd.DataFrame:
    """A row with `COLUMNS` for each arm and range of long axes; sensitivities over the lesions of all seeds.

    A false positive counts by its own long axis. "lesions" are those of one seed, as all see the same test cases.
    """
    rows = []
    for group, table in found.groupby(GROUP, sort=False):
        seeds = table["seed"].nunique()
        for size, (low, high) in SIZES.items():
            held = table[(table["long_axis"] >= low) & (table["long_axis"] < high)]
            true = held["covered"].dropna()
            rates = [float((true >= least).mean()) if len(true) else np.nan for least in RULES.values()]
            false = (len(held) - len(true)) / seeds / table["scans"].iloc[0]
            rows.append([*group, size, len(true) // seeds, *rates, false])
    rows.sort(key=lambda row: (*row[:4], Arm(*row[4:6]).rank, list(SIZES).index(row[6])))
    return pd.DataFrame(rows, columns=COLUMNS)


def write_detection(work: Path) -> None:
    """Write W/study/lesions.csv and lesions.md; nothing where no segmentation has a class of lesions."""
    found = read_lesions(work)
    if found.empty:
        return
    table = detection_table(found)
    notes = [
        "Lesions of the test cases, 26-connected, by long axis. Sensitivity: share of which one voxel, or half of all, "
        "is found; over all seeds. False positives: predicted components without any voxel of a true lesion.",
    ]
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for row in table.itertuples(index=False):
        shown = ["–" if item != item else f"{item:.3f}" if isinstance(item, float) else str(item) for item in row]
        lines.append("| " + " | ".join(shown) + " |")
    write_csv(work / "study/lesions.csv", None, table)
    with atomic_write(work / "study/lesions.md") as temporary:
        temporary.write_text("\n".join([*notes, "", *lines]) + "\n")
