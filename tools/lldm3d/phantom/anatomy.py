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


MIDLINE = -35.0  # x of the spine
INF = np.inf


@dataclass(frozen=True)
class Anatomy:
    """One patient: how it differs from the standard one."""

    stretch: np.ndarray  # [3] size over that of the standard patient
    warp: Waves
    left_lobe: float  # length over the standard
    fat: float  # mm, subcutaneous
    gallbladder: float  # size over the standard
    stomach: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Anatomy":
        """Draw a patient."""
        return cls(
            stretch=(rng.uniform(0.87, 1.03) * rng.uniform(0.95, 1.05, 3)).astype("f4"),
            warp=Waves.draw(rng, (90, 220), rms=4),
            left_lobe=rng.uniform(0.75, 1.15),
            fat=rng.uniform(8, 20),
            gallbladder=rng.uniform(0.6, 1.2),
            stomach=rng.uniform(0.75, 1.2),
        )

    def to_standard(self, points: np.ndarray) -> np.ndarray:
        """Points [3, ...] of this patient in the frame of the standard one."""
        return (points + self.warp(points)) / self.stretch.reshape(3, *[1] * (points.ndim - 1))

    def from_standard(self, points: np.ndarray) -> np.ndarray:
        """The inverse of `to_standard`, by fixed-point iteration (the warp contracts)."""
        stretched = points * self.stretch.reshape(3, *[1] * (points.ndim - 1))
        result = stretched
        for _ in range(8):
            result = stretched - self.warp(result)
        return result

    def liver(self, points: np.ndarray) -> np.ndarray:
        """Signed distance (about mm) from this patient's points [3, ...] to the liver's surface."""
        return self.standard_liver(self.to_standard(points))

    def standard_liver(self, p: np.ndarray) -> np.ndarray:
        """The liver: two lobes under the diaphragm, hollowed below by its neighbours."""
        right = ellipsoid(p, (30, -8, -8), (68, 78, 86))
        left = ellipsoid(_tilted(p), (-8, 28, 26), (92 * self.left_lobe, 46, 44))
        caudate = ellipsoid(p, (-22, 0, 28), (20, 22, 28))
        liver = union(union(right, left, 40), caudate, 12)
        for shape, blend in (
            (ellipsoid(p, (-58, -36, -66), (72, 68, 80)), 22),  # the visceral surface
            (ellipsoid(p, (MIDLINE, -52, 0), (36, 36, INF)), 10),  # spine and crus
            (self.vena_cava(p) - 1, 4),
            (self.right_kidney(p) - 4, 10),
            (self.gallbladder_wall(p) - 1.5, 5),
            (-(self.cavity(p) + 3), 10),
            (-(self.diaphragm(p) + 3), 12),
        ):
            liver = -union(-liver, shape, blend)  # the liver without the shape
        return liver

    def body(self, p: np.ndarray) -> np.ndarray:
        """The skin: a flattened ellipse, the same at each height."""
        x, y = (p[0] - np.float32(MIDLINE)) / np.float32(152), (p[1] - np.float32(2)) / np.float32(106)
        return ((np.abs(x) ** 2.4 + np.abs(y) ** 2.4) ** np.float32(1 / 2.4) - 1) * np.float32(115)

    def cavity(self, p: np.ndarray) -> np.ndarray:
        """The inside of the ribs and the muscles of the wall."""
        return self.body(p) + np.float32(self.fat + 13)

    def diaphragm(self, p: np.ndarray) -> np.ndarray:
        """A right dome, a lower left one and the central tendon under the heart; negative below."""
        right = _dome(p, (28, -6), (76, 92), 88)
        left = _dome(p, (MIDLINE - 62, -6), (76, 92), 72)
        tendon = _dome(p, (MIDLINE - 5, 12), (90, 90), 66)
        return (p[2] + union(union(-right, -left, 25), -tendon, 20)) * np.float32(0.8)

    def vena_cava(self, p: np.ndarray) -> np.ndarray:
        """The inferior vena cava, leaning forward on its way up."""
        x, y = p[0] - np.float32(MIDLINE + 25), p[1] + 20 - np.float32(0.1) * p[2]
        return np.hypot(x / np.float32(1.15), y) - np.float32(10)

    def right_kidney(self, p: np.ndarray) -> np.ndarray:
        """The right kidney."""
        return ellipsoid(p, (36, -58, -72), (27, 25, 50))

    def gallbladder_wall(self, p: np.ndarray) -> np.ndarray:
        """The gallbladder under the liver, between the lobes."""
        s = self.gallbladder
        return ellipsoid(p, (18, 32, -48), (13 * s, 24 * s, 19 * s))


def _tilted(p: np.ndarray) -> np.ndarray:
    """The left lobe's frame: its tip points up and forward, and it thins toward the tip."""
    x = p[0]
    thin = 1 / np.clip(1 + (x + 20) * np.float32(0.006), 0.45, 1.15)
    return np.stack([x, 28 + (p[1] - 28 + np.float32(0.1) * x) * thin, 30 + (p[2] - 30 + np.float32(0.12) * x) * thin])


def _dome(p: np.ndarray, centre: tuple[float, float], radii: tuple[float, float], height: float) -> np.ndarray:
    """Height z (mm) of a dome that falls to z = -15 at its rim."""
    rho = ((p[0] - np.float32(centre[0])) / radii[0]) ** 2 + ((p[1] - np.float32(centre[1])) / radii[1]) ** 2
    return np.sqrt(np.maximum(1 - rho, 0)) * np.float32(height + 15) - 15
