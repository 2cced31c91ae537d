"""Copies: is a synthetic case nearer to some training case than real held-out cases are?"""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from scipy.spatial.distance import cdist

from lldm3d.evaluation.comparison import bootstrap
from lldm3d.evaluation.matching import nearest
from lldm3d.evaluation.processes import device
from lldm3d.evaluation.rows import HIGHER, LOWER, Row
from lldm3d.evaluation.scans import case_name
from lldm3d.evaluation.spaces import Space
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
    def comparable(self) -> bool:
        """Whether there are enough held-out cases to set the scale."""
        return len(self.held_out) >= 2

    @property
    def threshold(self) -> float:
        return float(np.percentile(self.held_out, PERCENTILE))


def nearest_neighbours(
    synthetic: Survey, training: Survey, held_out: list[Survey], size: tuple[int, ...], space: Space | None
) -> list[Nearest]:
    """Distances in image space (`matching.nearest`; `size` are the voxels of the scans), and before it, where there is
    one, in a feature space (Euclidean, each feature divided by its standard deviation over the training cases)."""
    real = [side for side in held_out if len(side)]
    find = partial(nearest, training=training.coarse, size=size, device=device())
    distances, neighbours = find(synthetic.coarse, description="evaluate copies")
    other = [find(side.coarse, description="evaluate held-out real cases")[0] for side in real]
    images = Nearest("image", distances, joined(other), neighbours)
    if space is None:
        return [images]
    points = scaled_features(training, training, space)
    between = cdist(scaled_features(synthetic, training, space), points)
    other = [cdist(scaled_features(side, training, space), points).min(1) for side in real]
    return [Nearest("features", between.min(1), joined(other), between.argmin(1)), images]


def joined(distances: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(distances) if distances else np.empty(0)


def scaled_features(side: Survey, training: Survey, space: Space) -> np.ndarray:
    """Features [N, D] in standard deviations of the training cases; a feature that is constant there is left out."""
    spread = training.features(space).std(0)
    varied = spread > 1e-6 * max(spread.max(), 1e-12)
    return side.features(space)[:, varied] / spread[varied]


def copy_rows(spaces: list[Nearest], space: Space | None) -> list[Row]:
    """The share of near copies; for each space their number, the share nearer than the 5th percentile of held-out
    cases, and the median distance."""
    blank = Row("copies", "", "synthetic / real training", None, LOWER, n=len(spaces[0].synthetic), note=TOO_FEW)
    rows = [replace(blank, name="share of near copies")]
    if all(item.comparable for item in spaces):
        rows = [replace(rows[0], value=copied_share(spaces), floor=0, note="in any of the spaces below")]
    for item in spaces:
        known = replace(blank, **(space.identity if item.space == "features" else {}))
        rows += [near_row(item, known), share_row(item, known), median_row(item, known)]
    return rows


def near_row(item: Nearest, blank: Row) -> Row:
    row = replace(blank, name=f"near copies, {item.space}", unit="cases")
    if not item.comparable:
        return row
    note = "nearer than half the distance of the nearest held-out case"
    return replace(row, value=int(near_copies(item).sum()), floor=0, note=note)


def share_row(item: Nearest, blank: Row) -> Row:
    name = f"share nearer than {PERCENTILE} % of held-out cases, {item.space}"
    row = replace(blank, name=name, between="synthetic / real held-out, to nearest training case")
    if not item.comparable:
        return row
    return replace(
        row,
        value=share(item.synthetic, item.held_out),
        interval=bootstrap(share, item.synthetic, item.held_out),
        floor=PERCENTILE / 100,
        note=f"{len(item.held_out)} held-out real cases (validation and test); floor: chance",
    )


def median_row(item: Nearest, blank: Row) -> Row:
    return replace(
        blank,
        name=f"median distance to nearest training case, {item.space}",
        between="synthetic; floor: real held-out",
        value=float(np.median(item.synthetic)),
        interval=bootstrap(np.median, item.synthetic),
        floor=float(np.median(item.held_out)) if item.comparable else None,
        direction=HIGHER,
        note=f"{len(item.held_out)} held-out real cases (validation and test)",
    )


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
                    "threshold": item.threshold if item.comparable else None,
                    "relative": float(item.synthetic[index] / scale) if scale > 0 else None,
                    "image": synthetic.cases[index]["image"],
                    "nearest_image": near["image"],
                }
            )
    return entries
