"""The study's tables: Markdown for reading, LaTeX for a manuscript, CSV for programs."""

import csv
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from lldm3d import plots
from lldm3d.agreement import METRICS, tolerance_of
from lldm3d.data.dataset import load_schema
from lldm3d.errors import UserError
from lldm3d.files import whole
from lldm3d.study.figure import figure
from lldm3d.study.scores import Score, read_scores
from lldm3d.study.statistics import LEVEL, Line, lines

DASH = "–"


def caption(found: Sequence[Line], spacing: Sequence[float]) -> list[str]:
    """What a reader must know to read the tables, one sentence or two each."""
    notes = [
        "Each network was trained for the same number of steps with the same augmentation in every regime, and tested "
        "on the same real patients.",
        "Values are means over patients, ± standard deviation over seeds. Gains are against the same regime without "
        "synthetic pairs (S: against R), by patient and averaged over the seeds: absolute, with a 95 % bootstrap "
        "interval over patients, and in per cent of the reference.",
        f"The star marks p < {LEVEL} in Wilcoxon's signed-rank test over patients, after Holm's correction over all "
        "gains of the metric (all networks, tasks, classes and regimes), and the same sign in each of two seeds "
        "or more. Interval and test tell of "
        "other patients, not of other trainings: for these there are only the seeds.",
        f"Surface Dice has a tolerance of {tolerance_of(spacing):g} mm. HD95 leaves out patients in whom nothing of "
        "the class was found.",
    ]
    if any(regime[0].isdigit() and "S" in regime for line in found for regime in line.cells):
        notes.append(
            "The synthetic pairs come from models that saw all real training patients, also where a network learns "
            "from a share of them (0.1R+S): that asks what another site's synthetic data is worth to a site with few "
            "patients, not what models trained on few patients could give."
        )
    return notes


def markdown(found: Sequence[Line], spacing: Sequence[float]) -> str:
    """One table for each metric: rows are tasks and classes, columns networks and regimes."""
    parts = ["# Study: real (R) and synthetic (S) training data", *caption(found, spacing)]
    for metric, group in groupby(found, key=lambda line: line.metric):
        rows, columns = rows_and_columns(list(group))
        about = METRICS[metric]
        unit = f" ({about.unit})" if about.unit else ""
        parts.append(f"## {about.title}{unit}, {'higher' if about.higher_is_better else 'lower'} is better")
        head = ["task", "class", *(f"{network} {regime}" for network, regime in columns)]
        body = [
            [
                task,
                name,
                *(f"{value(by.get(network), regime)}{gained(by.get(network), regime)}" for network, regime in columns),
            ]
            for (task, name), by in rows.items()
        ]
        table = [head, ["---", "---", *["---:"] * len(columns)], *body]
        parts.append("\n".join(f"| {' | '.join(cells)} |" for cells in table))
    return "\n\n".join(parts) + "\n"


def rows_and_columns(found: Sequence[Line]) -> tuple[dict, list[tuple[str, str]]]:
    """{(task, class): {network: line}}, and (network, regime) for all of the columns."""
    rows: dict[tuple[str, str], dict[str, Line]] = {}
    columns: dict[str, dict[str, None]] = {}
    for line in found:
        rows.setdefault((line.task, line.class_name), {})[line.network] = line
        columns.setdefault(line.network, {}).update(dict.fromkeys(line.cells))
    return rows, [(network, regime) for network, regimes in columns.items() for regime in regimes]


def digits(line: Line) -> int:
    return 2 if METRICS[line.metric].unit else 3


def value(line: Line | None, regime: str) -> str:
    """Mean and standard deviation over seeds."""
    if line is None or regime not in line.cells:
        return DASH
    cell = line.cells[regime]
    return f"{cell.mean:.{digits(line)}f}" + (f" ± {cell.std:.{digits(line)}f}" if cell.std is not None else "")


def gained(line: Line | None, regime: str) -> str:
    """The gain for a cell of the Markdown table, on a line of its own."""
    if line is None or regime not in line.gains:
        return ""
    gain, width = line.gains[regime], digits(line)
    interval = f" [{gain.interval[0]:+.{width}f}, {gain.interval[1]:+.{width}f}]" if gain.interval else ""
    relative = f", {gain.relative:+.1f} %" if gain.relative is not None else ""
    star = "*" if gain.clear else ""
    text = f"{gain.absolute:+.{width}f}{interval}{relative}".replace("-", "−")
    return f"<br>{text}{star}"


TEX = str.maketrans(
    {sign: f"\\{sign}" for sign in "_%&#${}"}
    | {"±": "$\\pm$", "<": "$<$", ">": "$>$", "^": "\\^{}", "~": "\\~{}", "\\": "\\textbackslash{}"}
)


def latex(found: Sequence[Line], spacing: Sequence[float]) -> str:
    """The same as `table` environments for a preamble with `booktabs`; the gain stands below its value."""
    tables, notes = [], caption(found, spacing)
    for metric, group in groupby(found, key=lambda line: line.metric):
        tables.append(latex_table(metric, list(group), notes))
        notes = ["Otherwise as in the table before."]
    return "% needs \\usepackage{booktabs}\n" + "\n\n".join(tables) + "\n"


def latex_table(metric: str, found: list[Line], notes: list[str]) -> str:
    rows, columns = rows_and_columns(found)
    about, networks = METRICS[metric], list(dict.fromkeys(network for network, _ in columns))
    counts = [sum(network == name for network, _ in columns) for name in networks]
    spans = " & ".join(
        f"\\multicolumn{{{count}}}{{c}}{{{tex(name)}}}" for name, count in zip(networks, counts, strict=True)
    )
    starts = [3 + sum(counts[:index]) for index in range(len(counts))]
    rules = "".join(f"\\cmidrule(lr){{{at}-{at + count - 1}}}" for at, count in zip(starts, counts, strict=True))
    body = []
    for (task, name), by in rows.items():
        cells = [by.get(network) for network, _ in columns]
        regimes = [regime for _, regime in columns]
        values = [
            value(*pair).replace(" ± ", "$\\pm$").replace(DASH, "--") for pair in zip(cells, regimes, strict=True)
        ]
        body.append(f"{tex(task)} & {tex(name)} & {' & '.join(values)} \\\\")
        body.append(f" & & {' & '.join(latex_gain(*pair) for pair in zip(cells, regimes, strict=True))} \\\\")
    unit = f" ({about.unit})" if about.unit else ""
    good = "higher" if about.higher_is_better else "lower"
    return "\n".join(
        [
            "\\begin{table}",
            f"\\caption{{{about.title}{unit}, {good} is better. {tex(' '.join(notes))}}}",
            f"\\begin{{tabular}}{{ll{'r' * len(columns)}}}",
            "\\toprule",
            f" & & {spans} \\\\ {rules}",
            f"Task & Class & {' & '.join(tex(regime) for _, regime in columns)} \\\\",
            "\\midrule",
            *body,
            "\\bottomrule",
            "\\end{tabular}",
            "\\end{table}",
        ]
    )


def latex_gain(line: Line | None, regime: str) -> str:
    """The relative gain, as in the paper; the absolute one where there is none."""
    if line is None or regime not in line.gains:
        return ""
    gain = line.gains[regime]
    text = f"{gain.relative:+.1f}\\,\\%" if gain.relative is not None else f"{gain.absolute:+.{digits(line)}f}"
    return f"{{\\scriptsize ${text}$}}" + ("*" if gain.clear else "")


def tex(text: str) -> str:
    """Text as LaTeX prints it."""
    return text.translate(TEX)


SCORES = ("network", "task", "regime", "seed", "case", "patient", "class", "metric", "value", "unit")
GAINS = (
    *("metric", "unit", "network", "task", "class", "regime", "seeds", "patients", "mean", "std", "reference"),
    *("gain", "gain_low", "gain_high", "gain_percent", "gain_patients", "gain_seeds", "p", "p_holm", "clear"),
)


def write(work: Path) -> None:
    """Write W/study: `study.csv`, `gains.csv`, `table.md`, `table.tex` and `figure.png`, of all that was trained.

    Raises UserError where no segmentation was tested, or a table of one is broken.
    """
    scores, folder = read_scores(work), work / "study"
    if not scores:
        raise UserError(f"{work}/segment: no segmentation was tested yet; train them with `lldm3d study`")
    found, spacing = lines(scores), load_schema(work / "dataset").spacing
    write_rows(folder / "study.csv", SCORES, score_rows(scores))
    write_rows(folder / "gains.csv", GAINS, gain_rows(found))
    for name, text in (("table.md", markdown(found, spacing)), ("table.tex", latex(found, spacing))):
        with whole(folder / name) as temporary:
            temporary.write_text(text)
    plots.save(figure(found), folder / "figure.png")


def score_rows(scores: Iterable[Score]) -> Iterable[dict]:
    for score in scores:
        yield {**vars(score), "class": score.class_name, "unit": METRICS[score.metric].unit}


def gain_rows(found: Iterable[Line]) -> Iterable[dict]:
    """One row for each regime of each line, with its gain where it has a reference."""
    for line in found:
        common = {"metric": line.metric, "unit": METRICS[line.metric].unit, "network": line.network, "task": line.task}
        for regime, cell in line.cells.items():
            row = {**common, "class": line.class_name, "regime": regime, "mean": cell.mean, "std": cell.std}
            row |= {"seeds": len(cell.seeds), "patients": cell.patients}
            if gain := line.gains.get(regime):
                low, high = gain.interval or (None, None)
                row |= {"reference": gain.reference, "gain": gain.absolute, "gain_low": low, "gain_high": high}
                row |= {"gain_percent": gain.relative, "gain_patients": gain.patients, "gain_seeds": len(gain.seeds)}
                row |= {"p": gain.p, "p_holm": gain.p_holm, "clear": gain.clear}
            yield row


def write_rows(path: Path, columns: Iterable[str], rows: Iterable[dict]) -> None:
    """Write rows as CSV; what is None or absent stays empty."""
    with whole(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, list(columns), extrasaction="ignore", restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
