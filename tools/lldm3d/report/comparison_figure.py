"""The comparison's figures, after the paper's Figure 3, and all of its files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from lldm3d import plots
from lldm3d.data.dataset import Schema, load_cases, load_schema
from lldm3d.evaluation.scans import read
from lldm3d.files import whole
from lldm3d.methods.registry import Method, seed_stage
from lldm3d.report.comparison import Measure, Result, cells, latex, markdown, methods_of, read_results
from lldm3d.study.scores import write_table

SHOWN, WIDTH, PLANE = 6, 10.0, "axial"


def samples(work: Path, methods: dict[str, Method], seed: int) -> Figure:
    """The first cases: real test cases and their labels, then those of each method, with labels where it draws them."""
    schema = load_schema(work / "dataset")
    real = load_cases(work / "dataset", "test")
    rows = [("real label", real, True), ("real", real, False)]
    for name, method in methods.items():
        drawn = load_cases(work / seed_stage(name, seed) / "synthetic", "training")
        if drawn[0]["label"]:
            rows.append((f"{method.title}\nlabel", drawn, True))
        rows.append((method.title, drawn, False))
    side = schema.roi_size[1] * schema.spacing[1] / (schema.roi_size[0] * schema.spacing[0])
    figure, grid = plots.dark(len(rows), SHOWN, WIDTH, len(rows) * WIDTH / (SHOWN + 0.8) * side + 0.4)
    for axes, (title, cases, with_label) in zip(grid, rows, strict=True):
        fill(axes, cases[:SHOWN], schema, with_label)
        position = {"ha": "right", "va": "center", "rotation": 90, "transform": axes[0].transAxes}
        axes[0].text(-0.05, 0.5, title, color="white", fontsize=8, **position)
    plots.legend(figure, schema.class_names, loc="outside lower center", fontsize=8)
    return figure


def fill(row: Sequence[Axes], cases: list[dict], schema: Schema, with_label: bool) -> None:
    """Draw a slice of each case where its label, or without one the image, has the most."""
    for axes in row:
        axes.set_axis_off()
    for axes, case in zip(row, cases, strict=False):
        scan = read(case, schema)
        index = slice_of(scan.label, scan.image)
        if with_label:
            fill_label(axes, scan.label, schema, index)
        else:
            plots.show(axes, scan.image, schema.spacing, PLANE, index)


def slice_of(label: np.ndarray | None, image: np.ndarray) -> int:
    axis = plots.PLANES[PLANE]
    return plots.best_slice(label, axis) if label is not None else image.shape[axis] // 2


def fill_label(axes: Axes, label: np.ndarray, schema: Schema, index: int) -> None:
    """A slice of a label map in the colours of its classes."""
    colours = np.array([to_rgb("black"), *(to_rgb(plots.colour(v)) for v in range(1, len(schema.class_names)))])
    picture = colours[plots.cut(label.astype(int), PLANE, index)]
    axes.imshow(picture, aspect=plots.aspect(schema.spacing, PLANE), interpolation="nearest")


def quality(results: Sequence[Result], methods: dict[str, Method]) -> Figure:
    """FID and KID of all seeds of each method, with the intervals of draws of cases and the floor of real ones."""
    wanted = [measure for measure in cells(results) if measure.title.split(",")[0] in ("FID", "KID")]
    figure = Figure(figsize=(3.2 * len(wanted), 0.5 * len(methods) + 1.4), layout="constrained")
    for axes, measure in zip(np.atleast_1d(figure.subplots(1, len(wanted), sharey=True)), wanted, strict=True):
        bars(axes, measure, [result for result in results if result.measure == measure], methods)
    return figure


def bars(axes: Axes, measure: Measure, results: list[Result], methods: dict[str, Method]) -> None:
    for place, name in enumerate(methods):
        items = [result for result in results if result.method == name]
        for offset, item in zip(np.linspace(-0.15, 0.15, len(items)), items, strict=True):
            if item.interval:
                axes.plot(item.interval, [place + offset] * 2, color=plots.SYNTHETIC, lw=1.5)
            axes.plot(item.value, place + offset, "o", color=plots.SYNTHETIC, ms=4)
    floors = [result.floor for result in results if result.floor is not None]
    if floors:
        axes.axvline(np.mean(floors), color=plots.REAL, ls="--", lw=1, label="real halves")
        axes.legend(frameon=False, fontsize=7)
    axes.set_yticks(range(len(methods)), [method.title for method in methods.values()])
    axes.set_ylim(len(methods) - 0.5, -0.5)
    if min(result.value for result in results) > 0:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())  # they would run into each other
    axes.set_title(f"{measure.title}, lower is better", fontsize=9)
    axes.tick_params(labelsize=8)


COLUMNS = ("method", "seed", "metric", "unit", "direction", "value", "low", "high", "floor", "n")


def write_comparison(work: Path, names: list[str], seeds: list[int], minutes: float) -> None:
    """Write W/comparison: `comparison.csv` (every figure), `table.md`, `table.tex`, `quality.png`, `figure.png`.

    Raises UserError where what a method's stages leave is missing or broken.
    """
    methods, folder = methods_of(names), work / "comparison"
    results = read_results(work, names, seeds)
    for name, text in (("table.md", markdown), ("table.tex", latex)):
        with whole(folder / name) as temporary:
            temporary.write_text(text(results, methods, minutes))
    plots.save(quality(results, methods), folder / "quality.png")
    plots.save(samples(work, methods, seeds[0]), folder / "figure.png")
    write_table(folder / "comparison.csv", pd.DataFrame(map(csv_line, results), columns=COLUMNS))


def csv_line(result: Result) -> dict:
    """A result as a row of `comparison.csv`."""
    low, high = result.interval or (None, None)
    measure = {"metric": result.measure.title, "unit": result.measure.unit, "direction": result.measure.direction}
    return {**vars(result), **measure, "low": low, "high": high}
