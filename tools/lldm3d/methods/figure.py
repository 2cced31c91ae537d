"""The paper's Figure 3: a row of labels, a row of real images, and rows of what each method drew."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from lldm3d.data.dataset import Schema, load_cases, load_schema
from lldm3d.evaluation import pictures
from lldm3d.evaluation.scans import read
from lldm3d.methods.registry import Method, seed_stage
from lldm3d.methods.results import Measure, Result, cells

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
    figure, grid = pictures.dark(len(rows), SHOWN, WIDTH, len(rows) * WIDTH / (SHOWN + 0.8) * side + 0.4)
    for axes, (title, cases, with_label) in zip(grid, rows, strict=True):
        fill(axes, cases[:SHOWN], schema, with_label)
        position = {"ha": "right", "va": "center", "rotation": 90, "transform": axes[0].transAxes}
        axes[0].text(-0.05, 0.5, title, color="white", fontsize=8, **position)
    pictures.legend(figure, schema.class_names, loc="outside lower center", fontsize=8)
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
            pictures.show(axes, scan.image, schema.spacing, PLANE, index)


def slice_of(label: np.ndarray | None, image: np.ndarray) -> int:
    axis = pictures.PLANES[PLANE]
    return pictures.best_slice(label, axis) if label is not None else image.shape[axis] // 2


def fill_label(axes: Axes, label: np.ndarray, schema: Schema, index: int) -> None:
    """A slice of a label map in the colours of its classes."""
    colours = np.array([to_rgb("black"), *(to_rgb(pictures.colour(v)) for v in range(1, len(schema.class_names)))])
    picture = colours[pictures.cut(label.astype(int), PLANE, index)]
    axes.imshow(picture, aspect=pictures.aspect(schema.spacing, PLANE), interpolation="nearest")


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
                axes.plot(item.interval, [place + offset] * 2, color=pictures.SYNTHETIC, lw=1.5)
            axes.plot(item.value, place + offset, "o", color=pictures.SYNTHETIC, ms=4)
    floors = [result.floor for result in results if result.floor is not None]
    if floors:
        axes.axvline(np.mean(floors), color=pictures.REAL, ls="--", lw=1, label="real halves")
        axes.legend(frameon=False, fontsize=7)
    axes.set_yticks(range(len(methods)), [method.title for method in methods.values()])
    axes.set_ylim(len(methods) - 0.5, -0.5)
    if min(result.value for result in results) > 0:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())  # they would run into each other
    axes.set_title(f"{measure.title}, lower is better", fontsize=9)
    axes.tick_params(labelsize=8)
