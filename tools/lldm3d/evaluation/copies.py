"""Copies: is a synthetic case nearer to some training case than real held-out cases are?"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from lldm3d.evaluation.comparison import bootstrap
from lldm3d.evaluation.matching import nearest
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


def nearest_neighbours(
    synthetic: Survey, training: Survey, held_out: list[Survey], size: tuple[int, ...]
) -> list[Nearest]:
    """Distances in feature space (Euclidean, each feature divided by its standard deviation over the training cases)
    and in image space (`matching.nearest`; `size` are the voxels of the scans)."""
    real = [side for side in held_out if len(side)]
    points = scaled_features(training, training)
    between = cdist(scaled_features(synthetic, training), points)
    other = [cdist(scaled_features(side, training), points).min(1) for side in real]
    features = Nearest("features", between.min(1), joined(other), between.argmin(1))

    distances, neighbours = nearest(synthetic.coarse, training.coarse, size, "evaluate copies")
    other = [nearest(side.coarse, training.coarse, size, "evaluate held-out real cases")[0] for side in real]
    return [features, Nearest("image", distances, joined(other), neighbours)]


def joined(distances: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(distances) if distances else np.empty(0)


def scaled_features(side: Survey, training: Survey) -> np.ndarray:
    """Features [N, D] in standard deviations of the training cases; a feature that is constant there is left out."""
    spread = training.features.std(0)
    varied = spread > 1e-6 * max(spread.max(), 1e-12)
    return side.features[:, varied] / spread[varied]


def copy_rows(spaces: list[Nearest], identity: dict) -> list[Row]:
    """The share of near copies; for each space their number, the share nearer than the 5th percentile of held-out
    cases, and median distances."""
    known = all(len(item.held_out) >= 2 for item in spaces)
    rows = [
        Row(
            group="copies",
            name="share of near copies",
            between="synthetic / real training",
            value=copied_share(spaces) if known else None,
            n=len(spaces[0].synthetic),
            floor=0 if known else None,
            direction=LOWER,
            note="in image or feature space" if known else TOO_FEW,
        )
    ]
    for item in spaces:
        common = {"group": "copies", "n": len(item.synthetic), **(identity if item.space == "features" else {})}
        known = len(item.held_out) >= 2
        note = f"{len(item.held_out)} held-out real cases (validation and test)"
        rows.append(
            Row(
                name=f"near copies, {item.space}",
                between="synthetic / real training",
                value=int(near_copies(item).sum()) if known else None,
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


def near_copies(item: Nearest) -> np.ndarray:
    """Which synthetic cases [N] lie at less than half the distance of the nearest held-out case."""
    return item.synthetic < item.held_out.min() / 2


def copied_share(spaces: list[Nearest]) -> float:
    """Share of the synthetic cases that are near copies in any space."""
    return float(np.any([near_copies(item) for item in spaces], axis=0).mean())


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
