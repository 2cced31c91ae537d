"""Write `report.html` and `tables.csv`: the command `lldm3d report`."""

from collections.abc import Iterable
from datetime import date
from itertools import groupby
from pathlib import Path

import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from lldm3d import plots
from lldm3d.agreement import METRICS
from lldm3d.data.dataset import SPLITS, Case, Schema, load_cases, load_schema
from lldm3d.data.regimes import parse_regime, regime_of_folder
from lldm3d.errors import UserError
from lldm3d.evaluation.figures import FIGURES
from lldm3d.evaluation.metrics import format_number, most_copies, read_metrics, write_csv
from lldm3d.files import atomic_write, package_text, read_json
from lldm3d.methods.registry import OURS, load_method
from lldm3d.pairs.folder import manifest_of
from lldm3d.pairs.sources import DRAWN, TRAINING
from lldm3d.report import comparison, pictures, trainings
from lldm3d.report.comparison import evaluation_dir, pairs_dir, source_title
from lldm3d.report.summary import answers, next_step
from lldm3d.report.viewer import script_text, viewer_scripts
from lldm3d.study.figure import study_figure
from lldm3d.study.ladder import NOTES, Ladder, ladder_figure, ladder_tables, ladders
from lldm3d.study.scores import read_ends, read_mixed, read_saw, read_scores
from lldm3d.study.statistics import Line
from lldm3d.study.statistics import lines as study_lines
from lldm3d.study.tables import TRAINED, groups_of, saw_text, study_notes

COLUMNS = (
    *("group", "key", "variant", "name", "class", "compared", "between", "value", "interval_low", "interval_high"),
    *("std", "n", "floor", "unit", "direction", "note"),
)


def utility_rows(lines: Iterable[Line]) -> list[dict]:
    """Each arm and each gain of each line of the study as a row of its own."""
    rows = []
    for line in lines:
        for arm, cell in line.cells.items():
            about = {"between": str(arm), "n": cell.patients, "note": f"{len(cell.seeds)} seeds"}
            rows.append(line_row(line) | about | {"value": cell.mean, "std": cell.std})
        for arm, gain in line.gains.items():
            low, high = gain.interval or (None, None)
            about = {"between": f"{arm} minus {gain.reference}", "n": gain.patients}
            about |= {"note": f"p {gain.p_holm:.2g} (Holm)"}
            interval = {"value": gain.absolute, "interval_low": low, "interval_high": high}
            rows.append(line_row(line, " gain") | about | interval)
            rows.append(line_row(line, " relative gain") | about | {"value": gain.relative, "unit": "%"})
    return rows


def line_row(line: Line, words: str = "") -> dict:
    """What all rows of a line share; `words` say which of its figures a row has."""
    about = METRICS[line.metric]
    name = f"{about.title}{words} {line.network}, {line.task}, {TRAINED[line.until]}"
    common = {"group": "utility", "key": line.metric + words.replace(" ", "_"), "name": name, "class": line.class_name}
    return common | {"unit": about.unit, "direction": "higher" if about.higher_is_better else "lower"}


def step_rows(found: Iterable[Ladder]) -> list[dict]:
    """The difference of each rung of each ladder to the one above it."""
    rows = []
    for one in found:
        for rung in (rung for rung in one.rungs if rung.step):
            low, high = rung.step.interval or (None, None)
            row = {"group": "ladder", "key": "dice_step", "class": one.class_name, "n": rung.step.patients}
            row |= {"name": f"Dice step {one.network}, {one.task}, {TRAINED[one.until]}", "direction": "higher"}
            row |= {"between": f"{one.method}: {rung.source} minus {rung.above}", "value": rung.step.absolute}
            rows.append(row | {"interval_low": low, "interval_high": high, "note": f"{len(rung.step.seeds)} seeds"})
    return rows


ROOM = 12_000_000  # characters of report.html: what a mail server lets through
MADE = ("dataset", "methods", "pairs", "segment", "study", "evaluation", "comparison")  # in a work directory
MARKUP = 10_000  # of which those of the viewer's controls, and more


def report(workdir: str | Path, overwrite: bool = True) -> None:
    """Write W/report/report.html, one file that holds all it shows, and W/report/tables.csv with its numbers.

    What the work directory lacks is named in the report.

    Args:
        workdir: folder of all results.
        overwrite: replace an earlier report.

    Raises:
        UserError: where `workdir` is no folder or holds nothing to report on, the data set or a table in it is broken,
            or a report must not be overwritten.
    """
    work = Path(workdir).resolve()
    if not work.is_dir():
        raise UserError(f"{work}: no such folder; give the work directory of `lldm3d run`")
    if not any((work / name).exists() for name in ("run.yaml", *MADE)):
        raise UserError(f"{work}: holds nothing that `lldm3d run` or `study` makes; give their work directory")
    path = work / "report" / "report.html"
    if path.exists() and not overwrite:
        raise UserError(f"{path}: exists already; add --overwrite to replace it")
    content = gather(work)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": format_number, "anchor": anchor, "code": with_code}
    template = environment.from_string(package_text("report/template.html"))
    html = template.render(content, viewer=None)
    if scripts := viewer_scripts(content["cases"], content["schema"], ROOM - len(html) - MARKUP):
        html = template.render(content, viewer=scripts)
    write_csv(path.with_name("tables.csv"), COLUMNS, content["rows"])
    with atomic_write(path) as temporary:
        temporary.write_text(html)


def anchor(question: str) -> str:
    """The id of the section that answers a question."""
    return question.rstrip("?").lower().replace(" ", "-")


def with_code(text: str) -> Markup:
    """A sentence in HTML, with commands between backticks as code."""
    parts = [
        Markup("<code>{}</code>").format(part) if i % 2 else escape(part) for i, part in enumerate(text.split("`"))
    ]
    return Markup("").join(parts)


def gather(work: Path) -> dict:
    """All that the template shows."""
    run, schema = trainings.read_run(work), None
    if (work / "dataset" / "dataset.json").is_file():
        schema = load_schema(work / "dataset")
    path = work / "comparison" / "comparison.json"
    compared = read_json(path) if path.is_file() else {}  # methods, sources, seeds, minutes
    method, source, seed = first_evaluation(work, compared)
    evaluation = evaluation_dir(work, method, source, seed)
    metrics = read_metrics(evaluation / "metrics.json") if (evaluation / "metrics.json").is_file() else {}
    charts = {name: evaluation / "figures" / f"{name}.png" for name in FIGURES}
    cases = all_cases(work, pairs_dir(work, method, source, seed))
    curves = trainings.training_metrics(work, compared.get("methods", [method]), seed)
    settings = run.get("settings", {}).get("methods", {})
    scores, ends = read_scores(work), read_ends(work)
    about = (ends, read_saw(work), read_mixed(work))
    lines, rungs = study_lines(scores), ladders(scores)
    rows = [*utility_rows(lines), *step_rows(rungs), *metrics.get("rows", []), *trainings.gate_rows(curves, settings)]
    return {
        **{"run": run, "schema": schema, "metrics": metrics, "rows": rows, "seed": seed},
        "title": schema.name if schema else work.name,
        "date": date.today().isoformat(),
        "counts": {name: len(found) for name, found in cases.items()},
        # test cases first: no model has seen them
        "cases": (shown := {"real": cases["test"] + cases["training"], "synthetic": cases["synthetic"]}),
        "colours": [plots.colour(value) for value in range(1, len(schema.class_names))] if schema else [],
        "script": script_text(package_text("report/report.js")),
        "method": load_method(method).title,
        "source": source_title(source),
        "saw": saw_text(manifest_of(pairs_dir(work, method, source, seed)).get("saw")),
        "settings": yaml.safe_dump(run["settings"], sort_keys=False, width=110) if "settings" in run else "",
        "versions": trainings.versions(),
        "commands": trainings.commands(work),
        "answers": (answered := answers(rows, lines, elsewhere := copies_elsewhere(work, evaluation))),
        "next": next_step(lines, copied=bool(elsewhere) or answered[-1]["tone"] == "bad"),
        "study": study_tables(lines),
        "study_notes": study_notes(lines, schema.spacing, *about) if schema and lines else [],
        "study_figure": pictures.embed_figure(study_figure(lines)) if lines else None,
        "ladder": {"notes": NOTES, "tables": ladder_tables(rungs, ends)},
        "ladder_figure": pictures.embed_figure(ladder_figure(rungs)) if rungs else None,
        "comparison": comparison_tables(work, compared),
        "pictures": photos(schema, **shown),
        "curves": pictures.embed_figure(figure) if (figure := trainings.loss_curves(curves)) else None,
        "figures": {name: pictures.embed_file(path) if path.is_file() else None for name, path in charts.items()},
        "missing": missing(work, method, source, seed),
    }


def first_evaluation(work: Path, compared: dict) -> tuple[str, str, int]:
    """The method, source of labels and seed that the report shows in detail: the first that was evaluated.

    Where nothing was compared yet, the first by name of the evaluations that are there, or what a run begins with.
    """
    if compared:
        method, seed = compared["methods"][0], compared["seeds"][0]
        return method, comparison.evaluated_sources(work, method, compared["sources"], seed)[0], seed
    found = sorted((work / "evaluation").glob("*/*/seed_*/metrics.json"))
    if not found:
        return OURS, "drawn", 0
    method, source, seed = found[0].parts[-4:-1]
    return method, source, int(seed.removeprefix("seed_"))


def copies_elsewhere(work: Path, shown: Path) -> str:
    """Where among the pairs that the report does not show in detail most near copies were found; "" for none."""
    paths = sorted(work.glob("evaluation/*/*/seed_*/metrics.json"))
    found = most_copies(path for path in paths if path.parent != shown and path.parts[-3] in (DRAWN, TRAINING))
    if found is None or not found[1]:
        return ""
    return f"of the pairs {'/'.join(found[0].parts[-4:-1])} {found[1]:.1%} are near copies"


def study_tables(lines: list[Line]) -> list[dict]:
    """One table for each metric, length of training and network: its lines, and the arms that they have."""
    tables = []
    for title, group in groups_of(lines):
        for network, of_network in groupby(group, key=lambda line: line.network):
            found = list(of_network)
            arms = sorted({arm for line in found for arm in line.cells}, key=lambda arm: arm.rank)
            tables.append({"title": f"{network}: {title}", "lines": found, "arms": arms})
    return tables


def comparison_tables(work: Path, compared: dict) -> dict:
    """The tables of methods and their pictures; {} before they were written."""
    if not compared:
        return {}
    methods = {name: load_method(name) for name in compared["methods"]}
    results = comparison.read_results(work, compared["methods"], compared["sources"], compared["seeds"])
    tables = comparison.tables_by_source(results, methods).items()
    return {
        "notes": comparison.comparison_notes(results, compared["minutes"]),
        "tables": {source_title(source): [*zip(*table, strict=True)] for source, table in tables},  # a column a method
        **{name: pictures.embed_file(work / "comparison" / f"{name}.png") for name in ("figure", "quality")},
    }


def all_cases(work: Path, pairs: Path) -> dict[str, list[Case]]:
    """The cases of each split of the real data, and the synthetic ones; empty where they were not made."""
    real = (work / "dataset" / "dataset.json").is_file()
    found = {split: load_cases(work / "dataset", split) if real else [] for split in SPLITS}
    made = (pairs / "dataset.json").is_file()
    return found | {"synthetic": load_cases(pairs, "training") if made else []}


def photos(schema: Schema | None, real: list[Case], synthetic: list[Case]) -> dict[str, str]:
    """The pictures of pairs and of label maps; {} where there is no data."""
    if schema is None or not (real or synthetic):
        return {}
    return {
        "pairs": pictures.embed_figure(pictures.pairs_figure(real, synthetic, schema), photo=True),
        "labels": pictures.embed_figure(pictures.labels_figure(real, synthetic, schema)),
    }


def missing(work: Path, method: str, source: str, seed: int) -> list[str]:
    """What a complete run would have left, and this one has not."""
    evaluation, pairs = evaluation_dir(work, method, source, seed), pairs_dir(work, method, source, seed)
    wanted = {
        work / "dataset/dataset.json": "the prepared data set (`lldm3d prepare`)",
        pairs / "dataset.json": "synthetic pairs",
        evaluation / "metrics.json": "their evaluation",
        work / "comparison/comparison.json": "the comparison of methods",
    }
    absent = [f"{words}: {path.relative_to(work)}" for path, words in wanted.items() if not path.is_file()]
    found = (work / "segment").glob("*/*/*/*/*/seed_*/metrics.csv")
    tested = {regime_of_folder(path.parents[2].name) for path in found}
    if parse_regime("R") not in tested:
        absent.append("segmentation networks tested after training on R")
    if not any(regime.beside_all for regime in tested):
        absent.append("segmentation networks tested after training on real and synthetic pairs, as R+S")
    return absent
