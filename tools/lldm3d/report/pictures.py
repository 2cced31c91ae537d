"""Pictures of real and synthetic pairs, and their embedding in the report."""

import base64
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from lldm3d import plots
from lldm3d.data.dataset import Case, Schema
from lldm3d.data.scans import read_pair

PAIRS_SHOWN, LABELS_SHOWN = 4, 8
WIDTH = 11.0  # inches


def pairs_figure(real: list[Case], synthetic: list[Case], schema: Schema) -> Figure:
    """Three planes through the first pairs of both, where the label is largest, plain and with its outlines."""
    rows = min(PAIRS_SHOWN, max(len(real), len(synthetic)))
    size = np.array(schema.roi_size) * schema.spacing  # mm
    widths = [size[1], size[0], size[0]]  # of sagittal, coronal and axial slices
    heights = max(size[2], size[1])
    height = 2 * rows * heights * WIDTH / (2.15 * sum(widths)) + 0.22 * rows + 0.6
    figure, grid = plots.dark(2 * rows, 7, WIDTH, min(height, 24), width_ratios=[*widths, 0.12 * size[0], *widths])
    for row in range(rows):
        for offset, cases in ((0, real), (4, synthetic)):
            if row < len(cases):
                show_pair(grid[2 * row : 2 * row + 2, offset : offset + 3], cases[row], schema)
    for axes in grid.flat:
        axes.set_axis_off()
    grid[0, 1].set_title(f"REAL\n{real[0].name if real else 'none'}", color="white", fontsize=9)
    grid[0, 5].set_title(f"SYNTHETIC\n{synthetic[0].name if synthetic else 'none'}", color="white", fontsize=9)
    plots.legend(figure, schema.class_names, loc="outside lower center", fontsize=9)
    return figure


def show_pair(grid: np.ndarray, case: Case, schema: Schema) -> None:
    """Fill axes [2, 3]: the plain slices above, the same with the outlines of the label, if there is one, below."""
    scan = read_pair(case, schema)
    label = scan.label if scan.label is not None else np.zeros(scan.image.shape, np.uint8)
    for column, (plane, axis) in zip(grid.T, plots.PLANES.items(), strict=True):
        index = plots.best_slice(label, axis)
        for axes in column:
            plots.show(axes, scan.image, schema.spacing, plane, index)
            style = {"transform": axes.transAxes, "color": "white", "fontsize": 7, "va": "center", "alpha": 0.85}
            axes.text(0.02, 0.5, plots.EDGES[plane][0], ha="left", **style)  # the patient's sides
            axes.text(0.98, 0.5, plots.EDGES[plane][1], ha="right", **style)
        plots.outline(column[1], label, plane, index)
    grid[0, 1].set_title(case.name, color="white", fontsize=8)


def labels_figure(real: list[Case], synthetic: list[Case], schema: Schema) -> Figure:
    """Label maps alone, seen through from the front: the first cases of both, cut to what they hold together."""
    shown = [
        [read_pair(case, schema).label for case in cases[:LABELS_SHOWN] if case.label] for cases in (real, synthetic)
    ]
    box = common_box([label for cases in shown for label in cases])
    columns = max(map(len, shown))
    size = np.array([axis.stop - axis.start for axis in box]) * schema.spacing
    height = 2 * min(WIDTH / columns * size[2] / size[0], 4) + 0.9
    figure, grid = plots.dark(2, columns, WIDTH, height)
    for axes in grid.flat:
        axes.set_axis_off()
    for row, words, labels in zip(grid, ("real", "synthetic"), shown, strict=True):
        for axes, label in zip(row, labels, strict=False):
            plots.see_through(axes, label[box], schema.spacing, "coronal")
            axes.set_title(words, color="white", fontsize=7.5)
    plots.legend(figure, schema.class_names, loc="outside lower center", fontsize=9)
    return figure


def common_box(volumes: list[np.ndarray]) -> tuple[slice, slice, slice]:
    """The smallest box, and two voxels more, that holds the foreground of all label maps [X, Y, Z]."""
    held = np.any([label > 0 for label in volumes], axis=0)
    if not held.any():
        return tuple(slice(0, length) for length in held.shape)
    return tuple(slice(max(at.min() - 2, 0), at.max() + 3) for at in np.nonzero(held))


def embed_figure(figure: Figure, photo: bool = False) -> str:
    """The figure as a data URL: a photo as JPEG, a chart as PNG."""
    buffer, kind = BytesIO(), "jpeg" if photo else "png"
    options = {"pil_kwargs": {"quality": 85}} if photo else {}
    figure.savefig(buffer, format=kind, dpi=120, facecolor=figure.get_facecolor(), **options)
    return data_url(buffer.getvalue(), kind)


def embed_file(path: Path) -> str:
    """A PNG file as a data URL."""
    return data_url(path.read_bytes(), "png")


def data_url(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
