"""Write `report.html` and `tables.csv`: the command `lldm3d report`."""

import csv
from collections.abc import Iterable
from datetime import date
from importlib.resources import files as resources
from itertools import groupby
from pathlib import Path

import yaml
from jinja2 import Environment, StrictUndefined

from lldm3d.agreement import METRICS
from lldm3d.data.dataset import SPLITS, Schema, load_cases, load_schema
from lldm3d.errors import UserError
from lldm3d.evaluation.metrics import number
from lldm3d.files import read_json, whole
from lldm3d.report import comparison as methods_tables
from lldm3d.report import stages, views
from lldm3d.report.comparison import methods_of, read_results
from lldm3d.report.summary import answers
from lldm3d.study.figure import study_figure
from lldm3d.study.scores import read_scores
from lldm3d.study.statistics import Line
from lldm3d.study.statistics import lines as study_lines
from lldm3d.study.tables import TRAINED, study_notes

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
    name = f"{about.title}{name} {line.network}, {line.task}, {TRAINED[line.until]}"
    return {"section": "utility", "name": name, "class": line.class_name, "unit": about.unit, "direction": direction}


def cell_rows(line: Line) -> list[dict]:
    return [
        common(line, "")
        | {
            "between": str(arm),
            "value": cell.mean,
            "std": cell.std,
            "n": cell.patients,
            "note": f"{len(cell.seeds)} seeds",
        }
        for arm, cell in line.cells.items()
    ]


def gain_rows(line: Line) -> list[dict]:
    rows = []
    for arm, gain in line.gains.items():
        low, high = gain.interval or (None, None)
        sides = {
            "between": f"{arm} minus {gain.reference}",
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


FIGURES = ("fidelity", "features", "label_statistics", "alignment", "cases", "nearest_distances", "nearest_pairs")


def report(workdir: str | Path, overwrite: bool = True) -> None:
    """Write W/report/report.html, one file that holds all it shows, and W/report/tables.csv with its numbers.

    What the work directory lacks is named in the report.

    Args:
        workdir: folder of all results.
        overwrite: replace an earlier report.

    Raises:
        UserError: where `workdir` is no folder, the data set or a table in it is broken, or a report must not be
            overwritten.
    """
    work = Path(workdir).resolve()
    if not work.is_dir():
        raise UserError(f"{work}: no such folder; give the work directory of `lldm3d run`")
    path = work / "report" / "report.html"
    if path.exists() and not overwrite:
        raise UserError(f"{path}: exists already; add --overwrite to replace it")
    content = gather(work)
    template = resources("lldm3d.report").joinpath("template.html").read_text()
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = number
    html = environment.from_string(template).render(content)
    write_tables(path.with_name("tables.csv"), content["rows"])
    with whole(path) as temporary:
        temporary.write_text(html)


def gather(work: Path) -> dict:
    """All that the template shows."""
    run, training = stages.read_run(work), stages.stage_metrics(work)
    schema = load_schema(work / "dataset") if (work / "dataset" / "dataset.json").is_file() else None
    cases = all_cases(work)
    path = work / "evaluation" / "metrics.json"
    metrics = read_json(path) if path.is_file() else {}
    lines = study_lines(read_scores(work))
    rows = [
        *utility_rows(lines),
        *metric_rows(metrics),
        *stages.gate_rows(training, run.get("settings", {}).get("gates", {})),
    ]
    curves = stages.loss_curves(training)
    return {
        "title": schema.name if schema else work.name,
        "date": date.today().isoformat(),
        "schema": schema,
        "counts": {name: len(found) for name, found in cases.items()},
        "run": run,
        "settings": yaml.safe_dump(run["settings"], sort_keys=False, width=110) if "settings" in run else "",
        "versions": stages.versions(),
        "commands": stages.commands(work),
        "answers": answers(rows, lines),
        "study": study_tables(lines),
        "study_notes": study_notes(lines, schema.spacing) if schema and lines else [],
        "study_figure": views.embed_figure(study_figure(lines)) if lines else None,
        "comparison": comparison(work, run),
        "measures": METRICS,
        "rows": rows,
        "metrics": metrics,
        "pictures": photos(schema, cases),
        "curves": views.embed_figure(curves) if curves else None,
        "figures": evaluation_figures(work),
        "missing": missing(work),
    }


def study_tables(lines: list[Line]) -> list[dict]:
    """One table for each metric, length of training and network: its lines, and the arms that they have."""
    groups = [list(group) for _, group in groupby(lines, key=lambda line: (line.metric, line.until, line.network))]
    return [
        {
            "lines": group,
            "trained": TRAINED[group[0].until],
            "arms": sorted({arm for line in group for arm in line.cells}, key=lambda arm: arm.rank),
        }
        for group in groups
    ]


def comparison(work: Path, run: dict) -> dict:
    """The table of methods and its pictures; {} where the work directory holds none."""
    folder = work / "comparison"
    if not (folder / "comparison.csv").is_file():
        return {}
    section, methods = run["settings"]["methods"], methods_of(run["methods"])
    results = read_results(work, methods, section["seeds"])
    return {
        "caption": methods_tables.caption(results, section["minutes"]),
        "rows": [*zip(*methods_tables.rows(results, methods), strict=True)],  # a column for each method
        **{name: views.embed_file(folder / f"{name}.png") for name in ("figure", "quality")},
    }


def all_cases(work: Path) -> dict[str, list[dict]]:
    """The cases of each split of the real data, and the synthetic ones; empty where they were not made."""
    found: dict[str, list[dict]] = {}
    real = (work / "dataset" / "dataset.json").is_file()
    for split in SPLITS:
        found[split] = load_cases(work / "dataset", split) if real else []
    made = (work / "synthetic" / "dataset.json").is_file()
    found["synthetic"] = load_cases(work / "synthetic", "training") if made else []
    return found


def photos(schema: Schema | None, cases: dict[str, list[dict]]) -> dict[str, str]:
    """The pictures of pairs and of label maps; {} where there is no data."""
    real = cases["test"] + cases["training"]  # test cases first: no model has seen them
    if schema is None or not (real or cases["synthetic"]):
        return {}
    return {
        "pairs": views.embed_figure(views.pairs(real, cases["synthetic"], schema), photo=True),
        "labels": views.embed_figure(views.labels(real, cases["synthetic"], schema)),
    }


def evaluation_figures(work: Path) -> dict[str, str | None]:
    """The evaluation's figures; None for one that is not there."""
    paths = {name: work / "evaluation" / "figures" / f"{name}.png" for name in FIGURES}
    return {name: views.embed_file(path) if path.is_file() else None for name, path in paths.items()}


def missing(work: Path) -> list[str]:
    """What a whole run would have left, and this one has not."""
    wanted = {
        "dataset/dataset.json": "the prepared data set (`lldm3d prepare`)",
        "synthetic/dataset.json": "the synthetic pairs (stage generate)",
        "evaluation/metrics.json": "the evaluation (stage evaluate)",
        **{f"{stage}/metrics.json": f"the figures of the stage {stage}" for stage in stages.TRAININGS},
    }
    absent = [f"{words}: {name}" for name, words in wanted.items() if not (work / name).is_file()]
    for regime in ("R", "R+S"):
        if not list((work / "segment").glob(f"*/*/*/{regime}/*/seed_*/metrics.csv")):
            absent.append(
                f"segmentation networks tested after training on {regime}: segment/<until>/<network>/<task>/{regime}/"
            )
    return absent
