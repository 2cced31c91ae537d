"""The table of methods, from what their stages left: Markdown for reading, LaTeX for a manuscript."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from lldm3d.evaluation.metrics import HIGHER, LOWER, number
from lldm3d.files import read_json
from lldm3d.methods.registry import OURS, Method, load_method, seed_stage
from lldm3d.study.tables import DASH, tex

REAL = "synthetic / real training"
TO_REAL = ("FID", "KID", "precision", "recall", "share of near copies")
AMONG_THEMSELVES = ("SSIM of pairs", "MS-SSIM of pairs")


@dataclass(frozen=True)
class Measure:
    """A column of the table."""

    title: str
    unit: str = ""
    direction: str = ""  # what is good: lower, higher, or nothing that is


@dataclass(frozen=True)
class Result:
    """One figure of one training of a method."""

    method: str
    seed: int
    measure: Measure
    value: float
    interval: tuple[float, float] | None = None  # 95 %, of the draws of cases
    floor: float | None = None  # what real cases get
    n: int | None = None


@dataclass(frozen=True)
class Cell:
    """One figure of a method over its seeds."""

    mean: float
    std: float | None  # None of one seed
    interval: tuple[float, float] | None  # the lowest and the highest bound of the seeds


SECONDS = Measure("seconds a volume", "s", LOWER)
MEMORY = Measure("peak memory", "GB", LOWER)
MINUTES = Measure("training", "min")
PARAMETERS = Measure("parameters", "M")


def read_results(work: Path, names: Iterable[str], seeds: Iterable[int]) -> list[Result]:
    """All figures of the methods in W/methods. Raises UserError where a file is missing or broken."""
    return [result for name in names for seed in seeds for result in of_training(work, name, seed)]


def of_training(work: Path, name: str, seed: int) -> list[Result]:
    """The figures of one training of a method: those of its evaluation, then its cost."""
    folder = work / seed_stage(name, seed)
    found = [quality(name, seed, row) for row in read_json(folder / "evaluation/metrics.json")["rows"] if shown(row)]
    cost = read_json(folder / "cost.json")
    drawing, trainings = cost["drawing"], cost["trainings"].values()
    figures = {
        SECONDS: drawing["seconds"] / drawing["volumes"],
        MEMORY: drawing["memory_gb"],
        MINUTES: sum(training["seconds"] for training in trainings) / 60,
        PARAMETERS: drawing["parameters"] / 1e6,
    }
    costs = [Result(name, seed, measure, value) for measure, value in figures.items() if value is not None]
    return [*found, *costs]


def shown(row: dict) -> bool:
    """Whether the table has this row of an evaluation: fidelity to the training cases, variety, copies."""
    if row["value"] is None:
        return False
    return row["between"] == REAL and row["name"].split(",")[0] in TO_REAL or row["name"] in AMONG_THEMSELVES


def quality(name: str, seed: int, row: dict) -> Result:
    direction = row["direction"] if row["direction"] in (LOWER, HIGHER) else ""
    interval = tuple(row["interval"]) if row["interval"] else None
    return Result(
        name, seed, Measure(row["name"], row["unit"], direction), row["value"], interval, row["floor"], row["n"]
    )


def cells(results: Iterable[Result]) -> dict[Measure, dict[str, Cell]]:
    """{measure: {method: cell}}, both in the order of the results."""
    grouped: dict[Measure, dict[str, list[Result]]] = {}
    for result in results:
        grouped.setdefault(result.measure, {}).setdefault(result.method, []).append(result)
    return {measure: {name: cell(items) for name, items in by.items()} for measure, by in grouped.items()}


def cell(items: list[Result]) -> Cell:
    values = [item.value for item in items]
    bounds = [item.interval for item in items if item.interval]
    interval = (min(low for low, _ in bounds), max(high for _, high in bounds)) if bounds else None
    return Cell(mean(values), stdev(values) if len(values) > 1 else None, interval)


def leads(measure: Measure, ours: Cell, other: Cell) -> bool:
    """Whether `ours` is better than `other` beyond the intervals of all seeds."""
    if not ours.interval or not other.interval:
        return False
    if measure.direction == LOWER:
        return ours.interval[1] < other.interval[0]
    return measure.direction == HIGHER and ours.interval[0] > other.interval[1]


def methods_of(names: Iterable[str]) -> dict[str, Method]:
    return {name: load_method(name) for name in names}


def caption(results: Sequence[Result], minutes: float) -> list[str]:
    """What a reader must know to read the table."""
    seeds, distances = sorted({result.seed for result in results}), [r.n for r in results if r.measure.title == "FID"]
    return [
        f"Each method had {minutes:g} minutes of training in all, on the same machine and real training cases. Its "
        "steps follow from a time measured beforehand; starting and validating come on top (column training).",
        f"Means over the seeds {', '.join(map(str, seeds))}, ± standard deviation over them. In brackets the 95 % "
        "interval of draws of cases, from its lowest to its highest bound in any seed; distances are those of "
        f"{max(distances, default=0)} cases on each side.",
        "Real: the same between halves of the real training cases. FID and KID without a further name are those of the "
        "features of the segmentation network that was trained on real data.",
        f"A star marks a figure that {OURS} beats beyond these intervals, a circle one that beats {OURS}.",
    ]


def rows(results: Sequence[Result], methods: dict[str, Method]) -> list[list[str]]:
    """The cells of the table as text: a head, what real data has, and a row for each method."""
    found = cells(results)
    head = ["", *(titled(measure) for measure in found)]
    floors = {result.measure: result.floor for result in results if result.floor is not None}
    real = ["real", *(number(floors.get(measure)) for measure in found)]
    body = [
        [method.title, *(cell_text(measure, by, name) for measure, by in found.items())]
        for name, method in methods.items()
    ]
    return [head, real, *body]


def titled(measure: Measure) -> str:
    arrow = {LOWER: " ↓", HIGHER: " ↑"}.get(measure.direction, "")
    return f"{measure.title}{f' ({measure.unit})' if measure.unit else ''}{arrow}"


def cell_text(measure: Measure, by: dict[str, Cell], name: str) -> str:
    """Mean, deviation, interval, and how it stands to ours."""
    if name not in by:
        return DASH
    cell = by[name]
    words = number(cell.mean) + (f" ± {number(cell.std)}" if cell.std else "")
    if cell.interval:
        words += f" [{number(cell.interval[0])}, {number(cell.interval[1])}]"
    if OURS in by and name != OURS:
        mark = "*" if leads(measure, by[OURS], cell) else "°" if leads(measure, cell, by[OURS]) else ""
        words += mark
    return words


def markdown(results: Sequence[Result], methods: dict[str, Method], minutes: float) -> str:
    """One table, a row for each method."""
    head, *body = rows(results, methods)
    table = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    lines = "\n".join(f"| {' | '.join(line)} |" for line in table)
    sources = "\n".join(f"- {method.title}: {method.source}" for method in methods.values())
    return "\n\n".join(["# Methods at an equal budget", *caption(results, minutes), lines, sources]) + "\n"


SIGNS = {"↓": "$\\downarrow$", "↑": "$\\uparrow$", "°": "$^\\circ$", "−": "$-$", DASH: "--"}


def latex(results: Sequence[Result], methods: dict[str, Method], minutes: float) -> str:
    """The same, turned: a column for each method, as there are more figures than methods."""
    lines = [" & ".join(map(tex_plain, line)) + r" \\" for line in zip(*rows(results, methods), strict=True)]
    return "\n".join(
        [
            "% needs \\usepackage{booktabs,graphicx}",
            "\\begin{table}",
            f"\\caption{{{tex_plain(' '.join(caption(results, minutes)))}}}",
            "\\resizebox{\\textwidth}{!}{%",
            f"\\begin{{tabular}}{{l{'r' * (1 + len(methods))}}}",
            "\\toprule",
            lines[0],
            "\\midrule",
            *lines[1:],
            "\\bottomrule",
            "\\end{tabular}}",
            "\\end{table}",
            "",
        ]
    )


def tex_plain(words: str) -> str:
    """Text with its signs as LaTeX prints them."""
    words = tex(words)
    for sign, command in SIGNS.items():
        words = words.replace(sign, command)
    return words
