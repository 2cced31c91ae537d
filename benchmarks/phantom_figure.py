"""The README's figure of the phantom: `python -m benchmarks.phantom_figure --output docs/figures/phantom.png`."""

from pathlib import Path

import fire
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from scipy import ndimage

from lldm3d.files import atomic_write
from lldm3d.phantom.case import HCC, HEPATIC, LIVER, PORTAL, make_case

COLOURS = {LIVER: "#7fbf7f", PORTAL: "#4da6ff", HEPATIC: "#ff5c5c", HCC: "#ffd92f"}
AXIAL, CORONAL, SAGITTAL = 2, 1, 0  # the axis that the slice is normal to


def draw(
    output: str,
    cases: tuple[int, ...] = (3, 7, 8),
    size: tuple[int, int, int] = (160, 160, 64),
    spacing: tuple[float, float, float] = (1.5, 1.5, 3.0),
    seed: int = 0,
) -> None:
    """Draw slices of some cases without and with the label's outlines, and their vessels from the front and below."""
    figure = Figure(figsize=(10, 3.75 * len(cases)), facecolor="black")
    axes = figure.subplots(2 * len(cases), 5)
    for row, case in enumerate(cases):
        image, label = make_case(case, tuple(size), tuple(spacing), seed)
        for outlines in (False, True):
            for ax, (axis, index) in zip(axes[2 * row + outlines], _slices(label), strict=False):
                _show_slice(ax, image, label, axis, index, spacing, outlines)
        _show_vessels(axes[2 * row, 4], label, spacing, CORONAL)
        _show_vessels(axes[2 * row + 1, 4], label, spacing, AXIAL)
    figure.subplots_adjust(0, 0, 1, 1, 0.02, 0.02)
    with atomic_write(Path(output)) as temporary:
        figure.savefig(temporary, dpi=69, facecolor="black")


def _slices(label: np.ndarray) -> list[tuple[int, int]]:
    """(axis, index) of two axial slices, a coronal and a sagittal one, at set shares of the liver's extent."""
    chosen = []
    for axis, share in ((AXIAL, 0.45), (AXIAL, 0.72), (CORONAL, 0.5), (SAGITTAL, 0.6)):
        others = tuple(i for i in range(3) if i != axis)
        extent = np.flatnonzero((label > 0).any(others))
        chosen.append((axis, int(extent[0] + share * np.ptp(extent))))
    return chosen


def _flat(volume: np.ndarray, axis: int) -> np.ndarray:
    """A slice or projection as rows upward and columns rightward: the patient's right is on the left."""
    return volume.T if axis == SAGITTAL else volume.T[:, ::-1]


def _extent(shape: tuple[int, ...], spacing: tuple, axis: int) -> list[float]:
    """Edges in mm of a picture of a volume of `shape`, seen along `axis`."""
    width, height = (n * s for i, (n, s) in enumerate(zip(shape, spacing, strict=True)) if i != axis)
    return [0, width, 0, height]


def _show_slice(ax: Axes, image: np.ndarray, label: np.ndarray, axis: int, index: int, spacing, outlines: bool) -> None:
    extent = _extent(image.shape, spacing, axis)
    window = 1.1 * np.percentile(image[label == LIVER], 99)
    picture = _flat(image.take(index, axis), axis)
    ax.imshow(picture, cmap="gray", vmin=0, vmax=window, origin="lower", extent=extent, interpolation="bilinear")
    ax.set_axis_off()
    plane = _flat(label.take(index, axis), axis)
    for value, colour in COLOURS.items() if outlines else ():
        inside = (plane > 0) if value == LIVER else (plane == value)
        if inside.any():
            ax.contour(inside, [0.5], colors=colour, linewidths=0.8, origin="lower", extent=extent)


def _show_vessels(ax: Axes, label: np.ndarray, spacing: tuple, axis: int) -> None:
    """Vessels and lesions from the front (coronal) or from below (axial), darker with depth, on a silhouette."""
    label = label[ndimage.find_objects((label > 0).astype(int))[0]]
    volume = label[:, ::-1] if axis == CORONAL else label
    solid = volume > LIVER
    depth = solid.argmax(axis)
    nearest = np.take_along_axis(volume, np.expand_dims(depth, axis), axis).squeeze(axis)
    palette = np.array([to_rgb(COLOURS.get(value, "black")) for value in range(5)])
    extent = np.flatnonzero(solid.any(tuple(i for i in range(3) if i != axis)))
    light = 1 - 0.75 * (depth - extent[0]) / max(np.ptp(extent), 1)
    silhouette = np.where((volume > 0).any(axis), 0.16, 0.0)
    colour = np.where(solid.any(axis)[..., None], palette[nearest] * light[..., None], silhouette[..., None])
    picture = colour.transpose(1, 0, 2)[:, ::-1]
    ax.imshow(picture, origin="lower", extent=_extent(label.shape, spacing, axis), interpolation="bilinear")
    ax.set_axis_off()


if __name__ == "__main__":
    fire.Fire(draw)
