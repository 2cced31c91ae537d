"""Distances between two sets of cases (FID, KID, Wasserstein), and how they cover each other."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import wasserstein_distance

from lldm3d.evaluation.features import Space
from lldm3d.evaluation.metrics import HIGHER, LOWER, Row, compare, compare_altered, take
from lldm3d.evaluation.records import BLUR, Survey


def fid(a: np.ndarray, b: np.ndarray) -> float:
    """Fréchet distance between Gaussians fitted to two sets of features [N, D] and [M, D] (Heusel et al. 2017, eq. 6).

    With centred factors A (A^T A = covariance), the eigenvalues of the product of both covariances are the squared
    singular values of A B^T, so the trace of its root is their sum (the nuclear norm): exact in float64 for any rank,
    where `scipy.linalg.sqrtm`, as in MONAI's `FIDMetric`, turns complex and takes seconds. Slices [N, S, D] of cases
    count as N times S sets of features.
    """
    a, b = flat(a), flat(b)
    root_a, root_b = factor(a), factor(b)
    cross = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    value = ((a.mean(0) - b.mean(0)) ** 2).sum() + (root_a**2).sum() + (root_b**2).sum() - 2 * cross
    return float(max(value, 0.0))  # rounding can leave -1e-12 for equal sets


def factor(features: np.ndarray) -> np.ndarray:
    """[at most D, D] whose product with itself is the covariance of features [N, D]."""
    centred = (features - features.mean(0)) / np.sqrt(len(features) - 1)
    return np.linalg.qr(centred, mode="r") if len(centred) > centred.shape[1] else centred


def flat(features: np.ndarray) -> np.ndarray:
    """Features [..., D] as [N, D] in float64."""
    return np.asarray(features, np.float64).reshape(-1, features.shape[-1])


def kid(a: np.ndarray, b: np.ndarray) -> float:
    """Kernel distance of two sets of features [N, D] and [M, D]: the unbiased MMD^2 with the kernel (x.y/D + 1)^3.

    Source: Binkowski et al. 2018, eq. 4. Around 0 for equal distributions at any N, and so sometimes below it.
    """
    a, b = flat(a), flat(b)
    own_a, own_b, cross = ((x @ y.T / x.shape[1] + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))
    n, m = len(a), len(b)
    within = (own_a.sum() - np.trace(own_a)) / (n * (n - 1)) + (own_b.sum() - np.trace(own_b)) / (m * (m - 1))
    return float(within - 2 * cross.mean())


def wasserstein(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    """Wasserstein-1 distance, in the values' unit, of the values pooled over cases; NaN where a side has none.

    Each case gives an array of any length: one volume, or the long axis of each of its lesions.
    """
    pooled_a, pooled_b = np.concatenate(a), np.concatenate(b)
    return float(wasserstein_distance(pooled_a, pooled_b)) if len(pooled_a) and len(pooled_b) else float("nan")


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


NEIGHBOURS = 5  # k, as Naeem et al. advise


def manifold_rows(synthetic: Survey, training: Survey, test: Survey, spaces: list[Space], seed: int = 0) -> list[Row]:
    """Precision and density (are synthetic cases like real ones), recall and coverage (are all real ones met)."""
    rows = []
    for space in spaces:
        sides = [side.features(space) for side in (synthetic, training, test)]
        for name, (measure, group) in MEASURES.items():
            row = Row(group, f"{name}{space.suffix}", "", None, HIGHER, **space.identity)
            compared = compare(measure, *sides, seed, least=NEIGHBOURS + 1)
            rows += [replace(row, **vars(item)) for item in compared]
    return rows


def precision(synthetic: np.ndarray, real: np.ndarray) -> float:
    """Share of the synthetic cases in the neighbourhood of some real case.

    Improved precision of Kynkäänniemi et al. 2019, eq. 1 and 2. Features are [N, D] and [M, D], N and M at least 6.
    """
    return float((pairwise_distances(real, synthetic) < radii(real)[:, None]).any(0).mean())


def recall(synthetic: np.ndarray, real: np.ndarray) -> float:
    """Share of the real cases in the neighbourhood of some synthetic case: precision the other way round."""
    return precision(real, synthetic)


def density(synthetic: np.ndarray, real: np.ndarray) -> float:
    """Mean number of real neighbourhoods that a synthetic case lies in, over the 5 expected of a real one.

    Naeem et al. 2020, *Reliable Fidelity and Diversity Metrics for Generative Models*, eq. 4.
    """
    return float((pairwise_distances(real, synthetic) < radii(real)[:, None]).sum(0).mean() / NEIGHBOURS)


def coverage(synthetic: np.ndarray, real: np.ndarray) -> float:
    """Share of the real cases whose neighbourhood holds a synthetic case (Naeem et al. 2020, eq. 5)."""
    return float((pairwise_distances(real, synthetic).min(1) < radii(real)).mean())


MEASURES: dict[str, tuple[Callable, str]] = {
    "precision": (precision, "fidelity"),
    "density": (density, "fidelity"),
    "recall": (recall, "diversity"),
    "coverage": (coverage, "diversity"),
}


def radii(features: np.ndarray) -> np.ndarray:
    """Distance [N] of each case to its fifth nearest other one: the size of its neighbourhood."""
    return np.partition(pairwise_distances(features, features), NEIGHBOURS, axis=1)[:, NEIGHBOURS]


def pairwise_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean distances [N, M] by one product of matrices, a hundred times faster than in pairs at 2048 features."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return np.sqrt(np.maximum(squares, 0))
