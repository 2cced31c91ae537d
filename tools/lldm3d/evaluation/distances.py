"""Distances between two sets of cases: FID, KID and Wasserstein."""

import numpy as np
from scipy.stats import wasserstein_distance


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
