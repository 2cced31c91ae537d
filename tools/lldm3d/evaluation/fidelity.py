"""Fidelity: do the synthetic images look like real ones to a network (FID and KID of its features)."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from lldm3d.evaluation.comparison import compare, compare_altered, take
from lldm3d.evaluation.distances import fid, kid
from lldm3d.evaluation.records import BLUR
from lldm3d.evaluation.rows import LOWER, Row
from lldm3d.evaluation.spaces import Space
from lldm3d.evaluation.survey import Survey

WANTED_SHARE = 0.5  # of the yardstick
FEW = 100  # cases; 120 hippocampus scans: between real halves of 60, 0.3 of the yardstick, of 16, more than all of it
NO_NETWORK = "needs features: give --segmenter, --medicalnet, --radimagenet or --radiomics"


@dataclass(frozen=True)
class Sides:
    """Features [N, D], or [N, S, D] of slices, of each side in one space; `blurred` are the training cases."""

    synthetic: np.ndarray
    training: np.ndarray
    test: np.ndarray
    blurred: np.ndarray


def in_space(space: Space, synthetic: Survey, training: Survey, test: Survey) -> Sides:
    """The features of the sides, in deviations from the mean of the training cases where the space wants it."""
    features = [synthetic.features(space), training.features(space), test.features(space), training.blurred(space)]
    if space.scaled:
        mean, spread = features[1].mean(0), features[1].std(0)
        varied = spread > 0
        features = [(side - mean)[:, varied] / spread[varied] if len(side) else side for side in features]
    return Sides(*features)


def fidelity_rows(synthetic: Survey, training: Survey, test: Survey, spaces: list[Space], seed: int = 0) -> list[Row]:
    """FID and KID in each space, beside their floors and beside the yardstick of blurred real images."""
    rows = [row for space in spaces for row in space_rows(in_space(space, synthetic, training, test), space, seed)]
    return rows or [
        Row("fidelity", name, "synthetic / real training", None, LOWER, note=NO_NETWORK) for name in ("FID", "KID")
    ]


def space_rows(sides: Sides, space: Space, seed: int) -> list[Row]:
    rows = []
    for name, distance in (("FID", fid), ("KID", kid)):
        blank = Row("fidelity", f"{name}{space.suffix}", "", None, LOWER, **space.identity)
        compared = compare(distance, sides.synthetic, sides.training, sides.test, seed)
        altered = compare_altered(distance, sides.blurred, sides.training, compared[0].n, seed)
        rows += [replace(blank, **vars(item)) for item in (compared[0], altered, compared[1])]
        ratio = replace(blank, name=f"{name} ratio{space.suffix}")
        rows += share_of_yardstick(distance, sides, blank, ratio, seed)
    return rows


def share_of_yardstick(distance: Callable, sides: Sides, blank: Row, ratio: Row, seed: int) -> list[Row]:
    """The distance at the largest equal N, that of the same real images blurred and sharp, and the ratio of both."""
    rng = np.random.default_rng(seed)
    n = min(len(sides.synthetic), len(sides.training))
    real, ours = (np.sort(rng.permutation(len(side))[:n]) for side in (sides.training, sides.synthetic))
    value = distance(take(sides.synthetic, ours), take(sides.training, real))
    blurred = distance(take(sides.blurred, real), take(sides.training, real))
    known = blurred > 0
    wanted = f"below {WANTED_SHARE} is wanted" + ("; few cases raise the FID of any two sets" if n < FEW else "")
    return [
        replace(blank, between="synthetic / all real training", value=value, n=n, note="the largest equal N"),
        replace(
            blank,
            between="blurred real training / the same, sharp",
            value=blurred,
            n=n,
            note=f"yardstick: Gaussian blur of {BLUR:g} voxels",
        ),
        replace(
            ratio,
            between="synthetic / blurred, both to all real training",
            value=value / blurred if known else None,
            n=n,
            note=wanted if known else "the blur changes no feature",
        ),
    ]
