"""Alignment: does the network that was trained on real data find in a synthetic image what its label says?"""

import numpy as np

from lldm3d.data.dataset import Schema
from lldm3d.evaluation.comparison import bootstrap
from lldm3d.evaluation.rows import HIGHER, LOWER, Row

WANTED_RATIO = 0.8
Scores = dict[str, dict[str, float]]  # metric: class: value, of a case
METRICS = {"dice": ("Dice", "", HIGHER), "recall": ("recall", "", HIGHER), "hd95": ("HD95", "mm", LOWER)}


def alignment_rows(synthetic: list[Scores], test: list[Scores], schema: Schema, identity: dict) -> list[Row]:
    """Dice, recall and HD95 of each class on synthetic pairs beside those on real test cases, and ratios to them."""
    rows = []
    for name in schema.class_names[1:]:
        for key, (title, unit, direction) in METRICS.items():
            ours, real = scores(synthetic, key, name), scores(test, key, name)
            common = {"group": "alignment", "class_name": name, **identity}
            rows.append(mean_row(title, unit, direction, ours, real, common))
            if key != "hd95":
                rows.append(ratio_row(title, ours, real, common))
    return rows


def scores(side: list[Scores], metric: str, name: str) -> np.ndarray:
    """The values of all cases whose label holds the class; NaN where HD95 is undefined."""
    return np.array([case[metric][name] for case in side if name in case[metric]], float)


def mean_row(title: str, unit: str, direction: str, ours: np.ndarray, real: np.ndarray, common: dict) -> Row:
    lost = int(np.isnan(ours).sum())
    ours, real = ours[~np.isnan(ours)], real[~np.isnan(real)]
    note = f"floor: {len(real)} real test cases" if len(real) else "no real test case has this class"
    if lost:
        note += f"; undefined in {lost} synthetic cases, where the network finds nothing"
    if not len(ours):
        note = f"undefined in all {lost} synthetic cases that have this class"
    return Row(
        name=title,
        unit=unit,
        between="label of a synthetic pair / segmentation of its image",
        value=float(ours.mean()) if len(ours) else None,
        interval=bootstrap(np.mean, ours) if len(ours) else None,
        n=len(ours),
        floor=float(real.mean()) if len(real) else None,
        direction=direction,
        note=note,
        **common,
    )


def ratio_row(title: str, ours: np.ndarray, real: np.ndarray, common: dict) -> Row:
    """Mean on synthetic pairs as a share of the mean on real test cases."""

    def ratio(a: np.ndarray, b: np.ndarray) -> float:
        return a.mean() / b.mean() if b.mean() > 0 else np.nan

    known = len(ours) and len(real) and real.mean() > 0
    reason = (
        f"at least {WANTED_RATIO} is wanted" if known else "no real test case in which the network finds this class"
    )
    return Row(
        name=f"{title} ratio",
        between="synthetic pairs / real test",
        value=float(ratio(ours, real)) if known else None,
        interval=bootstrap(ratio, ours, real) if known else None,
        n=min(len(ours), len(real)),
        direction=HIGHER,
        note=reason if len(ours) else "no synthetic case has this class",
        **common,
    )
