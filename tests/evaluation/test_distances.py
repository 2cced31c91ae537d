import numpy as np
import pytest
import torch
from monai.metrics import FIDMetric
from scipy.linalg import sqrtm
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from lldm3d.evaluation.distances import compare, fid, kid, wasserstein


def normal(n: int, d: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, (n, d))


@pytest.mark.parametrize("n, d", [(200, 12), (10, 40)])  # full rank, and fewer cases than features
def test_fid_is_the_textbook_formula(n, d):
    a, b = normal(n, d, 0), 2 * normal(n, d, 1, 0.3)
    covariances = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = sqrtm(covariances[0] @ covariances[1] + 1e-12 * np.eye(d))
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(covariances[0] + covariances[1] - 2 * root.real)
    assert fid(a, b) == pytest.approx(expected, rel=1e-4)


def test_fid_agrees_with_monai():
    a, b = normal(300, 32, 0), normal(200, 32, 1, 0.2)
    theirs = FIDMetric()(torch.from_numpy(a), torch.from_numpy(b))
    assert fid(a, b) == pytest.approx(float(theirs), rel=1e-3)


def test_fid_and_kid_agree_with_torchmetrics():
    a, b = normal(300, 32, 0), normal(200, 32, 1, 0.2)
    theirs = FrechetInceptionDistance(feature=Given())
    for features, real in ((a, True), (b, False)):
        theirs.update(torch.from_numpy(features), real=real)
    assert fid(a, b) == pytest.approx(float(theirs.compute()), rel=1e-3)
    theirs = KernelInceptionDistance(feature=Given(), subsets=1, subset_size=200)
    theirs.update(torch.from_numpy(a[:200]), real=True)
    theirs.update(torch.from_numpy(b), real=False)
    assert kid(a[:200], b) == pytest.approx(float(theirs.compute()[0]), rel=1e-3)


class Given(torch.nn.Module):
    """In place of Inception: the features are given."""

    num_features = 32

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_fid_of_equal_sets_is_zero_and_a_shift_adds_its_square():
    a = normal(50, 8, 0)
    assert fid(a, a) == pytest.approx(0, abs=1e-9)
    assert fid(a, a + 0.5) == pytest.approx(8 * 0.25)


def test_kid_is_unbiased():
    same = [kid(normal(20, 8, 2 * seed), normal(20, 8, 2 * seed + 1)) for seed in range(200)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(len(same))
    assert min(same) < 0
    assert kid(normal(20, 8, 0), normal(20, 8, 1, 1.0)) > max(same)


def test_wasserstein_pools_cases_and_is_undefined_without_values():
    assert wasserstein([np.array([1.0, 2.0])], [np.array([4.0]), np.array([5.0])]) == pytest.approx(3)
    assert np.isnan(wasserstein([np.array([])], [np.array([1.0])]))


def test_value_and_floor_agree_for_equal_distributions_at_equal_n():
    halves, held_out = compare(fid, normal(30, 4, 0), normal(60, 4, 1), normal(20, 4, 2))
    assert (halves.n, held_out.n) == (30, 20)
    assert halves.value == pytest.approx(halves.floor, rel=0.4)
    few, _ = compare(fid, normal(15, 4, 0), normal(300, 4, 1), normal(20, 4, 2))  # the floor must not know all the 300
    assert few.n == 15 and few.value == pytest.approx(few.floor, rel=0.4)
    shifted, _ = compare(fid, normal(30, 4, 0, 2.0), normal(60, 4, 1), normal(20, 4, 2))
    assert shifted.value > 5 * shifted.floor and shifted.interval[0] > shifted.floor


def test_too_few_cases_give_the_reason():
    _, held_out = compare(fid, normal(30, 4, 0), normal(60, 4, 1), [])
    assert held_out.value is None and "at least 2" in held_out.note
