"""Copies: is a synthetic case nearer to some training case than real held-out cases are?"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from lldm3d.evaluation.comparison import bootstrap
from lldm3d.evaluation.rows import HIGHER, LOWER, Row
from lldm3d.evaluation.scans import case_name
from lldm3d.evaluation.survey import Survey

PERCENTILE = 5  # of the held-out distances; the share of held-out cases below it is chance
WORST = 10
TOO_FEW = "fewer than 2 held-out real cases (validation and test)"


@dataclass(frozen=True)
class Nearest:
    """Distances [N] of the cases of each side to their nearest training cases, in one space."""

    space: str  # features or image
    synthetic: np.ndarray
    held_out: np.ndarray
    neighbours: np.ndarray  # [N] index of the training case nearest to each synthetic case

    @property
    def threshold(self) -> float:
        return float(np.percentile(self.held_out, PERCENTILE))


def nearest_neighbours(synthetic: Survey, training: Survey, held_out: list[Survey]) -> list[Nearest]:
    """Distances in feature space (Euclidean, each feature divided by its standard deviation over the training cases)
    and in image space (1 - correlation of the coarse images, the mean training image taken off both)."""
    real = [side for side in held_out if len(side)]
    found = []
    for space, scaled in (("features", scaled_features), ("image", correlated_images)):
        points = scaled(training, training)
        between = cdist(scaled(synthetic, training), points)
        other = [cdist(scaled(side, training), points).min(1) for side in real]
        distances = between.min(1), np.concatenate(other) if other else np.empty(0)
        if space == "image":
            distances = tuple(distance**2 / 2 for distance in distances)  # of unit vectors: 1 - correlation
        found.append(Nearest(space, *distances, between.argmin(1)))
    return found


def scaled_features(side: Survey, training: Survey) -> np.ndarray:
    """Features [N, D] in standard deviations of the training cases; a feature that is constant there is left out."""
    spread = training.features.std(0)
    varied = spread > 1e-6 * max(spread.max(), 1e-12)
    return side.features[:, varied] / spread[varied]


def correlated_images(side: Survey, training: Survey) -> np.ndarray:
    """Unit vectors [N, P] whose inner products are the correlations of images less the mean training image.

    What all patients share would else make any two scans near copies.
    """
    rest = side.thumbnails.astype(np.float64) - training.thumbnails.mean(0)
    rest -= rest.mean(1, keepdims=True)
    return rest / np.maximum(np.linalg.norm(rest, axis=1, keepdims=True), 1e-12)


def copy_rows(spaces: list[Nearest], identity: dict) -> list[Row]:
    """For each space: near copies, the share nearer than the 5th percentile of held-out cases, and median distances."""
    rows = []
    for item in spaces:
        common = {"group": "copies", "n": len(item.synthetic), **(identity if item.space == "features" else {})}
        known = len(item.held_out) >= 2
        note = f"{len(item.held_out)} held-out real cases (validation and test)"
        rows.append(
            Row(
                name=f"near copies, {item.space}",
                between="synthetic / real training",
                value=near_copies(item) if known else None,
                unit="cases",
                floor=0 if known else None,
                direction=LOWER,
                note="nearer than half the distance of the nearest held-out case" if known else TOO_FEW,
                **common,
            )
        )
        rows.append(
            Row(
                name=f"share nearer than {PERCENTILE} % of held-out cases, {item.space}",
                between="synthetic / real held-out, to nearest training case",
                value=share(item.synthetic, item.held_out) if known else None,
                interval=bootstrap(share, item.synthetic, item.held_out) if known else None,
                floor=PERCENTILE / 100 if known else None,
                direction=LOWER,
                note=f"{note}; floor: chance" if known else TOO_FEW,
                **common,
            )
        )
        rows.append(
            Row(
                name=f"median distance to nearest training case, {item.space}",
                between="synthetic; floor: real held-out",
                value=float(np.median(item.synthetic)),
                interval=bootstrap(np.median, item.synthetic),
                floor=float(np.median(item.held_out)) if known else None,
                direction=HIGHER,
                note=note,
                **common,
            )
        )
    return rows


def near_copies(item: Nearest) -> int:
    """Number of synthetic cases at less than half the distance of the nearest held-out case."""
    return int((item.synthetic < item.held_out.min() / 2).sum())


def share(synthetic: np.ndarray, held_out: np.ndarray) -> float:
    """Share of the synthetic distances below the 5th percentile of the held-out ones."""
    return float((synthetic < np.percentile(held_out, PERCENTILE)).mean())


def worst(spaces: list[Nearest], synthetic: Survey, training: Survey) -> list[dict]:
    """The synthetic cases nearest to training cases, by distance relative to the median of held-out cases."""
    entries = []
    for item in spaces:
        scale = float(np.median(item.held_out)) if len(item.held_out) else float(np.median(item.synthetic))
        for index in np.argsort(item.synthetic)[:WORST]:
            near = training.cases[item.neighbours[index]]
            entries.append(
                {
                    "case": case_name(synthetic.cases[index]),
                    "nearest": case_name(near),
                    "space": item.space,
                    "distance": float(item.synthetic[index]),
                    "threshold": item.threshold if len(item.held_out) >= 2 else None,
                    "relative": float(item.synthetic[index] / scale) if scale > 0 else None,
                    "image": synthetic.cases[index]["image"],
                    "nearest_image": near["image"],
                }
            )
    return entries
