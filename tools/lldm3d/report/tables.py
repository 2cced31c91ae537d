"""The numbers of the report: the same rows go into the HTML tables and into `tables.csv`."""

import csv
from collections.abc import Iterable
from pathlib import Path

from lldm3d.agreement import METRICS
from lldm3d.files import whole
from lldm3d.study.statistics import Line

COLUMNS = (
    "section",
    "name",
    "class",
    "between",
    "value",
    "interval_low",
    "interval_high",
    "std",
    "n",
    "floor",
    "unit",
    "direction",
    "note",
)


def metric_rows(metrics: dict) -> list[dict]:
    """The rows of an evaluation's `metrics.json`."""
    rows = []
    for row in metrics.get("rows", []):
        low, high = row["interval"] or (None, None)
        rows.append({**row, "section": row["group"], "interval_low": low, "interval_high": high})
    return rows


def utility_rows(lines: Iterable[Line]) -> list[dict]:
    """Each regime and each gain of each line as a row of its own."""
    return [row for line in lines for row in (*cell_rows(line), *gain_rows(line))]


def common(line: Line, name: str) -> dict:
    about = METRICS[line.metric]
    direction = "higher" if about.higher_is_better else "lower"
    name = f"{about.title}{name} {line.network}, {line.task}"
    return {"section": "utility", "name": name, "class": line.class_name, "unit": about.unit, "direction": direction}


def cell_rows(line: Line) -> list[dict]:
    return [
        common(line, "")
        | {
            "between": regime,
            "value": cell.mean,
            "std": cell.std,
            "n": cell.patients,
            "note": f"{len(cell.seeds)} seeds",
        }
        for regime, cell in line.cells.items()
    ]


def gain_rows(line: Line) -> list[dict]:
    rows = []
    for regime, gain in line.gains.items():
        low, high = gain.interval or (None, None)
        sides = {
            "between": f"{regime} minus {gain.reference}",
            "n": gain.patients,
            "note": f"p {gain.p_holm:.2g} (Holm)",
        }
        interval = {"value": gain.absolute, "interval_low": low, "interval_high": high}
        rows.append(common(line, " gain") | sides | interval)
        rows.append(common(line, " relative gain") | sides | {"value": gain.relative, "unit": "%"})
    return rows


def write_tables(path: Path, rows: Iterable[dict]) -> None:
    """Write the rows as CSV; what is None or absent stays empty."""
    with whole(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", restval="")
        writer.writeheader()
        writer.writerows(rows)
