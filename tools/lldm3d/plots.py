"""Slices of volumes, drawn as a radiologist expects them."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lldm3d.files import atomic_write

matplotlib.use("Agg")
matplotlib.rcParams["text.parse_math"] = False  # a class may be named $T_2$, and formulas that are none raise errors

# Okabe and Ito's colours, told apart by the colour-blind and visible on grey
COLOURS = ("#E69F00", "#56B4E9", "#CC79A7", "#009E73", "#F0E442", "#D55E00", "#0072B2", "#FFFFFF")
REAL, SYNTHETIC, HELD_OUT, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"
PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}  # plane: axis it is perpendicular to
EDGES = {"sagittal": "AP", "coronal": "RL", "axial": "RL"}  # letters at the left and right edge


def colour(value: int) -> str:
    """Colour of label value 1, 2, ..."""
    return COLOURS[(value - 1) % len(COLOURS)]


def best_slice(label: np.ndarray, axis: int) -> int:
    """Index along `axis` of the slice of a label map [X, Y, Z] with the most foreground; the middle without any."""
    counts = (label > 0).sum(tuple(i for i in range(3) if i != axis))
    return int(counts.argmax()) if counts.any() else label.shape[axis] // 2


def picture_of(volume: np.ndarray, plane: str, index: int) -> np.ndarray:
    """A slice of a RAS volume [X, Y, Z] as rows and columns of a picture, in radiological view.

    The patient's right is on the left side of axial and coronal slices, anterior on top of axial ones and on the left
    of sagittal ones, superior on top.
    """
    return np.take(volume, index, PLANES[plane])[::-1, ::-1].T


def aspect(spacing: tuple[float, float, float], plane: str) -> float:
    """Height of a pixel over its width, from the spacing in mm."""
    width, height = (length for axis, length in enumerate(spacing) if axis != PLANES[plane])
    return height / width


def show(
    axes: Axes,
    image: np.ndarray,
    spacing: tuple[float, float, float],
    plane: str,
    index: int,
    like: np.ndarray | None = None,
) -> None:
    """Draw a slice of an image [X, Y, Z] in grey; white is its 99.5th percentile, as in a viewer, or that of `like`."""
    like = image if like is None else like
    top = float(np.percentile(like, 99.5)) or float(like.max())
    picture = picture_of(image, plane, index)
    axes.imshow(picture, "gray", vmin=min(0, top), vmax=top, aspect=aspect(spacing, plane), interpolation="bilinear")
    axes.set_axis_off()


def outline(axes: Axes, label: np.ndarray, plane: str, index: int) -> None:
    """Draw the outline of each class in a slice of a label map [X, Y, Z]."""
    picture = picture_of(label, plane, index)
    for value in np.unique(picture[picture > 0]):
        axes.contour(picture == value, levels=[0.5], colors=colour(int(value)), linewidths=1.1)


def see_through(axes: Axes, label: np.ndarray, spacing: tuple[float, float, float], plane: str) -> None:
    """Draw a label map [X, Y, Z] seen through from the front (or side, or above): brighter where a class is thicker.

    Small classes lie over large ones, so that vessels and tumours show inside their organ.
    """
    axis = PLANES[plane]
    values, counts = np.unique(label[label > 0], return_counts=True)
    first = picture_of(label, plane, 0)
    rgb = np.zeros((*first.shape, 3))
    for value in values[np.argsort(-counts)]:
        depth = np.expand_dims((label == value).sum(axis), axis)
        depth = picture_of(depth, plane, 0) / depth.max()
        cover = np.where(depth > 0, 0.25 + 0.65 * depth, 0)[..., None]
        rgb = rgb * (1 - cover) + cover * np.array(matplotlib.colors.to_rgb(colour(int(value))))
    axes.imshow(rgb, aspect=aspect(spacing, plane), interpolation="nearest")
    axes.set_axis_off()


def legend(figure: Figure, class_names: tuple[str, ...], **position) -> None:
    """Show which colour stands for which class."""
    handles = [Line2D([], [], color=colour(value), lw=4) for value in range(1, len(class_names))]
    figure.legend(handles, class_names[1:], frameon=False, ncols=min(len(handles), 6), labelcolor="white", **position)


def light(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """A white figure of `width` x `height` inches with a grid of axes [rows, columns] without needless frames."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.12)  # inches: a panel's title is not taken for the label of the axis above
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    return figure, grid


def dark(rows: int, columns: int, width: float, height: float, **ratios) -> tuple[Figure, np.ndarray]:
    """A black figure of `width` x `height` inches with a grid of axes [rows, columns]."""
    figure = Figure(figsize=(width, height), facecolor="black", layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.0, hspace=0.0)
    return figure, figure.subplots(rows, columns, squeeze=False, gridspec_kw=ratios)


def save(figure: Figure, path: str | Path, dpi: int = 110) -> None:
    """Write a figure as PNG."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=dpi, facecolor=figure.get_facecolor())
