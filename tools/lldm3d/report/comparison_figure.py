"""The comparison's figures, after the paper's Figure 3, and all of its files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from lldm3d import plots
from lldm3d.data.dataset import Case, Schema, load_cases, load_schema
from lldm3d.data.scans import read_pair
from lldm3d.evaluation.metrics import LOWER, Metric, write_csv
from lldm3d.files import atomic_write, write_json
from lldm3d.methods.registry import Method, load_method
from lldm3d.report import comparison
from lldm3d.report.comparison import Measure, Result

WIDTH, TITLE = 10.0, 24  # inches; letters in a line of a row's title
AXIAL = [(case, "axial") for case in range(6)]  # of which case which plane is shown
PLANES = [(case, plane) for case in range(2) for plane in ("axial", "coronal", "sagittal")]
PLOTTED = (Metric.FID, Metric.KID, Metric.ALIGNMENT_DICE_RATIO, Metric.PAIRED_SSIM, comparison.GAIN)


def samples_figure(work: Path, methods: Mapping[str, Method], sources: Sequence[str], seed: int) -> Figure:
    """The first cases: real test cases and their labels, then those of each method, with labels where it has them.

    Where all methods drew for the labels of test cases, two of these in three planes, and the label once.
    """
    schema = load_schema(work / "dataset")
    real = load_cases(work / "dataset", "test")
    rows = [("real label", real, True), ("real", real, False)]
    paired = all(comparison.evaluated_sources(work, name, sources, seed)[0] == comparison.TEST for name in methods)
    views = PLANES if paired else AXIAL
    for name, method in methods.items():
        source = comparison.evaluated_sources(work, name, sources, seed)[0]
        cases = load_cases(comparison.pairs_dir(work, name, source, seed), "training")
        if cases[0].label and not paired:
            rows.append((f"{fill(method.title, TITLE)}\nlabel", cases, True))
        rows.append((fill(method.title, TITLE), cases, False))
    ratio = schema.roi_size[1] * schema.spacing[1] / (schema.roi_size[0] * schema.spacing[0])
    figure, grid = plots.dark(len(rows), len(views), WIDTH, len(rows) * WIDTH / (len(views) + 0.8) * ratio + 0.4)
    for axes, (title, cases, with_label) in zip(grid, rows, strict=True):
        fill_row(axes, cases, views, schema, with_label)
        position = {"ha": "right", "va": "center", "rotation": 90, "transform": axes[0].transAxes}
        axes[0].text(-0.05, 0.5, title, color="white", fontsize=8, **position)
    plots.legend(figure, schema.class_names, loc="outside lower center", fontsize=8)
    return figure


def fill_row(
    row: Sequence[Axes], cases: list[Case], views: Sequence[tuple[int, str]], schema: Schema, with_label: bool
) -> None:
    """Show a slice of each view, a case and a plane, where the label, or without one the image, has the most."""
    for axes in row:
        axes.set_axis_off()
    colours = np.array([to_rgb("black"), *(to_rgb(plots.colour(v)) for v in range(1, len(schema.class_names)))])
    for axes, (number, plane) in zip(row, views, strict=True):
        if number >= len(cases):
            continue
        scan, axis = read_pair(cases[number], schema), plots.PLANES[plane]
        index = plots.best_slice(scan.label, axis) if scan.label is not None else scan.image.shape[axis] // 2
        if with_label:
            picture = colours[plots.picture_of(scan.label.astype(int), plane, index)]
            axes.imshow(picture, aspect=plots.aspect(schema.spacing, plane), interpolation="nearest")
        else:
            plots.show(axes, scan.image, schema.spacing, plane, index)


def quality_figure(results: Sequence[Result], methods: Mapping[str, Method]) -> Figure:
    """All seeds of each method, with the intervals of draws of cases and the floor of real ones.

    Of each measure those results are shown that have the first source of labels.
    """
    measures = [measure for measure in comparison.over_seeds(results) if measure.key in PLOTTED]
    columns = max(1, min(4, len(measures)))
    rows = max(1, -(-len(measures) // columns))
    figure, grid = plots.light(rows, columns, 3.2 * columns + 1, rows * (0.5 * len(methods) + 1.4))
    for axes, measure in zip(grid.flat, measures, strict=False):
        found = [result for result in results if result.measure == measure]
        plot_measure(axes, measure, [result for result in found if result.source == found[0].source], methods)
    for axes in grid.flat[len(measures) :]:
        axes.set_axis_off()
    return figure


def plot_measure(axes: Axes, measure: Measure, results: list[Result], methods: Mapping[str, Method]) -> None:
    for place, name in enumerate(methods):
        items = [result for result in results if result.method == name]
        spread = 0.15 if len(items) > 1 else 0
        for offset, item in zip(np.linspace(-spread, spread, len(items)), items, strict=True):
            if item.interval:
                axes.plot(item.interval, [place + offset] * 2, color=plots.SYNTHETIC, lw=1.5)
            axes.plot(item.value, place + offset, "o", color=plots.SYNTHETIC, ms=4)
    floors = [result.floor for result in results if result.floor is not None]
    if floors:
        axes.axvline(np.mean(floors), color=plots.REAL, ls="--", lw=1, label="real")
        axes.legend(frameon=False, fontsize=7)
    axes.set_yticks(range(len(methods)), [method.title for method in methods.values()])
    axes.set_ylim(len(methods) - 0.5, -0.5)
    values = [*floors, *(result.value for result in results)]
    if measure.direction == LOWER and 0 < 20 * min(values) < max(values):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())  # they would run into each other
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_title(measure.heading, fontsize=9)


COLUMNS = (
    *("method", "source", "seed", "key", "variant", "metric", "class", "unit", "direction"),
    *("value", "low", "high", "floor", "n"),
)


def write_comparison(
    work: Path, methods: list[str], sources: list[str], seeds: list[int], minutes: float | None
) -> None:
    """Write W/comparison: `comparison.csv` (every figure), `table.md`, `table.tex`, `quality.png`, `figure.png`.

    Args:
        methods: names of methods, with evaluations in W/evaluation; one is a comparison with real data alone.
        sources: of labels; where a method was not evaluated with one, the table of that source leaves it out.
        seeds: of the trainings.
        minutes: of training that each method had; None where each took the steps of its settings.

    Raises:
        UserError: where what a method's stages leave is missing or broken.
    """
    found, folder = {name: load_method(name) for name in methods}, work / "comparison"
    results = comparison.read_results(work, methods, sources, seeds)
    for name, text in (("table.md", comparison.comparison_markdown), ("table.tex", comparison.comparison_latex)):
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text(results, found, minutes))
    plots.save(quality_figure(results, found), folder / "quality.png")
    plots.save(samples_figure(work, found, sources, seeds[0]), folder / "figure.png")
    bounds = [dict(zip(("low", "high"), result.interval or (), strict=False)) for result in results]
    table = pd.DataFrame([vars(one) | vars(one.measure) | ends for one, ends in zip(results, bounds, strict=True)])
    write_csv(folder / "comparison.csv", COLUMNS, table.rename(columns={"title": "metric", "class_name": "class"}))
    about = {"methods": methods, "sources": sources, "seeds": seeds, "minutes": minutes}
    write_json(folder / "comparison.json", about)
