"""The ladder: networks trained on S alone, from real pairs down to drawn ones, so that each step says what it costs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lldm3d import plots
from lldm3d.data.dataset import MEAN
from lldm3d.evaluation.metrics import write_csv
from lldm3d.files import atomic_write
from lldm3d.methods.registry import method_names
from lldm3d.pairs.sources import BOTH, DRAWN, RECONSTRUCTED, TRAINING, UNWARPED
from lldm3d.study.figure import COLOURS, places
from lldm3d.study.scores import read_ends, read_scores
from lldm3d.study.stages import REAL, RUNGS, UNTIL, Arm, pairs_slug
from lldm3d.study.statistics import PLACE, ArmResult, Gain, arm_result, by_arm, gain_over, of_task, patient_means
from lldm3d.study.tables import DASH, TRAINED, cap_note

ABOUT = {  # source: what S is, and what the step down to it adds
    REAL: ("real pairs (R)", DASH),
    RECONSTRUCTED: ("real pairs, their images through the codec", "image codec"),
    UNWARPED: ("images drawn for real labels", "image generator"),
    TRAINING: ("images drawn for warped labels", "warp"),
    DRAWN: ("images drawn for drawn labels", "label generator"),
    BOTH: ("for warped and for drawn labels, half of each", "mixing"),
}
NOTES = (
    "Networks that learnt from S alone, as many pairs as there are real training cases, tested on the same real "
    "patients. Each rung adds one thing to the one above it: the difference says where Dice is lost.",
    "Mean Dice over patients (of several classes their mean), ± standard deviation over seeds; below it the difference "
    "to the rung above, by patient and averaged over the seeds that both have, with a 95 % bootstrap interval over "
    "patients.",
)


@dataclass(frozen=True)
class Rung:
    """What a network reaches that learnt from one kind of pairs."""

    source: str  # `REAL`, or of `RUNGS`
    cell: ArmResult
    above: str | None = None  # the nearest rung above that was trained; None of the first
    step: Gain | None = None  # this rung minus that one; None where no patient and seed has both


@dataclass(frozen=True)
class Ladder:
    """The rungs that were trained, in order, of one network, length of training, method and class."""

    method: str
    until: str
    network: str
    task: str
    class_name: str  # or `MEAN`, over the classes
    rungs: tuple[Rung, ...]


def ladders(scores: pd.DataFrame) -> list[Ladder]:
    """All ladders of two rungs or more in the scores of `read_scores`; `MEAN` comes last."""
    dice = scores[(scores["metric"] == "dice") & scores["regime"].isin(["R", "S"])]
    if dice.empty:
        return []
    groups = patient_means(dice).groupby(PLACE[1:], sort=False)
    tables = [(place, method, by_arm(group)) for place, group in groups for method in method_names()]
    found = [Ladder(method, *place, rungs_of(method, arms)) for place, method, arms in tables]
    order = {name: number for number, name in enumerate(method_names())}
    found.sort(
        key=lambda one: (order[one.method], one.task, UNTIL.index(one.until), one.network, one.class_name == MEAN)
    )
    return [one for one in found if len(one.rungs) > 1 and one.rungs[-1].source != REAL]


def rungs_of(method: str, arms: dict[Arm, pd.DataFrame]) -> tuple[Rung, ...]:
    """The rungs of a method among the values [patients, seeds] of these arms."""
    wanted = {REAL: Arm("R", REAL)}
    wanted |= {source: Arm("S", pairs_slug(f"{method}/{source}", [method])) for source in RUNGS}
    found: list[Rung] = []
    for source, arm in wanted.items():
        if arm in arms:
            above = found[-1].source if found else None
            step = gain_over(wanted[above], arms[wanted[above]], arms[arm]) if above else None
            found.append(Rung(source, arm_result(arms[arm]), above, step))
    return tuple(found)


def shown_ladders(found: Sequence[Ladder]) -> list[tuple[str, list[Ladder]]]:
    """Title and ladders, one for each network, of each table and panel: of a method, task and length of training."""
    shown = [one for one in found if one.class_name == of_task(one.task, found)]
    groups = groupby(shown, key=lambda one: (one.method, one.task, one.until))
    return [(f"{method}, {task}, {TRAINED[until]}", list(group)) for (method, task, until), group in groups]


def ladder_tables(found: Sequence[Ladder], ends: pd.DataFrame) -> list[dict]:
    """Title, networks, rows (rung, S, what the step adds, for each network Dice and step as text) and note."""
    tables = []
    for title, group in shown_ladders(found):
        by = [{rung.source: rung for rung in one.rungs} for one in group]
        sources = [source for source in ABOUT if any(source in rungs for rungs in by)]
        rows = [
            (source, ABOUT[source][0], added(source, sources), [rung_text(rungs.get(source)) for rungs in by])
            for source in sources
        ]
        note = cap_note(ends_of(group, ends)) if group[0].until == "convergence" else ""
        tables.append({"title": title, "networks": [one.network for one in group], "rows": rows, "note": note})
    return tables


def ends_of(group: Sequence[Ladder], ends: pd.DataFrame) -> pd.DataFrame:
    """The ends, as `read_ends` gives them, of the trainings in a table."""
    slugs = [REAL, *(pairs_slug(f"{group[0].method}/{source}", [group[0].method]) for source in RUNGS)]
    own = ends["pairs"].isin(slugs) & ends["regime"].isin(["R", "S"]) & (ends["task"] == group[0].task)
    return ends[own & ends["network"].isin([one.network for one in group])]


def added(source: str, sources: Sequence[str]) -> str:
    """What the step down to a rung adds; where rungs between are left out, all that they do."""
    place, order = sources.index(source), list(ABOUT)
    if not place:
        return DASH
    between = order[order.index(sources[place - 1]) + 1 : order.index(source) + 1]
    return " + ".join(ABOUT[name][1] for name in between)


def rung_text(rung: Rung | None) -> tuple[str, str]:
    """Mean and deviation over seeds, and the difference to the rung above with its interval."""
    if rung is None:
        return DASH, ""
    mean = f"{rung.cell.mean:.3f}" + (f" ± {rung.cell.std:.3f}" if rung.cell.std is not None else "")
    if rung.step is None:
        return mean, ""
    interval = " [{:+.3f}, {:+.3f}]".format(*rung.step.interval) if rung.step.interval else ""
    return mean, f"{rung.step.absolute:+.3f}{interval}".replace("-", "−")


def ladder_markdown(found: Sequence[Ladder], ends: pd.DataFrame) -> str:
    """Rows are rungs, columns networks."""
    parts = ["# Ladder: where Dice is lost", *NOTES]
    for table in ladder_tables(found, ends):
        head = ["rung", "S", "added", *table["networks"]]
        lines = [head, ["---", "---", "---", *["---:"] * len(table["networks"])]]
        lines += [[*about, *("<br>".join(filter(None, cell)) for cell in cells)] for *about, cells in table["rows"]]
        parts += [f"## {table['title']}", "\n".join(f"| {' | '.join(line)} |" for line in lines)]
        parts += [table["note"]] if table["note"] else []
    return "\n\n".join(parts) + "\n"


def ladder_frame(found: Iterable[Ladder]) -> pd.DataFrame:
    """One row for each rung of each ladder, of single classes too."""
    rows = []
    for one in found:
        for rung in one.rungs:
            low, high = (rung.step.interval if rung.step else None) or (None, None)
            row = {"method": one.method, "until": one.until, "network": one.network, "task": one.task}
            row |= {"class": one.class_name, "rung": rung.source, "seeds": len(rung.cell.seeds)}
            row |= {"patients": rung.cell.patients, "dice": rung.cell.mean, "std": rung.cell.std, "above": rung.above}
            row |= {"difference": rung.step and rung.step.absolute, "low": low, "high": high}
            rows.append(row | {"difference_seeds": rung.step and len(rung.step.seeds)})
    return pd.DataFrame(rows).convert_dtypes()


def write_ladder(work: Path) -> None:
    """Write `ladder.md`, `ladder.csv` and `ladder.png` into W/study, where S was trained on a rung beside another."""
    found, folder = ladders(read_scores(work)), work / "study"
    if not found:
        return
    write_csv(folder / "ladder.csv", None, ladder_frame(found))
    with atomic_write(folder / "ladder.md") as temporary:
        temporary.write_text(ladder_markdown(found, read_ends(work)))
    plots.save(ladder_figure(found), folder / "ladder.png")


def ladder_figure(found: Sequence[Ladder]) -> Figure:
    """One panel for each method, task and length of training; in it a line for each network over the rungs."""
    panels = shown_ladders(found)
    figure, grid = plots.light(1, len(panels), 4.6 * len(panels), 4.6)
    for axes, (title, group) in zip(grid[0], panels, strict=True):
        plot_ladders(axes, group)
        axes.set_title(title, fontsize=9)
    words = "Dots: seeds. Bars: 95 % interval over patients of the difference to the rung before, at the mean"
    figure.suptitle(words, fontsize=8)
    grid[0, 0].set_ylabel("Dice of real test patients", fontsize=8)
    return figure


def plot_ladders(axes: Axes, group: Sequence[Ladder]) -> None:
    """Means with their steps' intervals, and each seed as a small dot."""
    sources = [source for source in ABOUT if any(source == rung.source for one in group for rung in one.rungs)]
    for index, (one, colour) in enumerate(zip(group, np.resize(COLOURS, len(group)), strict=True)):
        at = dict(zip(sources, places(len(sources), 3 * len(group), index + len(group)), strict=True))
        means = [rung.cell.mean for rung in one.rungs]
        axes.plot([at[rung.source] for rung in one.rungs], means, "o-", color=colour, ms=4, lw=1.2, label=one.network)
        for rung in one.rungs:
            seeds = list(rung.cell.seeds.values())
            axes.scatter([at[rung.source]] * len(seeds), seeds, s=9, color=colour, alpha=0.4, lw=0)
            if rung.step and rung.step.interval:
                ends = [rung.cell.mean - rung.step.absolute + end for end in rung.step.interval]
                axes.vlines(at[rung.source], *ends, color=colour, lw=2.4, alpha=0.5)
    axes.set_xticks(
        range(len(sources)), [source.replace(REAL, "real (R)") for source in sources], rotation=20, fontsize=8
    )
    axes.legend(frameon=False, fontsize=8)
