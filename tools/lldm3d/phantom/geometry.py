"""Implicit shapes: functions of points [3, ...] (mm), negative inside, near the surface close to a distance in mm."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


def ellipsoid(points: np.ndarray, centre: ArrayLike, radii: ArrayLike) -> np.ndarray:
    """Signed distance (mm, first order) to an ellipsoid; a radius of infinity makes it a cylinder along that axis."""
    value, slope = 0.0, 0.0
    for p, c, r in zip(points, centre, radii, strict=True):
        if np.isfinite(r):
            q = (p - np.float32(c)) * np.float32(1 / r)
            q *= q
            value = value + q
            slope = slope + q * np.float32(1 / r**2)
    value, slope = np.sqrt(value), np.sqrt(slope)
    return value * (value - 1) / np.maximum(slope, np.float32(1e-6))


def union(a: np.ndarray, b: np.ndarray, blend: float) -> np.ndarray:
    """Union of two shapes whose seam is rounded over `blend` mm."""
    h = np.maximum(np.float32(blend) - np.abs(a - b), 0)
    return np.minimum(a, b) - h * h * np.float32(0.25 / blend)


def cut(a: np.ndarray, b: np.ndarray, blend: float) -> np.ndarray:
    """Shape `a` without shape `b`, the edge rounded over `blend` mm."""
    return -union(-a, b, blend)


@dataclass(frozen=True)
class Waves:
    """A smooth random vector field [3, ...] of plane waves: the same at any voxel spacing."""

    wave_vectors: np.ndarray  # [W, 3] 1/mm
    phases: np.ndarray  # [W]
    amplitudes: np.ndarray  # [W, 3] mm

    @classmethod
    def draw(cls, rng: np.random.Generator, wavelengths: tuple[float, float], rms: float, count: int = 8) -> "Waves":
        """Draw `count` waves of wavelengths (shortest, longest) in mm; each component has the given rms."""
        directions = rng.normal(size=(count, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        vectors = 2 * np.pi * directions / rng.uniform(*wavelengths, size=(count, 1))
        amplitudes = rng.normal(size=(count, 3)) * rms * np.sqrt(2 / count)
        return cls(vectors.astype("f4"), rng.uniform(0, 2 * np.pi, count).astype("f4"), amplitudes.astype("f4"))

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """The field at `points` [3, ...] mm."""
        field = np.zeros_like(points)
        for vector, phase, amplitude in zip(self.wave_vectors, self.phases, self.amplitudes, strict=True):
            wave = np.cos(vector[0] * points[0] + vector[1] * points[1] + vector[2] * points[2] + phase)
            for component in range(3):
                field[component] += amplitude[component] * wave
        return field
