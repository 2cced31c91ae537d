"""The figures of an evaluation."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lldm3d import plots
from lldm3d.data.dataset import Schema
from lldm3d.data.scans import read_pair
from lldm3d.evaluation.copies import NearestCases, scaled_features
from lldm3d.evaluation.extraction import RecordExtractor
from lldm3d.evaluation.features import FeatureSpace
from lldm3d.evaluation.labels import metric_of
from lldm3d.evaluation.metrics import Compared, Metric, Row
from lldm3d.evaluation.records import CaseRecords, Record

SHOWN = {  # split: (words, colour, marker)
    "training": ("real, training", plots.REAL, "o"),
    "test": ("real, test", plots.HELD_OUT, "s"),
    "synthetic": ("synthetic", plots.SYNTHETIC, "^"),
}
DISTANCES = {"features": "features (standard deviations)", "image": "images (1 - correlation)"}
PAIRS_SHOWN, DISTANCES_SHOWN = 4, 4
FIGURES = ("fidelity", "features", "label_statistics", "alignment", "cases", "nearest_distances", "nearest_pairs")


def write_figures(
    folder: Path,
    records: dict[str, CaseRecords],
    nearest: list[NearestCases],
    pairs: list[dict],
    rows: list[Row],
    extractor: RecordExtractor,
) -> None:
    """Write the `FIGURES` of an evaluation as PNG into `folder`: those for which there is something to show. Those of
    an earlier one go."""
    schema = extractor.schema
    near = next((space for space in extractor.spaces if space.neighbours), None)
    made = {
        "nearest_distances": nearest_distances_figure(nearest),
        "nearest_pairs": nearest_pairs_figure(pairs, records, schema),
    }
    if extractor.spaces:
        made["fidelity"] = fidelity_figure(rows)
    if near:
        made["features"] = features_figure(records, near)
    if records["training"].statistics and records["synthetic"].statistics and shown_statistics(records):
        made["label_statistics"] = label_statistics_figure(records)
    if any(scores["dice"] for scores in records["synthetic"].scores):  # none where all labels are empty
        made |= {"alignment": alignment_figure(rows), "cases": cases_figure(records["synthetic"], schema)}
    for name in FIGURES:
        if name in made:
            plots.save(made[name], folder / f"{name}.png")
        else:
            (folder / f"{name}.png").unlink(missing_ok=True)


def fidelity_figure(rows: list[Row]) -> Figure:
    """FID and KID to half of the real training cases: of the other half, of synthetic and of blurred real cases."""
    distances = [row for row in rows if row.metric in (Metric.FID, Metric.KID)]
    found = [row for row in distances if row.compared == Compared.SYNTHETIC_TRAINING][:DISTANCES_SHOWN]
    figure, grid = plots.light(-(-len(found) // 2), 2, 7.6, 2.1 * -(-len(found) // 2))
    for axes, ours in zip(grid.flat, found, strict=False):
        same = [row for row in distances if (row.metric, row.variant) == (ours.metric, ours.variant)]
        blurred = next(row for row in same if row.compared == Compared.BLURRED_TRAINING)
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
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_yticks([0, -1, -2], bars)
        axes.set_title(f"{ours.as_dict()['name']} ({ours.n} cases each)", fontsize=9)
    return figure


def features_figure(records: dict[str, CaseRecords], space: FeatureSpace) -> Figure:
    """The cases in the plane of the two principal components of the real training features."""
    figure, [[axes]] = plots.light(1, 1, 6, 4.6)
    training = records["training"]
    points = scaled_features(training, training, space)
    centre = points.mean(0)
    _, spread, directions = np.linalg.svd(points - centre, full_matrices=False)
    for split, (words, colour, marker) in SHOWN.items():
        if len(records[split]):
            x, y = ((scaled_features(records[split], training, space) - centre) @ directions[:2].T).T
            axes.scatter(x, y, s=30, c=colour, marker=marker, alpha=0.75, label=f"{words} ({len(x)})", linewidths=0)
    shares = spread**2 / (spread**2).sum()
    axes.set_xlabel(f"first principal component ({shares[0]:.0%} of the real variance)")
    axes.set_ylabel(f"second ({shares[1]:.0%})")
    axes.legend(frameon=False, fontsize=9)
    return figure


def cases_figure(synthetic: CaseRecords, schema: Schema) -> Figure:
    """The synthetic cases with the best, a middle and the worst mean Dice of the network: image, and label on it."""
    scored = [pair for pair in zip(synthetic.cases, synthetic.records, strict=True) if pair[1].scores["dice"]]
    order = sorted(scored, key=lambda pair: mean_dice(pair[1]))
    chosen = {"best": order[-1], "median": order[len(order) // 2], "worst": order[0]}
    figure, grid = plots.dark(len(plots.PLANES), 2 * len(chosen), 9.6, 5.2)
    for column, (words, (case, record)) in enumerate(chosen.items()):
        scan = read_pair(case, schema)
        grid[0, 2 * column].set_title(f"{words}: {case.name}", color="white", fontsize=7.5)
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


def shown_statistics(records: dict[str, CaseRecords]) -> list[tuple[str, str]]:
    """The statistics and classes of which any case has a value."""
    cases = [case for split in SHOWN for case in records[split].statistics]
    return [key for key in cases[0] if any(len(case[key]) for case in cases)]


def label_statistics_figure(records: dict[str, CaseRecords]) -> Figure:
    """Each statistic and class: every case as a dot, medians as lines."""
    keys = shown_statistics(records)
    columns = min(4, len(keys))
    figure, grid = plots.light(-(-len(keys) // columns), columns, 2.6 * columns, 2.3 * -(-len(keys) // columns))
    for axes, key in zip(grid.flat, keys, strict=False):
        statistic, name = key
        values = [[case[key] for case in records[split].statistics] for split in SHOWN]
        dot_columns(axes, [np.concatenate(items or [[]]) for items in values])
        unit = metric_of(statistic).unit
        axes.set_title(f"{name}: {statistic.replace('_', ' ')}{f' ({unit})' if unit else ''}", fontsize=9)
    for axes in grid.flat[len(keys) :]:
        axes.set_axis_off()
    return figure


def dot_columns(axes: Axes, groups: list[np.ndarray]) -> None:
    """One column of dots for each split, with its median."""
    rng = np.random.default_rng(0)
    for at, (values, (_, colour, _)) in enumerate(zip(groups, SHOWN.values(), strict=True)):
        axes.scatter(at + rng.uniform(-0.22, 0.22, len(values)), values, s=9, c=colour, alpha=0.55, linewidths=0)
        if len(values):
            axes.hlines(np.median(values), at - 0.33, at + 0.33, color=colour, lw=2)
    axes.set_xticks(range(3), ["real\ntraining", "real\ntest", "synthetic"], fontsize=7.5)
    axes.set_xlim(-0.6, 2.6)
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    axes.yaxis.get_major_locator().set_params(integer=all((values % 1 == 0).all() for values in groups))


def alignment_figure(rows: list[Row]) -> Figure:
    """Dice and recall of each class: real test cases beside synthetic pairs."""
    shown = (Metric.ALIGNMENT_DICE, Metric.ALIGNMENT_RECALL)
    chosen = {metric: [row for row in rows if row.metric == metric and not row.variant] for metric in shown}
    classes = [row.class_name for row in chosen[Metric.ALIGNMENT_DICE]]
    figure, grid = plots.light(1, 2, max(6.5, 1.3 * len(classes) * 2), 3)
    for axes, (metric, found) in zip(grid.flat, chosen.items(), strict=True):
        at = np.arange(len(classes))
        real, ours = [row.floor or 0 for row in found], [row.value or 0 for row in found]
        axes.bar(at - 0.19, real, 0.36, color=plots.HELD_OUT, label="real test images")
        axes.bar(at + 0.19, ours, 0.36, color=plots.SYNTHETIC, label="synthetic images")
        for x, row in zip(at, found, strict=True):
            if row.interval:
                axes.vlines(x + 0.19, *row.interval, color="black", lw=1.2)
        axes.set_xticks(at, classes, fontsize=8)
        axes.set_ylim(0, 1)
        axes.set_title(f"{metric.title} by the network trained on R", fontsize=9)
    handles, words = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, words, frameon=False, fontsize=8, loc="outside lower center", ncols=2)
    return figure


def nearest_distances_figure(nearest: list[NearestCases]) -> Figure:
    """Distances to the nearest training case: synthetic and held-out real cases, with the 5 % line."""
    figure, grid = plots.light(1, len(nearest), 4.4 * len(nearest), 2.9)
    for axes, item in zip(grid.flat, nearest, strict=True):
        bins = np.linspace(0, max(item.synthetic.max(), *item.held_out, 1e-9) * 1.02, 24)
        sets = {"real, held out": (item.held_out, plots.HELD_OUT), "synthetic": (item.synthetic, plots.SYNTHETIC)}
        for words, (values, colour) in sets.items():
            weights = np.full(len(values), 1 / max(len(values), 1))  # the bars add up to 1
            axes.hist(values, bins, weights=weights, color=colour, alpha=0.55, label=words)
        if item.comparable:
            axes.axvline(item.threshold, color="black", lw=1, ls="--", label="5 % of held-out real")
        axes.set_title(DISTANCES[item.by], fontsize=9)
        axes.set_xlabel("distance to the nearest training case", fontsize=8)
        axes.set_ylabel("share of cases", fontsize=8)
    grid.flat[0].legend(frameon=False, fontsize=8)
    return figure


def nearest_pairs_figure(pairs: list[dict], records: dict[str, CaseRecords], schema: Schema) -> Figure:
    """The synthetic cases nearest to training cases by features and by image, above those training cases."""
    chosen = [entry for by in DISTANCES for entry in [pair for pair in pairs if pair["by"] == by][:PAIRS_SHOWN]]
    cases = {case.image: case for split in records.values() for case in split.cases}
    figure, grid = plots.dark(2, len(chosen), 1.4 * len(chosen), 4.1)
    for column, entry in zip(grid.T, chosen, strict=True):
        scans = [read_pair(cases[entry[key]], schema) for key in ("image", "nearest_image")]
        index = plots.best_slice(scans[0].foreground, plots.PLANES["axial"])  # of both, to be compared
        for axes, scan in zip(column, scans, strict=True):
            plots.show(axes, scan.image, schema.spacing, "axial", index)
        near = entry["threshold"] is not None and entry["distance"] < entry["threshold"]
        words = f"{entry['case']}\n{entry['by']}: {entry['distance']:.3g}"
        column[0].set_title(words, color=plots.COLOURS[0] if near else "white", fontsize=6.5)
        kind = "warped real" if entry["warped"] else "real"
        column[1].set_title(f"nearest {kind}:\n{entry['nearest']}", color="white", fontsize=6.5)
    return figure
