"""Distances between two sets of cases (FID, KID, Wasserstein), how they cover each other, and floors at equal N."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.stats import wasserstein_distance

from lldm3d.evaluation.features import FeatureSpace
from lldm3d.evaluation.metrics import Compared, Metric, Row
from lldm3d.evaluation.records import BLUR, CaseRecords

DRAWS = 50  # random subsets of each comparison


@dataclass(frozen=True)
class Comparison:
    """`value` and `floor` are means over the draws; `interval` holds 95 % of the values of single draws."""

    compared: Compared
    value: float | None
    interval: tuple[float, float] | None
    n: int
    floor: float | None
    note: str


def compare(
    distance: Callable, synthetic: Sequence, training: Sequence, test: Sequence, seed: int = 0, least: int = 2
) -> list[Comparison]:
    """Compare synthetic cases with real training cases and with real test cases.

    Distances of samples depend on N, so that value and floor share it: each draw splits the training cases into two
    halves A and B of n cases and takes n synthetic cases S; the value is distance(S, B), the floor distance(A, B).
    Against the test cases T the floor is distance(training, T), again with n cases on each side. Fewer than `least`
    cases give no value.
    """
    rng = np.random.default_rng(seed)
    n = min(len(training) // 2, len(synthetic))

    def halves() -> tuple[float, float]:
        order = rng.permutation(len(training))
        a, b = take(training, order[:n]), take(training, order[n : 2 * n])
        return distance(take(synthetic, rng.permutation(len(synthetic))[:n]), b), distance(a, b)

    m = min(len(training), len(synthetic), len(test))

    def held_out() -> tuple[float, float]:
        s, r, t = (take(cases, rng.permutation(len(cases))[:m]) for cases in (synthetic, training, test))
        return distance(s, t), distance(r, t)

    return [
        over_draws(halves, n, Compared.SYNTHETIC_TRAINING, "floor: half of real training / other half", least),
        over_draws(held_out, m, Compared.SYNTHETIC_TEST, "floor: real training / real test", least),
    ]


def compare_altered(distance: Callable, altered: np.ndarray, training: np.ndarray, n: int, seed: int = 0) -> Comparison:
    """A yardstick: what an alteration of real images does, measured between halves as in `compare`.

    `altered` holds the training cases in the same order. The value is distance(altered A, B), the floor distance(A, B).
    """
    rng = np.random.default_rng(seed)

    def halves() -> tuple[float, float]:
        order = rng.permutation(len(training))
        a, b = order[:n], order[n : 2 * n]
        return distance(altered[a], training[b]), distance(training[a], training[b])

    return over_draws(halves, n, Compared.BLURRED_TRAINING, "yardstick; floor: the same without the blur")


def over_draws(
    draw: Callable[[], tuple[float, float]], n: int, compared: Compared, floor_note: str, least: int = 2
) -> Comparison:
    """Mean and interval over the draws; no value where there are fewer than `least` cases or nothing to measure."""
    if n < least:
        return Comparison(compared, None, None, n, None, f"{n} cases on one side, at least {least} are needed")
    values, floors = np.array([draw() for _ in range(DRAWS)]).T
    if np.isnan(values).all():
        return Comparison(compared, None, None, n, None, "does not occur in these cases")
    low, high = np.nanpercentile(values, [2.5, 97.5])
    floor = None if np.isnan(floors).all() else float(np.nanmean(floors))
    return Comparison(compared, float(np.nanmean(values)), (float(low), float(high)), n, floor, floor_note)


def take(cases: Sequence, index: np.ndarray) -> Sequence:
    """The cases at `index`, of an array [N, D] or of a list."""
    return cases[index] if isinstance(cases, np.ndarray) else [cases[i] for i in index]


def fid(a: np.ndarray, b: np.ndarray) -> float:
    """Fréchet distance between Gaussians fitted to two sets of features [N, D] and [M, D] (Heusel et al. 2017, eq. 6).

    With centred factors A (A^T A = covariance), the eigenvalues of the product of both covariances are the squared
    singular values of A B^T, so the trace of its root is their sum (the nuclear norm): exact in float64 for any rank,
    where `scipy.linalg.sqrtm`, as in MONAI's `FIDMetric`, turns complex and takes seconds. Slices [N, S, D] of cases
    count as N times S sets of features.
    """
    a, b = flattened(a), flattened(b)
    root_a, root_b = covariance_factor(a), covariance_factor(b)
    cross = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    value = ((a.mean(0) - b.mean(0)) ** 2).sum() + (root_a**2).sum() + (root_b**2).sum() - 2 * cross
    return float(max(value, 0.0))  # rounding can leave -1e-12 for equal sets


def covariance_factor(features: np.ndarray) -> np.ndarray:
    """[at most D, D] whose product with itself is the covariance of features [N, D]."""
    centred = (features - features.mean(0)) / np.sqrt(len(features) - 1)
    return np.linalg.qr(centred, mode="r") if len(centred) > centred.shape[1] else centred


def flattened(features: np.ndarray) -> np.ndarray:
    """Features [..., D] as [N, D] in float64."""
    return np.asarray(features, np.float64).reshape(-1, features.shape[-1])


def kid(a: np.ndarray, b: np.ndarray) -> float:
    """Kernel distance of two sets of features [N, D] and [M, D]: the unbiased MMD^2 with the kernel (x.y/D + 1)^3.

    Source: Binkowski et al. 2018, eq. 4. Around 0 for equal distributions at any N, and so sometimes below it.
    """
    a, b = flattened(a), flattened(b)
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
DISTANCES = ((Metric.FID, Metric.FID_RATIO, fid), (Metric.KID, Metric.KID_RATIO, kid))


def feature_sets(
    space: FeatureSpace, synthetic: CaseRecords, training: CaseRecords, test: CaseRecords
) -> list[np.ndarray]:
    """Features [N, D], or [N, S, D] of slices, of the synthetic, training, test and blurred training cases.

    In deviations from the mean of the training cases where the space wants it.
    """
    features = [
        synthetic.features(space),
        training.features(space),
        test.features(space),
        training.features(space, True),
    ]
    if space.scaled:
        mean, spread = features[1].mean(0), features[1].std(0)
        varied = spread > 0
        features = [(item - mean)[:, varied] / spread[varied] if len(item) else item for item in features]
    return features


def fidelity_rows(
    synthetic: CaseRecords, training: CaseRecords, test: CaseRecords, spaces: list[FeatureSpace], seed: int = 0
) -> list[Row]:
    """FID and KID in each feature space, beside their floors and beside the yardstick of blurred real images."""
    if not spaces:
        return [Row(metric, Compared.SYNTHETIC_TRAINING, note=NO_NETWORK) for metric, _, _ in DISTANCES]
    rows = []
    for space, (metric, ratio, distance) in product(spaces, DISTANCES):
        ours, real, held_out, blurred = feature_sets(space, synthetic, training, test)
        compared = compare(distance, ours, real, held_out, seed)
        altered = compare_altered(distance, blurred, real, compared[0].n, seed)
        rows += [Row(metric, **space.identity, **vars(item)) for item in (compared[0], altered, compared[1])]
        # the distance at the largest equal N, that of the same real images blurred and sharp, and the ratio of both
        rng, n = np.random.default_rng(seed), min(len(ours), len(real))
        chosen = np.sort(rng.permutation(len(real))[:n])
        value = distance(ours[np.sort(rng.permutation(len(ours))[:n])], real[chosen])
        yardstick = distance(blurred[chosen], real[chosen])
        wanted = f"below {WANTED_SHARE} is wanted" + ("; few cases raise the FID of any two sets" if n < FEW else "")
        share, note = (value / yardstick, wanted) if yardstick > 0 else (None, "the blur changes no feature")
        blur = f"yardstick: Gaussian blur of {BLUR:g} voxels"
        common = {"n": n, **space.identity}
        rows += [
            Row(metric, Compared.SYNTHETIC_ALL_TRAINING, value, note="the largest equal N", **common),
            Row(metric, Compared.BLURRED_ALL_TRAINING, yardstick, note=blur, **common),
            Row(ratio, Compared.SYNTHETIC_BLURRED, share, note=note, **common),
        ]
    return rows


NEIGHBOURS = 5  # k, as Naeem et al. advise


def manifold_rows(
    synthetic: CaseRecords, training: CaseRecords, test: CaseRecords, spaces: list[FeatureSpace], seed: int = 0
) -> list[Row]:
    """Precision and density (are synthetic cases like real ones), recall and coverage (are all real ones met).

    Our own, for `prdc` 0.2 gives the same figures (a test says so) in 63 ms for two sets of 70 cases, of which an
    evaluation compares 200, where these take 9: it starts 8 threads each time. It also prints, and needs 7 cases.
    """
    rows = []
    for space in spaces:
        sets = [cases.features(space) for cases in (synthetic, training, test)]
        for metric, measure in MANIFOLD.items():
            compared = compare(measure, *sets, seed, least=NEIGHBOURS + 1)
            rows += [Row(metric, **space.identity, **vars(item)) for item in compared]
    return rows


def precision(synthetic: np.ndarray, real: np.ndarray, neighbours: int = NEIGHBOURS) -> float:
    """Share of the synthetic cases in the neighbourhood of some real case.

    Improved precision of Kynkäänniemi et al. 2019, eq. 1 and 2. Features are [N, D] and [M, D], N and M at least 6, one
    more than `neighbours`.
    """
    return float((pairwise_distances(real, synthetic) < radii(real, neighbours)[:, None]).any(0).mean())


def recall(synthetic: np.ndarray, real: np.ndarray, neighbours: int = NEIGHBOURS) -> float:
    """Share of the real cases in the neighbourhood of some synthetic case: precision the other way round."""
    return precision(real, synthetic, neighbours)


def density(synthetic: np.ndarray, real: np.ndarray) -> float:
    """Mean number of real neighbourhoods that a synthetic case lies in, over the 5 expected of a real one.

    Naeem et al. 2020, *Reliable Fidelity and Diversity Metrics for Generative Models*, eq. 4.
    """
    return float((pairwise_distances(real, synthetic) < radii(real)[:, None]).sum(0).mean() / NEIGHBOURS)


def coverage(synthetic: np.ndarray, real: np.ndarray) -> float:
    """Share of the real cases whose neighbourhood holds a synthetic case (Naeem et al. 2020, eq. 5)."""
    return float((pairwise_distances(real, synthetic).min(1) < radii(real)).mean())


MANIFOLD: dict[Metric, Callable] = {
    Metric.PRECISION: precision,
    Metric.DENSITY: density,
    Metric.RECALL: recall,
    Metric.COVERAGE: coverage,
}


def radii(features: np.ndarray, neighbours: int = NEIGHBOURS) -> np.ndarray:
    """Distance [N] of each case to its fifth nearest other one: the size of its neighbourhood."""
    return np.partition(pairwise_distances(features, features), neighbours, axis=1)[:, neighbours]


def pairwise_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean distances [N, M] by one product of matrices, a hundred times faster than in pairs at 2048 features."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return np.sqrt(np.maximum(squares, 0))
