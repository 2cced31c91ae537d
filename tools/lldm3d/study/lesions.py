"""The lesions of a study one by one: which are found, by their length, and how many are found where there is none."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage
from skimage.measure import label as components

from lldm3d.data.dataset import Task, load_cases, load_schema
from lldm3d.evaluation.metrics import read_csv, write_csv
from lldm3d.files import atomic_write
from lldm3d.lesions.masks import long_axis
from lldm3d.statistics import bootstrap_interval
from lldm3d.study.scores import read_prediction
from lldm3d.study.stages import LAYOUT, Arm, SegmentStage
from lldm3d.study.tables import markdown_table

# mm, share of a true lesion that is predicted (empty of a false one), ml
HEADER = ["case", "patient", "class", "long_axis", "covered", "volume"]
SIZES = {"all": (0, np.inf), "< 10 mm": (0, 10), "10-20 mm": (10, 20), "> 20 mm": (20, np.inf)}
RULES = {"one voxel": np.finfo(float).tiny, "half": 0.5}  # a lesion is found from this share on
PLACE = ["until", "network", "task", "class"]
# what is counted, over what: of a patient
MEASURES = {f"sensitivity, {rule}": [rule, "lesions"] for rule in RULES} | {
    "voxel recall": ["covered volume", "volume"],
    "false positives a scan": ["false", "scans"],
    "false ml a scan without lesions": ["false volume", "scans without"],
}
COLUMNS = [*PLACE, "regime", "pairs", "size", "lesions", *MEASURES]


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
    """Long axis (mm), volume (ml) and covered share of each true lesion, a 26-connected component of a mask [X, Y, Z].

    Then long axis and volume of each predicted component that has no voxel of a true one.
    """
    found = []
    for mask, other, true in ((truth, pred, True), (pred, truth, False)):
        parts = components(mask, connectivity=3)
        for number, box in enumerate(ndimage.find_objects(parts), start=1):
            part = parts[box] == number
            share = float(other[box][part].mean())
            if true or share == 0:
                size = {"long_axis": long_axis(part, spacing), "volume": float(part.sum() * np.prod(spacing)) / 1000}
                found.append(size | ({"covered": share} if true else {}))
    return found


def read_lesions(works: Sequence[Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All rows of W/segment/.../lesions.csv, and the test cases of each, with their stages."""
    found, pattern = ([], []), f"segment/{'*/' * LAYOUT.count('/')}lesions.csv"
    for path in [path for work in works for path in sorted(work.glob(pattern))]:
        stage, text = vars(SegmentStage.parse(path.parent)), {name: str for name in HEADER[:3]}
        table = read_csv(path, dtype=text, keep_default_na=False, na_values={"covered": [""]})
        table = table.reindex(columns=HEADER)  # without volumes in tables of 0.21 and before
        cases = read_csv(path.with_name("metrics.csv"), dtype=str, keep_default_na=False)[["case", "patient"]]
        for held, rows in zip(found, (table, cases.drop_duplicates()), strict=True):
            held.append(rows.assign(**stage))
    return tuple(pd.concat(tables, ignore_index=True) if tables else pd.DataFrame() for tables in found)


def detection_table(found: pd.DataFrame, cases: pd.DataFrame) -> pd.DataFrame:
    """A row with `COLUMNS` for each arm and range of long axes, over the lesions of all seeds.

    Each of `MEASURES` has further columns: `<measure>, low` and `high`, its 95 % interval by a bootstrap over patients,
    and `gain`, `gain low` and `gain high` over the arm's reference, by a paired one. A false positive counts by its own
    long axis. "lesions" are those of one seed, as all see the same test cases.
    """
    rows = []
    for place, table in found.groupby(PLACE, sort=False):
        here = cases[(cases[PLACE[:3]] == place[:3]).all(axis=1)]
        here = here.assign(without=~here["case"].isin(table.loc[table["covered"].notna(), "case"]))
        arms = {Arm(*arm): seen for arm, seen in here.groupby(["regime", "pairs"])}
        for size, (low, high) in SIZES.items():
            held = table[(table["long_axis"] >= low) & (table["long_axis"] < high)]
            counts = {arm: patient_counts(held, arm, seen) for arm, seen in arms.items()}
            for arm, counted in counts.items():
                lesions = int(counted["lesions"].sum()) // arms[arm]["seed"].nunique()
                row = dict(zip(COLUMNS, (*place, *arm, size, lesions), strict=False))
                rows.append(row | measures_of(counted, counts.get(arm.reference)))
    sizes = list(SIZES)
    rows.sort(key=lambda row: (*map(row.get, PLACE), Arm(row["regime"], row["pairs"]).rank, sizes.index(row["size"])))
    return pd.DataFrame(rows)


def patient_counts(held: pd.DataFrame, arm: Arm, seen: pd.DataFrame) -> pd.DataFrame:
    """Of each patient, over all seeds: what `MEASURES` needs of its lesions, and its scans.

    Args:
        held: lesions of all arms.
        seen: test cases of this arm, and whether they are `without` lesions.
    """
    held = held[(held["regime"] == arm.regime) & (held["pairs"] == arm.pairs)]
    true, volume = held["covered"].notna(), held["volume"]
    without = held["case"].isin(seen.loc[seen["without"], "case"])
    values = {
        "lesions": true,
        **{rule: held["covered"] >= least for rule, least in RULES.items()},
        "false": ~true,
        "volume": volume * true,
        "covered volume": volume * held["covered"].fillna(0),
        "false volume": volume * (without & ~true),
    }
    found = pd.DataFrame(values, dtype=float).groupby(held["patient"]).sum(min_count=1)
    scans = seen.groupby("patient")["without"].agg(["size", "sum"]).set_axis(["scans", "scans without"], axis=1)
    return found.reindex(scans.index, fill_value=0).join(scans)


def measures_of(counted: pd.DataFrame, reference: pd.DataFrame | None) -> dict[str, float | None]:
    """Each of `MEASURES` of an arm with its interval, and its gain over the reference, of the patients of both."""
    found = {}
    for name, columns in MEASURES.items():
        own = counted[columns]
        found |= with_interval(name, "", share_of, own.to_numpy(float))
        if reference is not None:
            both = own.join(reference[columns], rsuffix=" before", how="inner").to_numpy(float)
            found |= with_interval(name, "gain", lambda pair: share_of(pair[:, :2]) - share_of(pair[:, 2:]), both)
    return found


def share_of(counts: np.ndarray) -> float:
    """Of counts [patients, 2] the first over the second; nan where there is none of it."""
    part, whole = counts.sum(0)
    return part / whole if whole else np.nan


def with_interval(name: str, kind: str, statistic: Callable, counts: np.ndarray) -> dict[str, float | None]:
    """A statistic of counts [patients, n] and the ends of its interval, as columns of a measure."""
    value = statistic(counts)
    ends = bootstrap_interval(statistic, counts) if np.isfinite(value) else None
    keys = [", ".join(filter(None, (name, f"{kind} {end}".strip()))) for end in ("", "low", "high")]
    return dict(zip(keys, (value, *(ends or (None, None))), strict=True))


def measure_text(row: dict, name: str) -> str:
    """A measure for a Markdown table, its gain on a line of its own."""
    found = []
    for kind, form in (("", ".3f"), ("gain", "+.3f")):
        value, low, high = (row.get(key, np.nan) for key in with_interval(name, kind, lambda _: np.nan, np.empty(0)))
        if pd.notna(value):
            found.append(f"{value:{form}}" + (f" [{low:{form}}, {high:{form}}]" if pd.notna(low) else ""))
    return "<br>".join(found).replace("-", "−") or "–"


def write_detection(works: Sequence[Path], folder: Path) -> None:
    """Write lesions.csv and lesions.md into a folder; nothing where no segmentation has a class of lesions.

    Args:
        works: a work directory, or those of a cross-validation.
    """
    found, cases = read_lesions(works)
    if found.empty:
        return
    table = detection_table(found, cases)
    notes = [
        "Lesions of the test cases, 26-connected, by long axis. Sensitivity: share of which one voxel, or half of all, "
        "is found; over all seeds. Voxel recall: share of their volume. False positives: predicted components without "
        "any voxel of a true lesion; their volume in scans that have no lesion of the class. In brackets 95 % "
        "intervals by a bootstrap over patients; below, with a sign, the gain over the same regime without S, paired "
        "by patient.",
    ]
    lines = [list(COLUMNS), ["---"] * len(COLUMNS)]
    for row in table.to_dict("records"):
        lines.append([measure_text(row, name) if name in MEASURES else str(row[name]) for name in COLUMNS])
    write_csv(folder / "lesions.csv", None, table)
    with atomic_write(folder / "lesions.md") as temporary:
        temporary.write_text("\n".join([*notes, "", markdown_table(lines)]) + "\n")
