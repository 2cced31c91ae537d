"""Fidelity: do the synthetic images look like real ones to a network (FID and KID of its features)."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from lldm3d.evaluation.comparison import compare, compare_altered, take
from lldm3d.evaluation.distances import fid, kid
from lldm3d.evaluation.rows import LOWER, Row
from lldm3d.evaluation.survey import BLUR, Survey

WANTED_SHARE = 0.5  # of the yardstick
FEW = 100  # cases; 120 hippocampus scans: between real halves of 60, 0.3 of the yardstick, of 16, more than all of it


def fidelity_rows(synthetic: Survey, training: Survey, test: Survey, identity: dict, seed: int = 0) -> list[Row]:
    """FID and KID, each beside its floors and beside the yardstick of blurred real images."""
    rows = []
    for name, distance in (("FID", fid), ("KID", kid)):
        blank = Row("fidelity", name, "", None, LOWER, **identity)
        compared = compare(distance, synthetic.features, training.features, test.features, seed)
        altered = compare_altered(distance, training.blurred, training.features, compared[0].n, seed)
        rows += [replace(blank, **vars(item)) for item in (compared[0], altered, compared[1])]
        rows += share_of_yardstick(distance, synthetic, training, blank, seed)
    return rows


def share_of_yardstick(distance: Callable, synthetic: Survey, training: Survey, blank: Row, seed: int) -> list[Row]:
    """The distance at the largest equal N, that of the same real images blurred and sharp, and the ratio of both."""
    rng = np.random.default_rng(seed)
    n = min(len(synthetic), len(training))
    real, ours = (np.sort(rng.permutation(len(side))[:n]) for side in (training, synthetic))
    value = distance(take(synthetic.features, ours), take(training.features, real))
    blurred = distance(take(training.blurred, real), take(training.features, real))
    known = blurred > 0
    sides = "synthetic / all real training"
    wanted = f"below {WANTED_SHARE} is wanted" + ("; few cases raise the FID of any two sets" if n < FEW else "")
    return [
        replace(blank, between=sides, value=value, n=n, note="the largest equal N"),
        replace(
            blank,
            between="blurred real training / the same, sharp",
            value=blurred,
            n=n,
            note=f"yardstick: Gaussian blur of {BLUR:g} voxels",
        ),
        replace(
            blank,
            name=f"{blank.name} ratio",
            between="synthetic / blurred, both to all real training",
            value=value / blurred if known else None,
            n=n,
            note=wanted if known else "the blur changes no feature",
        ),
    ]
