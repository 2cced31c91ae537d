"""The table of methods, in the shape of the paper's Table 1: Markdown for reading, LaTeX for a manuscript."""

from collections.abc import Sequence

from lldm3d.evaluation.rows import HIGHER, LOWER, number
from lldm3d.methods.registry import OURS, Method
from lldm3d.methods.results import Cell, Measure, Result, cells, leads
from lldm3d.study.tables import DASH, tex


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
        [method.title, *(text(measure, by, name) for measure, by in found.items())] for name, method in methods.items()
    ]
    return [head, real, *body]


def titled(measure: Measure) -> str:
    arrow = {LOWER: " ↓", HIGHER: " ↑"}.get(measure.direction, "")
    return f"{measure.title}{f' ({measure.unit})' if measure.unit else ''}{arrow}"


def text(measure: Measure, by: dict[str, Cell], name: str) -> str:
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
    lines = [" & ".join(map(plain, line)) + r" \\" for line in zip(*rows(results, methods), strict=True)]
    return "\n".join(
        [
            "% needs \\usepackage{booktabs,graphicx}",
            "\\begin{table}",
            f"\\caption{{{plain(' '.join(caption(results, minutes)))}}}",
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


def plain(words: str) -> str:
    """Text with its signs as LaTeX prints them."""
    words = tex(words)
    for sign, command in SIGNS.items():
        words = words.replace(sign, command)
    return words
