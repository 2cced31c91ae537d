"""The numbers of the report: the same rows go into the HTML tables and into `tables.csv`."""

import csv
from collections.abc import Iterable
from pathlib import Path

from lldm3d.files import whole
from lldm3d.report.utility import METRICS, Line

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
    rows = []
    for line in lines:
        unit = "mm" if line.metric == "hd95" else ""
        common = {
            "section": "utility",
            "class": line.class_name,
            "unit": unit,
            "direction": "lower" if line.metric == "hd95" else "higher",
        }
        title = METRICS[line.metric].split()[0]
        for regime, cell in line.cells.items():
            if cell.mean is not None:
                name, note = f"{title} {line.network}", f"{cell.seeds} seeds"
                rows.append(
                    {**common, "name": name, "between": regime, "value": cell.mean, "std": cell.std, "n": cell.cases}
                    | {"note": note}
                )
        for regime, gain in line.gains.items():
            low, high = gain.interval or (None, None)
            if gain.absolute is None:
                continue
            sides = {"between": f"{regime} minus R", "n": gain.cases}
            name = f"{title} gain {line.network}"
            rows.append(
                {**common, **sides, "name": name, "value": gain.absolute, "interval_low": low, "interval_high": high}
            )
            rows.append({**common, **sides, "name": f"relative {name}", "value": gain.relative, "unit": "%"})
    return rows


def write_tables(path: Path, rows: Iterable[dict]) -> None:
    """Write the rows as CSV; what is None or absent stays empty."""
    with whole(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", restval="")
        writer.writeheader()
        writer.writerows(rows)


def number(value: float | None, signed: bool = False) -> str:
    """A figure for reading: three digits or so; a dash where there is none."""
    if value is None:
        return "–"
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3 if size >= 0.01 else None
    if value == int(value):
        text = f"{int(value):,}"
    elif digits is None:
        text = f"{value:.2g}" if size >= 1e-4 else f"{value:.1e}"
    else:
        text = f"{value:,.{digits}f}"
    return (f"+{text}" if signed and value > 0 else text).replace("-", "−")
