"""Fidelity and diversity told apart: how two sets of features cover each other's neighbourhoods."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from lldm3d.evaluation.comparison import compare
from lldm3d.evaluation.rows import HIGHER, Row
from lldm3d.evaluation.spaces import Space
from lldm3d.evaluation.survey import Survey

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
    return float((distances(real, synthetic) < radii(real)[:, None]).any(0).mean())


def recall(synthetic: np.ndarray, real: np.ndarray) -> float:
    """Share of the real cases in the neighbourhood of some synthetic case: precision the other way round."""
    return precision(real, synthetic)


def density(synthetic: np.ndarray, real: np.ndarray) -> float:
    """Mean number of real neighbourhoods that a synthetic case lies in, over the 5 expected of a real one.

    Naeem et al. 2020, *Reliable Fidelity and Diversity Metrics for Generative Models*, eq. 4.
    """
    return float((distances(real, synthetic) < radii(real)[:, None]).sum(0).mean() / NEIGHBOURS)


def coverage(synthetic: np.ndarray, real: np.ndarray) -> float:
    """Share of the real cases whose neighbourhood holds a synthetic case (Naeem et al. 2020, eq. 5)."""
    return float((distances(real, synthetic).min(1) < radii(real)).mean())


MEASURES: dict[str, tuple[Callable, str]] = {
    "precision": (precision, "fidelity"),
    "density": (density, "fidelity"),
    "recall": (recall, "diversity"),
    "coverage": (coverage, "diversity"),
}


def radii(features: np.ndarray) -> np.ndarray:
    """Distance [N] of each case to its fifth nearest other one: the size of its neighbourhood."""
    return np.partition(distances(features, features), NEIGHBOURS, axis=1)[:, NEIGHBOURS]


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean distances [N, M] by one product of matrices, a hundred times faster than in pairs at 2048 features."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return np.sqrt(np.maximum(squares, 0))
