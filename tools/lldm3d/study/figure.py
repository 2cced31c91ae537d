"""The figure of the study: the Dice of each regime, and what the synthetic pairs add to it."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lldm3d import plots
from lldm3d.evaluation.figures import light
from lldm3d.study.statistics import Line, of_task, order

COLOURS = (plots.REAL, plots.SYNTHETIC, plots.HELD_OUT, "#CC79A7", "#E69F00", "#56B4E9", plots.GREY)


def figure(found: Sequence[Line]) -> Figure:
    """One column for each task: above the Dice of each regime, below the gains; networks by colour.

    Of a task with several classes the mean over them is shown.
    """
    shown = [line for line in found if line.metric == "dice" and line.class_name == of_task(line.task, found)]
    tasks = list(dict.fromkeys(line.task for line in shown))
    networks = list(dict.fromkeys(line.network for line in shown))
    colours = dict(zip(networks, np.resize(COLOURS, len(networks)), strict=True))
    regimes = sorted({regime for line in shown for regime in line.cells}, key=order)
    gained = [regime for regime in regimes if any(regime in line.gains for line in shown)]
    width = max(3.6, 0.22 * len(regimes) * len(networks) + 1.4)
    drawn, grid = light(2 if gained else 1, len(tasks), width * len(tasks), 6.0 if gained else 3.2)
    for column, task in zip(grid.T, tasks, strict=True):
        of = {line.network: line for line in shown if line.task == task}
        dice(column[0], task, of, regimes, colours)
        if gained:
            gains(column[1], of, gained, colours)
    drawn.suptitle("Dots: seeds. Lines: their means, and 95 % intervals over patients", fontsize=8)
    drawn.legend(
        *grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=8
    )
    return drawn


def places(count: int, networks: int, index: int) -> np.ndarray:
    """Where the marks of the network `index` of so many stand for each of `count` regimes."""
    return np.arange(count) + (index - (networks - 1) / 2) * 0.7 / networks


def dice(axes: Axes, task: str, of: dict[str, Line], regimes: list[str], colours: dict[str, str]) -> None:
    """Each seed as a dot, their mean as a line."""
    for index, (network, colour) in enumerate(colours.items()):
        axes.plot([], [], "o", color=colour, ms=4, label=network)
        at = dict(zip(regimes, places(len(regimes), len(colours), index), strict=True))
        for regime, cell in of[network].cells.items() if network in of else ():
            reach = 0.3 / len(colours)
            axes.hlines(cell.mean, at[regime] - reach, at[regime] + reach, color=colour, lw=2)
            axes.scatter([at[regime]] * len(cell.seeds), list(cell.seeds.values()), s=14, color=colour, alpha=0.6, lw=0)
    axes.set_xticks(range(len(regimes)), regimes, rotation=45 if len(regimes) > 4 else 0, fontsize=8)
    axes.set_ylabel("Dice of real test patients", fontsize=8)
    axes.set_title(task, fontsize=9)


def gains(axes: Axes, of: dict[str, Line], regimes: list[str], colours: dict[str, str]) -> None:
    """The gain with its interval, filled where it is clear, and each seed's own gain as a small dot."""
    axes.axhline(0, color="black", lw=0.8)
    for index, (network, colour) in enumerate(colours.items()):
        for at, regime in zip(places(len(regimes), len(colours), index), regimes, strict=True):
            if network not in of or regime not in of[network].gains:
                continue
            gain = of[network].gains[regime]
            axes.scatter([at] * len(gain.seeds), list(gain.seeds.values()), s=9, color=colour, alpha=0.5, lw=0)
            axes.plot(at, gain.absolute, "o", color=colour, ms=5, mfc=colour if gain.clear else "white")
            if gain.interval:
                axes.vlines(at, *gain.interval, color=colour, lw=1.4, zorder=0)
    axes.set_xticks(range(len(regimes)), regimes, rotation=45 if len(regimes) > 4 else 0, fontsize=8)
    axes.set_xlim(-0.6, len(regimes) - 0.4)
    axes.set_ylabel("gain in Dice", fontsize=8)
    axes.set_title("gain by S; filled where clear", fontsize=9)
