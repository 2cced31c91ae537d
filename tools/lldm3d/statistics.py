"""Intervals and corrections that evaluation and study share."""

from collections.abc import Callable, Sequence

import numpy as np
from statsmodels.stats.multitest import multipletests


def bootstrap_interval(
    statistic: Callable[..., float], *samples: np.ndarray, draws: int = 1000, seed: int = 0
) -> tuple[float, float] | None:
    """95 % percentile interval of `statistic(*samples)` when the cases of each sample are drawn again.

    Not `scipy.stats.bootstrap`: a ratio is not defined in every draw, and a single NaN makes scipy's interval NaN
    (scipy 1.17); here such draws are left out. Where all are defined both agree to the noise of 1000 draws.

    Args:
        statistic: takes one array for each sample.
        samples: arrays [cases, ...], each drawn on its own; give the differences of paired cases as one sample.

    Returns:
        Both ends, or None where a sample has less than two cases.
    """
    if min(map(len, samples)) < 2:
        return None
    rng = np.random.default_rng(seed)
    values = [statistic(*(x[rng.integers(len(x), size=len(x))] for x in samples)) for _ in range(draws)]
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def holm_corrected(p_values: Sequence[float]) -> list[float]:
    """The p values of one family after Holm's step-down correction (1979), in their order."""
    return multipletests(p_values, method="holm")[1].tolist() if len(p_values) else []
