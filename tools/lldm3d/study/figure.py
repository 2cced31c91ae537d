"""The figure of the study: the Dice of each arm, and what the synthetic pairs add to it."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lldm3d import plots
from lldm3d.study.stages import Arm
from lldm3d.study.statistics import Line, of_task

COLOURS = (plots.REAL, plots.SYNTHETIC, plots.HELD_OUT, "#CC79A7", "#E69F00", "#56B4E9", plots.GREY)
TITLES = {"steps": "equal steps", "convergence": "to convergence"}


def study_figure(found: Sequence[Line]) -> Figure:
    """One column for each task and length of training: above the Dice of each arm, below the gains; networks by colour.

    Of a task with several classes the mean over them is shown.
    """
    shown = [line for line in found if line.metric == "dice" and line.class_name == of_task(line.task, found)]
    panels = list(dict.fromkeys((line.task, line.until) for line in shown))
    networks = list(dict.fromkeys(line.network for line in shown))
    colours = dict(zip(networks, np.resize(COLOURS, len(networks)), strict=True))
    arms = sorted({arm for line in shown for arm in line.cells}, key=lambda arm: arm.rank)
    gained = [arm for arm in arms if any(arm in line.gains for line in shown)]
    name = max((len(arm.regime) for arm in arms), default=0)  # it has to fit above its arm
    width = max(3.6, 0.22 * len(arms) * len(networks) + 1.4, max(0.5, 0.085 * name) * len(arms))
    figure, grid = plots.light(2 if gained else 1, len(panels), width * len(panels), 6.4 if gained else 3.4)
    for column, (task, until) in zip(grid.T, panels, strict=True):
        of = {line.network: line for line in shown if (line.task, line.until) == (task, until)}
        plot_dice(column[0], of, arms, colours)
        column[0].set_title(f"{task}, {TITLES[until]}", fontsize=9, pad=16)
        if gained:
            plot_gains(column[1], of, gained, colours)
    figure.suptitle("Dots: seeds. Lines: their means, and 95 % intervals over patients", fontsize=8)
    figure.legend(
        *grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=8
    )
    return figure


def places(count: int, networks: int, index: int) -> np.ndarray:
    """Where the marks of the network `index` of so many stand for each of `count` arms."""
    return np.arange(count) + (index - (networks - 1) / 2) * 0.7 / networks


def name_arms(axes: Axes, arms: list[Arm]) -> None:
    """Name the pairs of each arm below the axes and the regimes above them, parted by lines."""
    axes.set_xticks(range(len(arms)), [arm.pairs for arm in arms], rotation=90 if len(arms) > 4 else 0, fontsize=8)
    axes.set_xlim(-0.6, len(arms) - 0.4)
    for regime in dict.fromkeys(arm.regime for arm in arms):
        own = [at for at, arm in enumerate(arms) if arm.regime == regime]
        axes.text(np.mean(own), 1, regime, transform=axes.get_xaxis_transform(), ha="center", va="bottom", fontsize=8)
        if own[0]:
            axes.axvline(own[0] - 0.5, color="#DDDDDD", lw=0.8, zorder=0)


def plot_dice(axes: Axes, of: dict[str, Line], arms: list[Arm], colours: dict[str, str]) -> None:
    """Each seed as a dot, their mean as a line."""
    for index, (network, colour) in enumerate(colours.items()):
        axes.plot([], [], "o", color=colour, ms=4, label=network)
        at = dict(zip(arms, places(len(arms), len(colours), index), strict=True))
        for arm, cell in of[network].cells.items() if network in of else ():
            reach = 0.3 / len(colours)
            axes.hlines(cell.mean, at[arm] - reach, at[arm] + reach, color=colour, lw=2)
            axes.scatter([at[arm]] * len(cell.seeds), list(cell.seeds.values()), s=14, color=colour, alpha=0.6, lw=0)
    name_arms(axes, arms)
    axes.set_ylabel("Dice of real test patients", fontsize=8)


def plot_gains(axes: Axes, of: dict[str, Line], arms: list[Arm], colours: dict[str, str]) -> None:
    """The gain with its interval, filled where it is clear, and each seed's own gain as a small dot."""
    axes.axhline(0, color="black", lw=0.8)
    for index, (network, colour) in enumerate(colours.items()):
        for at, arm in zip(places(len(arms), len(colours), index), arms, strict=True):
            if network not in of or arm not in of[network].gains:
                continue
            gain = of[network].gains[arm]
            axes.scatter([at] * len(gain.seeds), list(gain.seeds.values()), s=9, color=colour, alpha=0.5, lw=0)
            axes.plot(at, gain.absolute, "o", color=colour, ms=5, mfc=colour if gain.clear else "white")
            if gain.interval:
                axes.vlines(at, *gain.interval, color=colour, lw=1.4, zorder=0)
    name_arms(axes, arms)
    axes.set_ylabel("gain in Dice", fontsize=8)
    axes.set_title("gain by S; filled where clear", fontsize=9, pad=16)
