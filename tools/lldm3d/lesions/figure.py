"""The picture of edits: before, after and their difference, in three planes."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from lldm3d import plots
from lldm3d.data.scans import Scan

SHOWN = 10  # edits
MARGIN = 6  # voxels round the organ
COLUMNS = ("before", "after", "difference")
WIDTH = 13.0  # inches


def edits_figure(
    before: Scan, after: Sequence[Scan], outlined: int, spacing: tuple[float, float, float], class_names: tuple
) -> Figure:
    """A row for each edit of a scan, cut to what is labelled, where its label changes most.

    Of a scan whose image does not change the last column shows where the label does.

    Args:
        outlined: the class that is outlined after the edit.
    """
    after = after[:SHOWN]
    held = zip(np.nonzero(before.label), before.label.shape, strict=True)
    box = tuple(slice(max(at.min() - MARGIN, 0), min(at.max() + 1 + MARGIN, size)) for at, size in held)
    size = np.array([axis.stop - axis.start for axis in box]) * spacing  # mm
    widths = [size[1], size[0], size[0]]  # of sagittal, coronal and axial slices
    height = max(size[2], size[1]) * WIDTH / (3.1 * sum(widths)) + 0.05
    columns = [width for width in widths for _ in COLUMNS]
    figure, grid = plots.dark(len(after), 9, WIDTH, len(after) * height + 0.6, width_ratios=columns)
    for row, scan in zip(grid, after, strict=True):
        show_edit(row, cut(before, box), cut(scan, box), outlined, spacing)
    for number, axes in enumerate(grid[0]):
        axes.set_title(f"{list(plots.PLANES)[number // 3]}, {COLUMNS[number % 3]}", color="white", fontsize=8)
    plots.legend(figure, class_names, loc="outside lower center", fontsize=8)
    return figure


def cut(scan: Scan, box: tuple[slice, ...]) -> Scan:
    """The part of a scan within a box."""
    return Scan(scan.image[box], scan.label[box], scan.affine)


def show_edit(row: np.ndarray, before: Scan, after: Scan, outlined: int, spacing: tuple[float, float, float]) -> None:
    """Fill nine axes with the three planes of an edit."""
    difference = after.image - before.image
    if not difference.any():
        difference = np.float32(after.label != before.label)
    changed, top = after.label != before.label, float(np.abs(difference).max()) or 1.0
    for columns, (plane, axis) in zip(row.reshape(3, 3), plots.PLANES.items(), strict=True):
        index = plots.best_slice(changed, axis)
        for axes, scan in zip(columns, (before, after), strict=False):
            plots.show(axes, scan.image, spacing, plane, index, like=before.image)
        plots.outline(columns[1], np.where(after.label == outlined, outlined, 0), plane, index)
        picture = plots.picture_of(difference, plane, index)
        columns[2].imshow(picture, "coolwarm", vmin=-top, vmax=top, aspect=plots.aspect(spacing, plane))
        columns[2].set_axis_off()
