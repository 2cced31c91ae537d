"""The figures of an evaluation."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lldm3d import plots
from lldm3d.data.dataset import Schema
from lldm3d.evaluation.copies import Nearest, scaled_features
from lldm3d.evaluation.features import Space
from lldm3d.evaluation.labels import UNITS
from lldm3d.evaluation.metrics import Row
from lldm3d.evaluation.observer import Observer
from lldm3d.evaluation.records import Record, Survey
from lldm3d.evaluation.scans import case_name, read

SIDES = {  # side: (words, colour, marker)
    "training": ("real, training", plots.REAL, "o"),
    "test": ("real, test", plots.HELD_OUT, "s"),
    "synthetic": ("synthetic", plots.SYNTHETIC, "^"),
}
TITLES = {"features": "feature space (standard deviations)", "image": "image space (1 - correlation)"}
PAIRS_SHOWN = 4


def write(
    folder: Path,
    sides: dict[str, Survey],
    spaces: list[Nearest],
    nearest: list[dict],
    rows: list[Row],
    observer: Observer,
) -> None:
    """Draw the figures of an evaluation as PNG into `folder`: those for which there is something to draw."""
    schema = observer.schema
    near = next((space for space in observer.spaces if space.neighbours), None)
    drawn = {
        "nearest_distances": nearest_distances(spaces),
        "nearest_pairs": nearest_pairs(nearest, sides, schema),
    }
    if observer.spaces:
        drawn["fidelity"] = fidelity(rows)
    if near:
        drawn["features"] = features(sides, near)
    if sides["training"].statistics and sides["synthetic"].statistics:
        drawn["label_statistics"] = label_statistics(sides)
    if sides["synthetic"].scores:
        drawn |= {"alignment": alignment(rows), "cases": cases(sides["synthetic"], schema)}
    for name, figure in drawn.items():
        plots.save(figure, folder / f"{name}.png")


def light(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """A white figure of `width` x `height` inches with a grid of axes [rows, columns] without needless frames."""
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    return figure, grid


def fidelity(rows: list[Row]) -> Figure:
    """FID and KID to half of the real training cases: of the other half, of synthetic and of blurred real cases."""
    distances = [row for row in rows if row.name.startswith(("FID", "KID"))]
    found = [row for row in distances if row.between == "synthetic / real training"][:4]
    figure, grid = light(-(-len(found) // 2), 2, 7.6, 2.1 * -(-len(found) // 2))
    for axes, ours in zip(grid.flat, found, strict=False):
        blurred = next(row for row in distances if row.name == ours.name and row.between.startswith("blur"))
        bars = {
            "real (floor)": (ours.floor, None, plots.REAL),
            "synthetic": (ours.value, ours.interval, plots.SYNTHETIC),
            "real, blurred": (blurred.value, blurred.interval, plots.GREY),
        }
        for at, (value, interval, colour) in enumerate(bars.values()):
            axes.barh(-at, value or 0, 0.62, color=colour)
            if interval:
                axes.hlines(-at, *interval, color="black", lw=1.2)
        axes.axvline(0, color="black", lw=0.8)
        axes.set_yticks([0, -1, -2], bars)
        axes.set_title(f"{ours.name} ({ours.n} cases each)", fontsize=9)
    return figure


def features(sides: dict[str, Survey], space: Space) -> Figure:
    """The cases in the plane of the two principal components of the real training features."""
    figure, [[axes]] = light(1, 1, 6, 4.6)
    training = sides["training"]
    points = scaled_features(training, training, space)
    centre = points.mean(0)
    _, spread, directions = np.linalg.svd(points - centre, full_matrices=False)
    for side, (words, colour, marker) in SIDES.items():
        if len(sides[side]):
            x, y = ((scaled_features(sides[side], training, space) - centre) @ directions[:2].T).T
            axes.scatter(x, y, s=30, c=colour, marker=marker, alpha=0.75, label=f"{words} ({len(x)})", linewidths=0)
    shares = spread**2 / (spread**2).sum()
    axes.set_xlabel(f"first principal component ({shares[0]:.0%} of the real variance)")
    axes.set_ylabel(f"second ({shares[1]:.0%})")
    axes.legend(frameon=False, fontsize=9)
    return figure


def cases(synthetic: Survey, schema: Schema) -> Figure:
    """The synthetic cases with the best, a middle and the worst mean Dice of the network: image, and label on it."""
    scored = [pair for pair in zip(synthetic.cases, synthetic.records, strict=True) if pair[1].scores["dice"]]
    order = sorted(scored, key=lambda pair: mean_dice(pair[1]))
    chosen = {"best": order[-1], "median": order[len(order) // 2], "worst": order[0]}
    figure, grid = plots.dark(len(plots.PLANES), 2 * len(chosen), 9.6, 5.2)
    for column, (words, (case, record)) in enumerate(chosen.items()):
        scan = read(case, schema)
        grid[0, 2 * column].set_title(f"{words}: {case_name(case)}", color="white", fontsize=7.5)
        grid[0, 2 * column + 1].set_title(f"mean Dice {mean_dice(record):.2f}", color="white", fontsize=7.5)
        for row, (plane, axis) in zip(grid, plots.PLANES.items(), strict=True):
            index = plots.best_slice(scan.label, axis)
            for axes in row[2 * column : 2 * column + 2]:
                plots.show(axes, scan.image, schema.spacing, plane, index)
            plots.outline(row[2 * column + 1], scan.label, plane, index)
    plots.legend(figure, schema.class_names, loc="outside lower center", fontsize=8)
    return figure


def mean_dice(record: Record) -> float:
    return float(np.mean(list(record.scores["dice"].values())))


def label_statistics(sides: dict[str, Survey]) -> Figure:
    """Each statistic and class: every case as a dot, medians as lines."""
    keys = [
        key
        for key in sides["training"].statistics[0]
        if any(len(case[key]) for side in SIDES for case in sides[side].statistics)
    ]
    columns = min(4, len(keys))
    figure, grid = light(-(-len(keys) // columns), columns, 2.6 * columns, 2.3 * -(-len(keys) // columns))
    for axes, key in zip(grid.flat, keys, strict=False):
        strip(axes, [np.concatenate([case[key] for case in sides[side].statistics] or [[]]) for side in SIDES])
        statistic, name = key
        unit = f" ({UNITS[statistic]})" if UNITS[statistic] else ""
        axes.set_title(f"{name}: {statistic}{unit}", fontsize=9)
    for axes in grid.flat[len(keys) :]:
        axes.set_axis_off()
    return figure


def strip(axes: Axes, groups: list[np.ndarray]) -> None:
    """One column of dots for each side, with its median."""
    rng = np.random.default_rng(0)
    for at, (values, (_, colour, _)) in enumerate(zip(groups, SIDES.values(), strict=True)):
        axes.scatter(at + rng.uniform(-0.22, 0.22, len(values)), values, s=9, c=colour, alpha=0.55, linewidths=0)
        if len(values):
            axes.hlines(np.median(values), at - 0.33, at + 0.33, color=colour, lw=2)
    axes.set_xticks(range(3), ["real\ntraining", "real\ntest", "synthetic"], fontsize=7.5)
    axes.set_xlim(-0.6, 2.6)
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    axes.yaxis.get_major_locator().set_params(integer=all((values % 1 == 0).all() for values in groups))


def alignment(rows: list[Row]) -> Figure:
    """Dice and recall of each class: real test cases beside synthetic pairs."""
    chosen = {
        name: [row for row in rows if row.group == "alignment" and row.name == name] for name in ("Dice", "recall")
    }
    classes = [row.class_name for row in chosen["Dice"]]
    figure, grid = light(1, 2, max(6.5, 1.3 * len(classes) * 2), 3)
    for axes, (name, found) in zip(grid.flat, chosen.items(), strict=True):
        at = np.arange(len(classes))
        real, ours = (
            [value or 0 for value in values] for values in ([r.floor for r in found], [r.value for r in found])
        )
        axes.bar(at - 0.19, real, 0.36, color=plots.HELD_OUT, label="real test images")
        axes.bar(at + 0.19, ours, 0.36, color=plots.SYNTHETIC, label="synthetic images")
        for x, row in zip(at, found, strict=True):
            if row.interval:
                axes.vlines(x + 0.19, *row.interval, color="black", lw=1.2)
        axes.set_xticks(at, classes, fontsize=8)
        axes.set_ylim(0, 1)
        axes.set_title(f"{name} of the R-trained network", fontsize=9)
    handles, words = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, words, frameon=False, fontsize=8, loc="outside lower center", ncols=2)
    return figure


def nearest_distances(spaces: list[Nearest]) -> Figure:
    """Distances to the nearest training case: synthetic and held-out real cases, with the 5 % line."""
    figure, grid = light(1, len(spaces), 4.4 * len(spaces), 2.9)
    for axes, item in zip(grid.flat, spaces, strict=True):
        bins = np.linspace(0, max(item.synthetic.max(), *item.held_out, 1e-9) * 1.02, 24)
        axes.hist(
            item.held_out,
            bins,
            weights=shares(item.held_out),
            color=plots.HELD_OUT,
            alpha=0.55,
            label="real, held out",
        )
        axes.hist(
            item.synthetic,
            bins,
            weights=shares(item.synthetic),
            color=plots.SYNTHETIC,
            alpha=0.55,
            label="synthetic",
        )
        if item.comparable:
            axes.axvline(item.threshold, color="black", lw=1, ls="--", label="5 % of held-out real")
        axes.set_title(TITLES[item.space], fontsize=9)
        axes.set_xlabel("distance to the nearest training case", fontsize=8)
        axes.set_ylabel("share of cases", fontsize=8)
    grid.flat[0].legend(frameon=False, fontsize=8)
    return figure


def shares(values: np.ndarray) -> np.ndarray:
    """Weights that make the bars of a histogram add up to 1."""
    return np.full(len(values), 1 / max(len(values), 1))


def nearest_pairs(nearest: list[dict], sides: dict[str, Survey], schema: Schema) -> Figure:
    """The synthetic cases nearest to training cases in each space, above those training cases."""
    chosen = [entry for space in TITLES for entry in of_space(nearest, space)[:PAIRS_SHOWN]]
    labels = {case["image"]: case for side in ("synthetic", "training") for case in sides[side].cases}
    figure, grid = plots.dark(2, len(chosen), 1.4 * len(chosen), 4.1)
    for column, entry in zip(grid.T, chosen, strict=True):
        scans = [read(labels[entry[key]], schema) for key in ("image", "nearest_image")]
        index = plots.best_slice(scans[0].foreground, plots.PLANES["axial"])  # of both, to be compared
        for axes, scan in zip(column, scans, strict=True):
            plots.show(axes, scan.image, schema.spacing, "axial", index)
        near = entry["threshold"] is not None and entry["distance"] < entry["threshold"]
        words = f"{entry['case']}\n{entry['space']}: {entry['distance']:.3g}"
        column[0].set_title(words, color=plots.COLOURS[0] if near else "white", fontsize=6.5)
        column[1].set_title(f"nearest real:\n{entry['nearest']}", color="white", fontsize=6.5)
    return figure


def of_space(nearest: list[dict], space: str) -> list[dict]:
    return [entry for entry in nearest if entry["space"] == space]
