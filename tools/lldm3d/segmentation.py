"""The results of a segmentation bundle's evaluation."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

from lldm3d.errors import UserError
from lldm3d.files import whole

# column of metrics.csv: name of the metric in the bundles' evaluate.yaml
METRICS = {"dice": "val_mean_dice", "hd95": "val_hd95"}


def write_case_metrics(evaluation_dir: str | Path, class_names: Sequence[str], path: str | Path) -> None:
    """Merge the files that MONAI's MetricsSaver left into one table `case,class,dice,hd95` (hd95 in mm).

    A value that is not defined, such as the distance to a class that was not found, stays empty.

    Args:
        evaluation_dir: holds `val_mean_dice_raw.csv` and `val_hd95_raw.csv`.
        class_names: with background, which was not measured.
        path: the table to write.

    Raises:
        UserError: where a file is missing, or has other cases or classes.
    """
    columns = {
        column: read_raw(Path(evaluation_dir) / f"{name}_raw.csv", class_names) for column, name in METRICS.items()
    }
    cases = columns["dice"].keys()
    if cases != columns["hd95"].keys():
        raise UserError(
            f"{evaluation_dir}: the files {', '.join(METRICS.values())} name different cases; evaluate again"
        )
    with whole(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["case", "class", *columns])
        for case, name in sorted(cases):
            writer.writerow([case, name, *(values[case, name] for values in columns.values())])


def read_raw(path: Path, class_names: Sequence[str]) -> dict[tuple[str, str], str]:
    """Read (case, class) -> value from a `*_raw.csv` of MetricsSaver: filename, class0, class1, ..., mean."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; run the segmentation bundle's `evaluating` with configs/evaluate.yaml")
    with open(path, newline="") as file:
        _, *rows = csv.reader(file)
    names = class_names[1:]
    if any(len(row) != len(names) + 2 for row in rows):
        raise UserError(
            f"{path}: has {len(rows[0]) - 2} classes, but the data set has {len(names)} ({', '.join(names)})"
        )
    return {
        (Path(filename).name.removesuffix(".nii.gz"), name): value if math.isfinite(float(value)) else ""
        for filename, *values, _mean in rows
        for name, value in zip(names, values, strict=True)
    }
