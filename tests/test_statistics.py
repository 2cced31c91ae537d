"""Intervals and corrections on samples whose answers are known."""

import numpy as np
import pytest
from scipy.stats import bootstrap, norm

from lldm3d.statistics import bootstrap_interval, holm_corrected


def test_the_interval_of_a_mean_is_the_one_of_theory_and_of_scipy():
    sample = norm.ppf((np.arange(400) + 0.5) / 400)  # mean 0, standard error 0.05
    low, high = bootstrap_interval(np.mean, sample)
    assert (low, high) == pytest.approx((-0.098, 0.098), abs=0.01)
    theirs = bootstrap((sample,), np.mean, n_resamples=1000, method="percentile", rng=np.random.default_rng(0))
    assert (low, high) == pytest.approx(tuple(theirs.confidence_interval), abs=1e-12)


def test_samples_are_drawn_each_on_its_own_and_draws_without_a_value_are_left_out():
    def ratio(a: np.ndarray, b: np.ndarray) -> float:
        return a.mean() / b.mean() if b.any() else np.nan

    low, high = bootstrap_interval(ratio, np.ones(50), np.array([0.0, 1.0, 1.0]))
    assert (low, high) == pytest.approx((1, 3))


def test_one_case_has_no_interval():
    assert bootstrap_interval(np.mean, np.ones(1)) is None
    assert bootstrap_interval(lambda a, b: a.mean() - b.mean(), np.ones(5), np.ones(1)) is None


def test_holm_on_a_published_example():
    """Aickin and Gensler (1996), table 1: 0.01 0.02 0.03 0.04 0.05 become 0.05 0.08 0.09 0.09 0.09."""
    assert holm_corrected([0.03, 0.01, 0.05, 0.02, 0.04]) == pytest.approx([0.09, 0.05, 0.09, 0.08, 0.09])
    assert holm_corrected([]) == [] and holm_corrected([0.6, 0.7]) == [1, 1]
