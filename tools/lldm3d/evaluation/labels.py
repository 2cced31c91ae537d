"""Label statistics of both sides: Wasserstein distances with their floors, and anatomical rules."""

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lldm3d.data.dataset import Schema
from lldm3d.evaluation.comparison import bootstrap, compare
from lldm3d.evaluation.distances import wasserstein
from lldm3d.evaluation.manifold import NEIGHBOURS, precision, recall
from lldm3d.evaluation.rows import HIGHER, LOWER, Row
from lldm3d.evaluation.scans import case_name
from lldm3d.evaluation.shapes import UNITS
from lldm3d.evaluation.survey import Survey
from lldm3d.files import whole

RULES = ("held share", "enclosed share")  # shares in [0, 1] that anatomy wants high


def label_rows(synthetic: Survey, training: Survey, test: Survey, schema: Schema, seed: int = 0) -> list[Row]:
    """One Wasserstein row for each statistic, class and real side; then the rules of anatomy."""
    if not synthetic.statistics or not training.statistics:
        side = "synthetic" if training.statistics else "real"
        note = f"needs labels and the names of their classes on both sides; the {side} side has none"
        return [Row("labels", "label statistics", "synthetic / real training", None, LOWER, note=note)]
    rows = []
    for statistic, name in synthetic.statistics[0]:
        key = (statistic, name)
        if statistic in RULES:
            rows.append(rule_row(key, synthetic, training, schema))
            continue
        sides = [values(side, key) for side in (synthetic, training, test)]
        blank = Row("labels", f"{statistic}: Wasserstein distance", "", None, LOWER, name, UNITS[statistic])
        rows += [replace(blank, **vars(item)) for item in compare(wasserstein, *sides, seed)]
    rows += shape_rows(synthetic, training, test, seed)
    return rows + [one_organ_row(parent, synthetic, training) for parent in sorted(set(schema.inside.values()))]


def shape_rows(synthetic: Survey, training: Survey, test: Survey, seed: int) -> list[Row]:
    """Precision and recall of all statistics together: does each label map look like a real one, is each kind met.

    A label map is the vector of its statistics, each in standard deviations of the training cases (cf. the IP and IR
    of shape features in LN-Gen).
    """
    sides = [vectors(side) for side in (synthetic, training, test)]
    spread = sides[1].std(0)
    sides = [side[:, spread > 0] / spread[spread > 0] if len(side) else side for side in sides]
    rows = []
    for name, measure in (("shape precision", precision), ("shape recall", recall)):
        blank = Row("labels", name, "", None, HIGHER)
        rows += [replace(blank, **vars(item)) for item in compare(measure, *sides, seed, least=NEIGHBOURS + 1)]
    return rows


def vectors(side: Survey) -> np.ndarray:
    """[N, K]: the mean of each statistic of each case, 0 where there is none."""
    return np.array(
        [[found.mean() if len(found) else 0.0 for found in case.values()] for case in side.statistics], float
    )


def values(side: Survey, key: tuple[str, str]) -> list[np.ndarray]:
    """One array for each case."""
    return [statistics[key] for statistics in side.statistics]


def rule_row(key: tuple[str, str], synthetic: Survey, training: Survey, schema: Schema) -> Row:
    """Mean of a containment share over the cases that have the class."""
    statistic, name = key
    parent = schema.inside[name]
    meaning = {
        "held share": f"share of the components that touch {parent} or a class inside it",
        "enclosed share": f"share of the border voxels that are {parent} or a class inside it",
    }[statistic]
    ours, real = (np.concatenate(values(side, key)) for side in (synthetic, training))
    return share_row(f"{statistic} in {parent}", name, ours, real, meaning)


def one_organ_row(parent: str, synthetic: Survey, training: Survey) -> Row:
    """Share of the cases in which the organ, with all that lies inside it, is one component."""
    ours, real = (
        np.array([record.one_organ[parent] for record in side.records], float) for side in (synthetic, training)
    )
    return share_row(
        "one organ", parent, ours, real, "share of the cases in which it, with what lies in it, is one piece"
    )


def share_row(name: str, class_name: str, ours: Sequence[float], real: Sequence[float], note: str) -> Row:
    return Row(
        group="labels",
        name=name,
        class_name=class_name,
        between="synthetic; floor: real training",
        value=float(np.mean(ours)) if len(ours) else None,
        interval=bootstrap(np.mean, ours) if len(ours) else None,
        n=len(ours),
        floor=float(np.mean(real)) if len(real) else None,
        direction=HIGHER,
        note=note if len(ours) else f"no synthetic case has {class_name}",
    )


def write_statistics(path: str | Path, sides: dict[str, Survey]) -> None:
    """Write every value of every case: side, case, class, statistic, unit, value."""
    with whole(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["side", "case", "class", "statistic", "unit", "value"])
        for side, found in sides.items():
            for case, record in zip(found.cases, found.records, strict=True):
                for (statistic, name), items in (record.statistics or {}).items():
                    writer.writerows(
                        [side, case_name(case), name, statistic, UNITS[statistic], f"{value:.6g}"] for value in items
                    )
