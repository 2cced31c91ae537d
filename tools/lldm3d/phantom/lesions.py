"""Hepatocellular carcinomas: where they lie, how they are shaped, and how they push the main vessels aside."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from lldm3d.phantom.geometry import Waves, ellipsoid

COUNTS = (0.15, 0.28, 0.22, 0.15, 0.12, 0.08)  # probability of 0 to 5 lesions
SMALLEST, LARGEST = 5.0, 60.0  # mm, long axis
APART = 10.0  # mm between lesions
KINDS = ("plain", "plain", "nodule", "capsule", "necrosis")


@dataclass(frozen=True)
class Lesion:
    """An ellipsoid with a slightly uneven surface."""

    centre: np.ndarray  # [3] mm
    radii: np.ndarray  # [3] mm, the longest first
    axes: np.ndarray  # [3, 3] rotation, patient to lesion
    ripple: Waves
    kind: str  # one of KINDS

    @property
    def radius(self) -> float:
        """Half the long axis, mm."""
        return float(self.radii[0])

    @property
    def clearance(self) -> float:
        """Distance (mm) from the centre that vessels keep: small lesions must outlive coarse voxels."""
        return max(self.radius + 3, 8.0)

    @classmethod
    def draw(cls, rng: np.random.Generator, centre: np.ndarray, long_axis: float) -> "Lesion":
        """Draw the shape of a lesion of the given long axis (mm)."""
        radius = long_axis / 2
        kind = KINDS[rng.integers(len(KINDS))] if long_axis > 15 else "plain"
        return cls(
            centre=np.asarray(centre, "f4"),
            radii=radius * np.array([1, rng.uniform(0.8, 1), rng.uniform(0.7, 0.95)]),
            axes=Rotation.random(random_state=rng).as_matrix().astype("f4"),
            ripple=Waves.draw(rng, (1.2 * radius, 3 * radius), rms=0.05 * radius, count=5),
            kind=kind,
        )

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Signed distance (about mm) from points [3, ...] to the surface."""
        local = points - self.centre.reshape(3, *[1] * (points.ndim - 1))
        local = np.tensordot(self.axes, local + self.ripple(local), 1)
        return ellipsoid(local, (0, 0, 0), self.radii)

    def push(self, points: np.ndarray) -> np.ndarray:
        """Move points [N, 3] (mm) as something incompressible does that grows from the centre: r^3 -> r^3 + R^3."""
        offset = points - self.centre
        distance = np.maximum(np.linalg.norm(offset, axis=1, keepdims=True), 1e-3)
        return self.centre + offset * np.cbrt(1 + (self.clearance / distance) ** 3)


def draw_long_axes(rng: np.random.Generator) -> np.ndarray:
    """Long axes (mm) of a patient's 0 to 5 lesions, the largest first."""
    count = rng.choice(len(COUNTS), p=COUNTS)
    return np.sort(np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST), count)))[::-1]
