"""Shapes of lesions in millimetres, drawn or real, and their masks on the voxels of a scan."""

import base64
import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist, squareform
from scipy.spatial.transform import Rotation

from lldm3d.data.labels import pieces_of, signed_distance
from lldm3d.phantom.anatomy import Waves, ellipsoid
from lldm3d.phantom.painting import largest_component

ROOM = 1.3  # of an ellipsoid's longest radius that its deformed surface may reach
FITTINGS = 4  # of a shape to a long axis: voxels make a mask longer or shorter than its shape


class SizeClass(NamedTuple):
    """One of DiffTumor's sizes of tumours (SYSTEMS 3.9); the authors' voxels have 1 mm."""

    radius: float  # mm
    factors: tuple[float, float]  # by which each radius differs
    deformation: tuple[float, float]  # mm, standard deviation of the elastic displacement
    share: float


SIZES = {  # a tiny or a small one in 80 of 100 scans
    "tiny": SizeClass(4, (0.75, 1.25), (0.5, 1), 0.4),
    "small": SizeClass(8, (0.75, 1.25), (1, 2), 0.4),
    "medium": SizeClass(16, (0.75, 1.25), (3, 6), 0.1),
    "large": SizeClass(32, (0.75, 2), (5, 10), 0.1),
}


class Shape(Protocol):
    """A shape round the origin."""

    long_axis: float  # mm
    reach: float  # mm from the origin, within which all of it lies

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Whether points [3, ...] (mm) lie within it."""


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid whose surface is moved by a smooth random displacement.

    The authors of DiffTumor move slices of three planes; here one field moves all three axes.
    """

    radii: tuple[float, float, float]  # mm
    deformation: float  # mm, standard deviation of the displacement
    seed: int  # of the displacement

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Ellipsoid":
        """Draw one of DiffTumor's size classes, and the ellipsoid."""
        sizes = list(SIZES.values())
        size = sizes[rng.choice(len(sizes), p=[one.share for one in sizes])]
        radii = size.radius * rng.uniform(*size.factors, 3)
        return cls(tuple(map(float, radii)), float(rng.uniform(*size.deformation)), int(rng.integers(2**31)))

    @property
    def long_axis(self) -> float:
        return 2 * max(self.radii)

    @property
    def reach(self) -> float:
        return ROOM * max(self.radii) + 2 * self.deformation

    @cached_property
    def displacement(self) -> Waves:
        """Waves of two to four mean radii: shorter ones would tear small lesions to pieces."""
        radius = float(np.mean(self.radii))
        return Waves.draw(np.random.default_rng(self.seed), (2 * radius, 4 * radius), self.deformation / 2)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        points = np.float32(points)
        return ellipsoid(points + self.displacement(points), (0, 0, 0), self.radii) <= 0  # 0 in the middle too


@dataclass(frozen=True)
class RealShape:
    """The shape of a lesion of a patient, from its mask [x, y, z] on voxels of `spacing` mm."""

    mask: np.ndarray
    spacing: tuple[float, float, float]

    @cached_property
    def long_axis(self) -> float:
        return long_axis(self.mask, self.spacing)

    @property
    def reach(self) -> float:
        return self.long_axis  # from the centre of mass none of it is farther

    @cached_property
    def distance(self) -> np.ndarray:
        """Signed distance (mm) of the mask with a voxel more on each side."""
        return signed_distance(np.pad(self.mask, 1), self.spacing)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        middle = np.array(ndimage.center_of_mass(np.pad(self.mask, 1)))
        spacing = np.array(self.spacing)
        voxels = (points.reshape(3, -1) / spacing[:, None] + middle[:, None]).reshape(points.shape)
        return ndimage.map_coordinates(self.distance, voxels, order=1, mode="nearest") < 0


def packed(mask: np.ndarray) -> dict:
    """A mask [x, y, z] as JSON, without empty voxels around it: 1 to 3 KB."""
    voxels = np.argwhere(mask)
    mask = mask[tuple(map(slice, voxels.min(0), voxels.max(0) + 1))]
    return {"sides": list(mask.shape), "packed": base64.b64encode(zlib.compress(np.packbits(mask), 9)).decode()}


def unpacked(row: dict) -> RealShape:
    """The shape of `packed`, whose voxels have 1 mm."""
    bits = np.frombuffer(zlib.decompress(base64.b64decode(row["packed"])), np.uint8)
    return RealShape(np.unpackbits(bits, count=int(np.prod(row["sides"]))).reshape(row["sides"]) > 0, (1.0, 1.0, 1.0))


def rasterised(
    shape: Shape, spacing: tuple[float, float, float], rotation: tuple[float, float, float], scale: float
) -> np.ndarray:
    """The mask [x, y, z] of a turned and scaled shape, its origin in the middle voxel: odd sizes, one component.

    Args:
        spacing: of the voxels, mm.
        rotation: rotation vector, radians.
    """
    half = np.ceil(shape.reach * scale / np.array(spacing)).astype(int)
    axes = [np.arange(-n, n + 1) * length for n, length in zip(half, spacing, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1)
    local = Rotation.from_rotvec(rotation).inv().as_matrix() @ points / scale
    mask = shape(local).reshape(2 * half + 1)
    mask[tuple(half)] |= not mask.any()  # of a shape that lies between the voxels
    return trimmed(largest_component(mask))


def trimmed(mask: np.ndarray) -> np.ndarray:
    """The mask without empty voxels around it, its middle kept in the middle."""
    half = np.array(mask.shape) // 2
    kept = np.abs(np.argwhere(mask) - half).max(0)
    return mask[tuple(slice(middle - n, middle + n + 1) for middle, n in zip(half, kept, strict=True))]


def fitted_scale(
    shape: Shape, spacing: tuple[float, float, float], rotation: tuple[float, float, float], wanted: float
) -> float:
    """The scale at which the mask of a turned shape comes nearest to a long axis of `wanted` mm."""
    scale, tried = wanted / shape.long_axis, {}
    for _ in range(FITTINGS):
        found = long_axis(rasterised(shape, spacing, rotation, scale), spacing)
        tried[scale] = abs(found - wanted)
        scale *= wanted / found
    return float(min(tried, key=tried.get))


def lesion_parts(label: np.ndarray, value: int) -> list[tuple[np.ndarray, tuple[slice, ...]]]:
    """The mask of each lesion of a class in a label map [X, Y, Z] within its box, and the box, in a fixed order."""
    parts, _ = pieces_of(label, value)
    return [(parts[box] == number, box) for number, box in enumerate(ndimage.find_objects(parts), start=1)]


def long_axis(mask: np.ndarray, spacing: tuple[float, float, float]) -> float:
    """Largest diameter in mm of a mask [X, Y, Z]: between the centres of its two farthest voxels, plus one voxel."""
    points = np.argwhere(mask & ~ndimage.binary_erosion(mask)) * np.asarray(spacing)
    try:
        points = points[ConvexHull(points).vertices]
    except (QhullError, ValueError):
        pass  # flat or tiny: few points anyway
    if len(points) < 2:
        return float(max(spacing))
    distances = squareform(pdist(points))
    first, last = np.unravel_index(distances.argmax(), distances.shape)
    direction = np.abs(points[first] - points[last]) / distances.max()
    return float(distances.max() + 1 / (direction / spacing).max())
