import numpy as np
import pytest
from prdc import compute_prdc

from lldm3d.evaluation.distances import MANIFOLD, coverage, density, pairwise_distances, precision, recall


def normal(n: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, (n, 16))


@pytest.mark.parametrize("shift", [0, 0.5, 3])
def test_all_four_agree_with_the_published_implementation(shift, capsys):
    synthetic, real = normal(60, 0, shift), normal(80, 1)
    published = compute_prdc(real, synthetic, nearest_k=5)
    capsys.readouterr()  # it prints
    assert {str(key): measure(synthetic, real) for key, measure in MANIFOLD.items()} == pytest.approx(published)


def test_equal_sets_are_perfect_and_far_ones_have_nothing_in_common():
    real = normal(40, 0)
    assert [measure(real, real) for measure in (precision, recall, coverage)] == [1, 1, 1]
    assert density(real, real) == pytest.approx(1, abs=0.3)
    assert [measure(real + 100, real) for measure in MANIFOLD.values()] == [0, 0, 0, 0]


def test_few_repeated_cases_keep_precision_and_lose_coverage():
    real, synthetic = normal(80, 0), normal(80, 1)
    repeated = np.repeat(synthetic[:4], 20, axis=0) + np.random.default_rng(2).normal(0, 1e-3, synthetic.shape)
    assert precision(repeated, real) > 0.7
    assert coverage(repeated, real) < 0.5 * coverage(synthetic, real)
    assert recall(repeated, real) < 0.1


def test_distances_are_those_of_pairs():
    a, b = normal(5, 0), normal(7, 1)
    np.testing.assert_allclose(pairwise_distances(a, b), np.linalg.norm(a[:, None] - b[None], axis=2))
    assert not np.isnan(pairwise_distances(a, a)).any()
