"""From millimetres to voxels (the grid, the tubes of a tree, partial volume), and what the scanner makes of them."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from lldm3d.phantom.anatomy import Waves
from lldm3d.phantom.vessels import Tree

MARGIN = 8.0  # mm between the liver and the edge of the field of view
NEIGHBOURS = np.ones((3, 3, 3), bool)


@dataclass(frozen=True)
class Grid:
    """Voxels in the patient's mm; in a field of view too small for the liver the patient shrinks."""

    size: tuple[int, int, int]
    spacing: np.ndarray  # [3] mm of the patient
    origin: np.ndarray  # [3] mm, centre of the first voxel

    @classmethod
    def around(cls, low: np.ndarray, high: np.ndarray, size: tuple, spacing: tuple) -> "Grid":
        """The grid whose centre is that of the box from `low` to `high` (mm), which it holds with a margin."""
        spacing = np.array(spacing, float)
        spacing = spacing * max(1, ((high - low + 2 * MARGIN) / (spacing * size)).max())
        return cls(tuple(size), spacing, (low + high) / 2 - (np.array(size) - 1) / 2 * spacing)

    @property
    def voxel(self) -> float:
        """Mean voxel edge, mm."""
        return float(np.cbrt(self.spacing.prod()))

    def points(self) -> np.ndarray:
        """Voxel centres [3, X, Y, Z], mm."""
        axes = [o + s * np.arange(n) for o, s, n in zip(self.origin, self.spacing, self.size, strict=True)]
        return np.stack(np.meshgrid(*axes, indexing="ij")).astype("f4")

    def box(self, low: np.ndarray, high: np.ndarray) -> tuple[slice, slice, slice]:
        """The voxels between two corners (mm), as slices clipped to the grid."""
        first = np.clip(np.floor((low - self.origin) / self.spacing), 0, self.size).astype(int)
        last = np.clip(np.ceil((high - self.origin) / self.spacing) + 1, 0, self.size).astype(int)
        return tuple(slice(a, b) for a, b in zip(first, last, strict=True))


class Tubes:
    """A tree as it is painted: signed distance (mm, large far away), mask, and what is too near for the other tree."""

    def __init__(self, tree: Tree, grid: Grid, thinnest: float):
        self.tree, self.grid = tree, grid
        self.radii = np.maximum(tree.radii, 0.55 * grid.voxel)  # a voxel wide at least
        self.kept = tree.radii >= max(thinnest, 0.27 * grid.voxel)  # thinner twigs would crowd the grid
        self.kept[: tree.main] = True
        self.distance = np.full(grid.size, 1e3, "f4")
        self.mask, self.near = np.zeros(grid.size, bool), np.zeros(grid.size, bool)

    def paint(self, node: int, blocked: np.ndarray) -> None:
        """Paint the tube that ends at `node`, less what is `blocked`; none where its middle is, or after a gap."""
        parent = self.tree.parents[node]
        self.kept[node] &= parent < 0 or self.kept[parent]
        if parent < 0 or not self.kept[node]:
            return
        ends = self.tree.nodes[[parent, node]]
        radii = min(self.radii[parent], 1.3 * self.radii[node]), self.radii[node]
        reach = max(radii) + 2 * self.grid.spacing
        box = self.grid.box(ends.min(0) - reach, ends.max(0) + reach)
        middle = _centreline(self.grid, ends)
        self.kept[node] = not blocked[middle].any()
        if self.kept[node]:
            tube = _tube(self.grid, box, ends, radii)
            tube[blocked[box]] = np.maximum(tube[blocked[box]], 0.2 * self.grid.voxel)
            np.minimum(self.distance[box], tube, out=self.distance[box])
            self.mask[middle] = True
            self.mask[box] |= tube < 0
            self.near[box] |= ndimage.binary_dilation(self.mask[box], NEIGHBOURS)


def paint_trees(trees: tuple[Tree, Tree], grid: Grid, thinnest: float = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """(signed distance in mm, mask) [X, Y, Z] of both trees: each 26-connected, at least a voxel between the two.

    Twigs of a radius below `thinnest` (mm) are left out; main branches never are.

    Main branches go first, then the thickest, hence where the trees would touch on this grid the lesser branch ends.
    """
    pair = [Tubes(tree, grid, thinnest) for tree in trees]
    which = np.concatenate([np.full(len(tree.radii), i) for i, tree in enumerate(trees)])
    nodes = np.concatenate([np.arange(len(tree.radii)) for tree in trees])
    twig = np.concatenate([np.arange(len(tree.radii)) >= tree.main for tree in trees])
    for at in np.lexsort((-np.concatenate([tree.radii for tree in trees]), twig)):  # stable: parents stay first
        pair[which[at]].paint(nodes[at], pair[1 - which[at]].near)
    return [(tubes.distance, largest_component(tubes.mask)) for tubes in pair]


def _tube(grid: Grid, box: tuple, ends: np.ndarray, radii: tuple[float, float]) -> np.ndarray:
    """Signed distance (mm) of the voxels in `box` to a tapered tube between `ends` [2, 3]."""
    axis = ends[1] - ends[0]
    offsets = [
        (grid.origin[i] + grid.spacing[i] * np.arange(box[i].start, box[i].stop) - ends[0, i]).reshape(
            [-1 if i == j else 1 for j in range(3)]
        )
        for i in range(3)
    ]
    along = np.clip(sum(o * a for o, a in zip(offsets, axis, strict=True)) / max(axis @ axis, 1e-6), 0, 1)
    square = sum((o - along * a) ** 2 for o, a in zip(offsets, axis, strict=True))
    return np.sqrt(square) - (radii[0] + (radii[1] - radii[0]) * along)


def _centreline(grid: Grid, ends: np.ndarray) -> tuple[np.ndarray, ...]:
    """Indices of the voxels on the line between `ends` [2, 3] mm: steps of a quarter voxel leave no gap."""
    voxels = (ends - grid.origin) / grid.spacing
    count = int(np.abs(voxels[1] - voxels[0]).max() * 4) + 2
    line = np.rint(np.linspace(voxels[0], voxels[1], count)).astype(int)
    return tuple(line[((line >= 0) & (line < grid.size)).all(1)].T)


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest 26-connected component of `mask`."""
    components, _ = ndimage.label(mask, NEIGHBOURS)
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    return components == sizes.argmax() if sizes.any() else mask


# Signal over that of the liver, before each patient's own deviation.
SIGNAL = {
    "air": 0.0, "fat": 0.22, "muscle": 0.40, "bone": 0.27, "csf": 0.16, "lung": 0.05,
    "heart": 0.46, "blood": 0.42, "bowel": 0.36, "pancreas": 0.52, "stomach": 0.18, "stomach wall": 0.46,
    "spleen": 0.48, "kidney": 0.78, "kidney sinus": 0.30, "gallbladder": 0.30, "liver": 1.0, "lesion": 0.48,
}  # fmt: skip
LIVER = 500.0  # raw units of the scanner
DEVIATION = 0.06  # of a tissue's signal between patients


def draw_signals(rng: np.random.Generator) -> dict[str, float]:
    """The patient's tissue signals: uptake of liver and lesion vary, bile may hold the contrast agent."""
    signal = {name: value * (1 + DEVIATION * np.clip(rng.normal(), -2, 2)) for name, value in SIGNAL.items()}
    signal["lesion"] = rng.uniform(0.38, 0.60)
    if rng.random() < 0.4:
        signal["gallbladder"] = rng.uniform(1.2, 1.6)
    return signal


def scan(signal: np.ndarray, grid: Grid, rng: np.random.Generator) -> np.ndarray:
    """What the scanner makes of a signal map [X, Y, Z]: texture, bias field, Rician noise; int16 raw units."""
    texture = 0.05 * _correlated(rng, grid, 2.5) + 0.03 * _correlated(rng, grid, 9.0)
    image = signal * (1 + texture) * _bias(rng, grid)
    noise = rng.uniform(0.02, 0.035)
    real = image + noise * rng.standard_normal(grid.size, dtype="f4")
    imaginary = noise * rng.standard_normal(grid.size, dtype="f4")
    gain = LIVER * rng.uniform(0.6, 1.6)
    return np.rint(gain * np.hypot(real, imaginary)).astype("i2")


def _correlated(rng: np.random.Generator, grid: Grid, length: float) -> np.ndarray:
    """Gaussian noise of standard deviation 1, smooth over `length` mm."""
    noise = rng.standard_normal(grid.size, dtype="f4")
    noise = ndimage.gaussian_filter(noise, length / grid.spacing / 2, mode="wrap")
    return noise / noise.std()


def _bias(rng: np.random.Generator, grid: Grid) -> np.ndarray:
    """Coil sensitivity [X, Y, Z]: smooth over a quarter of a metre and more, about +-20 %."""
    waves = Waves.draw(rng, (300, 700), rms=0.16, count=4)
    coarse = [np.linspace(o, o + s * (n - 1), 9) for o, s, n in zip(grid.origin, grid.spacing, grid.size, strict=True)]
    field = np.exp(waves(np.stack(np.meshgrid(*coarse, indexing="ij")).astype("f4"))[0])
    zoom = [n / 9 for n in grid.size]
    return ndimage.zoom(field, zoom, order=1, grid_mode=False)
