"""Pictures of real and synthetic pairs, and their embedding in the report."""

import base64
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from lldm3d import plots
from lldm3d.data.dataset import Schema
from lldm3d.evaluation.scans import case_name, read

PAIRS_SHOWN, LABELS_SHOWN = 4, 8
WIDTH = 11.0  # inches


def pairs(real: list[dict], synthetic: list[dict], schema: Schema) -> Figure:
    """Three planes through the first pairs of each side, where the label is largest, plain and with its outlines."""
    rows = min(PAIRS_SHOWN, max(len(real), len(synthetic)))
    size = np.array(schema.roi_size) * schema.spacing  # mm
    widths = [size[1], size[0], size[0]]  # of sagittal, coronal and axial slices
    heights = max(size[2], size[1])
    height = 2 * rows * heights * WIDTH / (2.15 * sum(widths)) + 0.22 * rows + 0.6
    figure, grid = plots.dark(2 * rows, 7, WIDTH, min(height, 24), width_ratios=[*widths, 0.12 * size[0], *widths])
    for row in range(rows):
        for offset, cases in ((0, real), (4, synthetic)):
            if row < len(cases):
                draw_pair(grid[2 * row : 2 * row + 2, offset : offset + 3], cases[row], schema)
    for axes in grid.flat:
        axes.set_axis_off()
    grid[0, 1].set_title(f"REAL\n{case_title(real, 0)}", color="white", fontsize=9)
    grid[0, 5].set_title(f"SYNTHETIC\n{case_title(synthetic, 0)}", color="white", fontsize=9)
    plots.legend(figure, schema.class_names, loc="outside lower center", fontsize=9)
    return figure


def draw_pair(grid: np.ndarray, case: dict, schema: Schema) -> None:
    """Fill axes [2, 3]: the plain slices above, the same with outlines below."""
    scan = read(case, schema)
    for column, (plane, axis) in zip(grid.T, plots.PLANES.items(), strict=True):
        index = plots.best_slice(scan.label, axis)
        for axes in column:
            plots.show(axes, scan.image, schema.spacing, plane, index)
            plots.letters(axes, plane)
        plots.outline(column[1], scan.label, plane, index)
    grid[0, 1].set_title(case_name(case), color="white", fontsize=8)


def case_title(cases: list[dict], index: int) -> str:
    return case_name(cases[index]) if cases else "none"


def labels(real: list[dict], synthetic: list[dict], schema: Schema) -> Figure:
    """Label maps alone, seen through from the front: the first cases of each side, cut to what they hold together."""
    shown = [[read(case, schema).label for case in cases[:LABELS_SHOWN]] for cases in (real, synthetic)]
    box = common_box([label for side in shown for label in side])
    columns = max(map(len, shown))
    size = np.array([axis.stop - axis.start for axis in box]) * schema.spacing
    height = 2 * min(WIDTH / columns * size[2] / size[0], 4) + 0.9
    figure, grid = plots.dark(2, columns, WIDTH, height)
    for axes in grid.flat:
        axes.set_axis_off()
    for row, words, side in zip(grid, ("real", "synthetic"), shown, strict=True):
        for axes, label in zip(row, side, strict=False):
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
    return url(buffer.getvalue(), kind)


def embed_file(path: Path) -> str:
    """A PNG file as a data URL."""
    return url(path.read_bytes(), "png")


def url(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
