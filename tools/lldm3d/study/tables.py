"""The study's tables: Markdown for reading, LaTeX for a manuscript, CSV for programs."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

import pandas as pd

from lldm3d import plots
from lldm3d.agreement import METRICS, tolerance_of
from lldm3d.data.dataset import load_schema
from lldm3d.data.regimes import parse_regime
from lldm3d.errors import UserError
from lldm3d.evaluation.metrics import write_csv
from lldm3d.files import atomic_write
from lldm3d.study.figure import study_figure
from lldm3d.study.scores import SCORES, read_ends, read_mixed, read_saw, read_scores
from lldm3d.study.stages import CAP, REAL, Arm, SegmentStage
from lldm3d.study.statistics import LEVEL, Line, lines

DASH = "–"
STARS = {"better": "*", "worse": "* (harm)", "unclear": ""}
TRAINED = {"steps": "trained for equal steps", "convergence": "trained to convergence"}


Saw = Sequence[tuple[SegmentStage, dict | None]]  # as `read_saw` gives it


def study_notes(
    found: Sequence[Line],
    spacing: Sequence[float],
    ends: pd.DataFrame | None = None,
    saw: Saw = (),
    mixed: Sequence[str] = (),
    folds: int = 1,
) -> list[str]:
    """What a reader must know to read the tables, one sentence or two each.

    Args:
        ends: of the trainings to convergence, as `read_ends` gives them.
        saw: what the generators of the pairs saw, as `read_saw` gives it.
        mixed: segmentations whose seeds cannot be averaged, as `read_mixed` gives them.
        folds: of a cross-validation.
    """
    regimes = [parse_regime(arm.regime) for arm in {arm for line in found for arm in line.cells}]
    untils, two = {line.until for line in found}, any(len(regime.phases) > 1 for regime in regimes)
    notes = ["In every regime a network is trained with the same augmentation, and tested on the same real patients."]
    if folds > 1:
        notes.append(
            f"Cross-validation of {folds} folds: each patient is tested once, by networks and generators that learnt "
            "from the other folds alone."
        )
    if "steps" in untils:
        half = "; S>R takes about half of them on S, the others on R" if two else ""
        notes.append(f"Trained for equal steps: the same number of steps in every regime{half}.")
    if "convergence" in untils:
        each = " (S>R: by both trainings together)" if two else ""
        notes.append(
            "Trained to convergence: until the loss of the real validation cases had not fallen for a number of "
            f"validations, or {CAP} times the equal steps were taken{each}. The steps differ "
            f"between trainings: a gain may come from more of them. {cap_note(ends)}".rstrip()
        )
    notes += [
        "Values are means over patients, ± standard deviation over seeds. Gains are against the same regime without "
        "synthetic pairs (S and S>R: against R), of the same network, task and length of training, by patient and "
        "averaged over the seeds: absolute, with a 95 % bootstrap interval over patients, and in per cent of the "
        "reference.",
        f"The star marks p < {LEVEL} in Wilcoxon's signed-rank test over patients, after Holm's correction over all "
        "gains of the metric (all networks, tasks, classes, regimes, pairs and lengths of training), and the same sign "
        "in each of two seeds or more; where the synthetic pairs do harm it says so. Interval and test speak of other "
        "patients, not of other trainings: for these there are only the seeds.",
        f"Surface Dice has a tolerance of {tolerance_of(spacing):g} mm. HD95 leaves out patients in whom nothing of "
        "the class was found.",
    ]
    if mixed:
        notes.append(
            f"The seeds of {', '.join(mixed)} were trained with different settings or on different pairs, as not all "
            "were trained again; a study of all of them mends their means."
        )
    return [*notes, *saw_notes(saw)]


def saw_notes(saw: Saw) -> list[str]:
    """Of each pairs what their generator saw of the real patients, and where that is more than the network sees."""
    notes = []
    for pairs in sorted({stage.pairs for stage, _ in saw}):
        own = [(stage, limits) for stage, limits in saw if stage.pairs == pairs]
        notes += [f"{pairs}: {text}." for text in sorted({saw_text(limits) for _, limits in own})]
        if more := sorted({stage.regime for stage, limits in own if saw_more(stage, limits)}):
            notes.append(
                f"{pairs}: in {', '.join(more)} the generator saw labels of patients whom the network does not see. "
                "That asks what another site's synthetic data is worth to a site with few patients, not what models "
                "trained on few patients could give."
            )
    return notes


def cap_note(ends: pd.DataFrame | None) -> str:
    """How many trainings to convergence, and of which networks and arms, ended at the cap; "" where none is known."""
    if ends is None or ends.empty:
        return ""
    counts = ends.groupby(["network", "regime", "pairs"], sort=False)["capped"].agg(["sum", "size"])
    named = [f"{network} {Arm(*arm)} {some} of {all_}" for (network, *arm), some, all_ in counts.itertuples() if some]
    capped = f"{ends['capped'].sum()} of {len(ends)} trainings to convergence ended at {CAP} times the equal steps"
    return f"{capped} instead of by patience{': ' if named else ''}{', '.join(named)}."


def saw_text(limits: dict | None) -> str:
    """What the manifest of pairs says of their generator, in words."""
    if limits is None:
        return "the pairs do not say which real patients their generator saw"
    labelled, others, share = (limits[key] for key in ("labelled_patients", "unlabelled_patients", "label_fraction"))
    further = f"the images of {others} others without labels" if others else ""
    if voted := limits.get("pseudo_labelled_patients"):
        further = f"the images of {voted} others with labels by networks that saw no more"
    if share < 1:
        seen = f"the labels of {labelled} training patients ({share:g}R) and {further or 'nothing of any others'}"
    else:
        seen = f"the labels of all {labelled} training patients" + (f" and {further}" if further else "")
    return f"the generator saw {seen}"


def saw_more(stage: SegmentStage, limits: dict | None) -> bool:
    """Whether in a scarce regime the generator saw labels of other patients than the network, as far as it is known."""
    share = parse_regime(stage.regime).real
    if limits is None or not 0 < share < 1:
        return False
    return limits["label_fraction"] > share or limits["seed"] != stage.seed  # smaller shares lie within larger ones


def groups_of(found: Sequence[Line]) -> list[tuple[str, list[Line]]]:
    """The title and the lines of each table: one for each metric and length of training."""
    tables = []
    for (metric, until), group in groupby(found, key=lambda line: (line.metric, line.until)):
        about = METRICS[metric]
        unit, good = f" ({about.unit})" if about.unit else "", "higher" if about.higher_is_better else "lower"
        tables.append((f"{about.title}{unit}, {good} is better; {TRAINED[until]}", list(group)))
    return tables


def study_markdown(found: Sequence[Line], notes: Sequence[str]) -> str:
    """Rows are tasks and classes, columns networks and arms, under the notes that `study_notes` gives."""
    parts = ["# Study: real (R) and synthetic (S) training data", *notes]
    for title, group in groups_of(found):
        rows, columns = rows_and_columns(group)
        head = ["task", "class", *(f"{network} {arm}" for network, arm in columns)]
        table = [head, ["---", "---", *["---:"] * len(columns)]]
        for place, by in rows.items():
            cells = [(by.get(network), arm) for network, arm in columns]
            table.append([*place, *(mean_text(*cell) + gain_text(*cell) for cell in cells)])
        parts += [f"## {title}", markdown_table(table)]
    return "\n\n".join(parts) + "\n"


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, in which a sign of the table stands as itself."""
    # a class may be named like a tag, which viewers of Markdown would run; the only tag of our own is a new line
    safe = [[cell.replace("|", "\\|").replace("<", "&lt;").replace("&lt;br>", "<br>") for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in safe)


def rows_and_columns(found: Sequence[Line]) -> tuple[dict, list[tuple[str, Arm]]]:
    """{(task, class): {network: line}}, and (network, arm) for all of the columns."""
    rows: dict[tuple[str, str], dict[str, Line]] = {}
    columns: dict[str, set[Arm]] = {}
    for line in found:
        rows.setdefault((line.task, line.class_name), {})[line.network] = line
        columns.setdefault(line.network, set()).update(line.cells)
    return rows, [(network, arm) for network, arms in columns.items() for arm in sorted(arms, key=lambda arm: arm.rank)]


def decimals(line: Line) -> int:
    return 2 if METRICS[line.metric].unit else 3


def mean_text(line: Line | None, arm: Arm) -> str:
    """Mean and standard deviation over seeds."""
    if line is None or arm not in line.cells:
        return DASH
    cell, width = line.cells[arm], decimals(line)
    return f"{cell.mean:.{width}f}" + (f" ± {cell.std:.{width}f}" if cell.std is not None else "")


def gain_text(line: Line | None, arm: Arm) -> str:
    """The gain for a Markdown table, on a line of its own."""
    if line is None or arm not in line.gains:
        return ""
    gain, width = line.gains[arm], decimals(line)
    interval = f" [{gain.interval[0]:+.{width}f}, {gain.interval[1]:+.{width}f}]" if gain.interval else ""
    relative = f", {gain.relative:+.1f} %" if gain.relative is not None else ""
    text = f"{gain.absolute:+.{width}f}{interval}{relative}".replace("-", "−")
    return f"<br>{text}{STARS[line.verdict(arm)]}"


TEX = str.maketrans(
    {sign: f"\\{sign}" for sign in "_%&#${}"}
    | {"±": "$\\pm$", "<": "$<$", ">": "$>$", "^": "\\^{}", "~": "\\~{}", "\\": "\\textbackslash{}", DASH: "--"}
    | {"↓": "$\\downarrow$", "↑": "$\\uparrow$", "°": "$^\\circ$", "−": "$-$"}
)


def tex(text: str) -> str:
    """Text as LaTeX prints it."""
    return text.translate(TEX)


def study_latex(found: Sequence[Line], notes: Sequence[str]) -> str:
    """The same as `table` environments for a preamble with `booktabs`; the gain stands below its value."""
    tables, caption = [], " ".join(notes)
    for title, group in groups_of(found):
        tables.append(latex_table(f"{title}. {caption}", group))
        caption = "Otherwise as in the table before."
    return "% needs \\usepackage{booktabs}\n" + "\n\n".join(tables) + "\n"


def latex_table(caption: str, found: Sequence[Line]) -> str:
    rows, columns = rows_and_columns(found)
    networks = [(network, len(list(group))) for network, group in groupby(columns, key=lambda column: column[0])]
    spans = [f"\\multicolumn{{{count}}}{{c}}{{{tex(network)}}}" for network, count in networks]
    ends = [2 + sum(count for _, count in networks[: index + 1]) for index in range(len(networks))]
    rules = [f"\\cmidrule(lr){{{end - count + 1}-{end}}}" for end, (_, count) in zip(ends, networks, strict=True)]
    pairs = ["" if arm.pairs == REAL else tex(arm.pairs) for _, arm in columns]
    lines = [
        f"\\begin{{table}}\n\\caption{{{tex(caption)}}}",
        f"\\begin{{tabular}}{{ll{'r' * len(columns)}}}\n\\toprule",
        f" & & {' & '.join(spans)} \\\\ {''.join(rules)}",
        f"Task & Class & {' & '.join(tex(arm.regime) for _, arm in columns)} \\\\",
        f" & & {' & '.join(pairs)} \\\\",
        "\\midrule",
    ]
    for (task, name), by in rows.items():
        means = [tex(mean_text(by.get(network), arm)) for network, arm in columns]
        gains = [latex_gain(by.get(network), arm) for network, arm in columns]
        lines += [f"{' & '.join(row)} \\\\" for row in ([tex(task), tex(name), *means], ["", "", *gains])]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", "\\end{table}"])


def latex_gain(line: Line | None, arm: Arm) -> str:
    """The relative gain, as in the paper; the absolute one where there is none."""
    if line is None or arm not in line.gains:
        return ""
    gain = line.gains[arm]
    text = f"{gain.relative:+.1f}\\,\\%" if gain.relative is not None else f"{gain.absolute:+.{decimals(line)}f}"
    return f"{{\\scriptsize ${text}${STARS[line.verdict(arm)]}}}"


def write_study(works: Sequence[Path], folder: Path) -> None:
    """Write `study.csv`, `gains.csv`, `table.md`, `table.tex` and `figure.png` of all that was trained.

    Args:
        works: a work directory, or those of a cross-validation, whose test patients are taken together.
        folder: of the files.

    Raises:
        UserError: where no segmentation was tested, or a table of one is broken.
    """
    scores = pd.concat(map(read_scores, works), ignore_index=True)
    if scores.empty:
        raise UserError(f"{works[0]}/segment: no segmentation was tested yet; train them with `lldm3d study`")
    ends, saw = pd.concat(map(read_ends, works), ignore_index=True), [item for work in works for item in read_saw(work)]
    found = lines(scores)
    mixed = [name for work in works for name in read_mixed(work)]
    notes = study_notes(found, load_schema(works[0] / "dataset").spacing, ends, saw, mixed, len(works))
    units = scores["metric"].map(lambda metric: METRICS[metric].unit)
    write_csv(folder / "study.csv", [*SCORES, "unit"], scores.assign(unit=units))
    write_csv(folder / "gains.csv", None, gain_table(found))
    for name, text in (("table.md", study_markdown), ("table.tex", study_latex)):
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text(found, notes))
    plots.save(study_figure(found), folder / "figure.png")


def gain_table(found: Iterable[Line]) -> pd.DataFrame:
    """One row for each arm of each line, with its gain where it has a reference."""
    rows = []
    for line in found:
        for arm, cell in line.cells.items():
            row = {"metric": line.metric, "unit": METRICS[line.metric].unit, "until": line.until}
            row |= {"network": line.network, "task": line.task, "class": line.class_name, **arm._asdict()}
            row |= {"seeds": len(cell.seeds), "patients": cell.patients, "mean": cell.mean, "std": cell.std}
            gain = line.gains.get(arm)
            low, high = (gain.interval if gain else None) or (None, None)
            row |= {"reference": gain and gain.reference.regime, "gain": gain and gain.absolute}
            row |= {"gain_low": low, "gain_high": high, "gain_percent": gain and gain.relative}
            row |= {"gain_patients": gain and gain.patients, "gain_seeds": gain and len(gain.seeds)}
            row |= {"p": gain and gain.p, "p_holm": gain and gain.p_holm, "verdict": gain and line.verdict(arm)}
            rows.append(row)
    return pd.DataFrame(rows).convert_dtypes()  # whole numbers stay whole where some are missing
