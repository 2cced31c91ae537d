"""Are shapes of lesions like real ones, and are all real ones met: LN-Gen's Table II, in two stated feature spaces."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.spatial.transform import Rotation
from skimage.measure import euler_number, marching_cubes, mesh_surface_area

from lldm3d.evaluation.distances import precision, recall
from lldm3d.files import write_json
from lldm3d.lesions.editor import read_shapes
from lldm3d.lesions.lngen import SURFACE, distance_volume
from lldm3d.lesions.masks import Ellipsoid, Shape, unpacked
from lldm3d.lesions.pool import LesionPool, Scans, lesion_classes

SIDES = 32  # voxels of a shape's cube
NEAREST = 3  # k, as LN-Gen


def shape_measures(volume: np.ndarray) -> np.ndarray:
    """Ten measures of a shape's distances [n, n, n], which depend on size and turn by its voxels alone.

    Volume and surface over powers of its spread; share of its hull; two ratios of its principal axes; three third
    moments along these; its thickness over the spread; holes.
    """
    mask, n = volume < SURFACE, len(volume)
    points = (np.argwhere(mask) - np.argwhere(mask).mean(0)) / n
    spreads, axes = np.linalg.eigh(np.cov(points.T) + 1e-9 * np.eye(3))
    along, spread = points @ axes / np.sqrt(spreads), float(np.cbrt(np.sqrt(spreads.prod())))
    corners, faces, *_ = marching_cubes(np.pad(volume, 1, constant_values=1), SURFACE)
    return np.array([
        mask.sum() / n**3 / spread**3 / 10,
        mesh_surface_area(corners, faces) / n**2 / spread**2 / 100,
        mask.sum() / max(ConvexHull(corners).volume, 1),
        *np.sqrt(spreads[:2] / spreads[2]),
        *np.sort(np.abs((along**3).mean(0))),
        ndimage.distance_transform_edt(mask).max() / n / spread,
        np.sign(euler_number(mask) - 1),
    ])  # fmt: skip


def shape_features(shapes: Sequence[Shape], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Of shapes, each turned at random, the ten measures [N, 10] and the distances [N, 32768]."""
    turned = [distance_volume(shape, SIDES, Rotation.random(rng=rng)) for shape in shapes]
    return {"measures": np.array([*map(shape_measures, turned)]), "distances": np.array([v.ravel() for v in turned])}


def write_shape_table(
    dataset_dir: str,
    drawn: dict[str, str],
    path: str,
    lesion: str | None = None,
    organ: Sequence[str] | None = None,
    seed: int = 0,
) -> None:
    """Write precision and recall (k = 3) of drawn shapes and of ellipsoids against training lesions, N of each.

    N is the number of lesions; a set that has fewer says so, an empty one is left out. Measures are divided by their
    deviation over the lesions. The floor compares one half of the lesions with the other: N / 2 of each.

    Args:
        drawn: name of a set: file of its shapes.
        path: JSON file to write.
    """
    scans, rng = Scans(dataset_dir), np.random.default_rng(seed)
    pool = LesionPool(scans, lesion_classes(scans.schema, dataset_dir, lesion, organ))
    sets = {name: [unpacked(row) for row in read_shapes(file)] for name, file in drawn.items()}
    real = [pool.shape(item.scan, item.number) for item in pool.lesions]
    n = len(real)
    sets |= {"ellipsoids": [Ellipsoid.draw(rng) for _ in range(n)]}
    truth, found = shape_features(real, rng), {name: shape_features(of[:n], rng) for name, of in sets.items() if of}
    table = {}
    for space, features in truth.items():
        scale = features.std(0) + 1e-6 if space == "measures" else 1.0
        pairs = {name: (own[space] / scale, features / scale) for name, own in found.items()}
        pairs["floor"] = (features[::2] / scale, features[1::2] / scale)
        table[space] = {name: measured_shapes(*pair) for name, pair in pairs.items()}
    write_json(Path(path), {"n": n, **table})


def measured_shapes(drawn: np.ndarray, real: np.ndarray) -> dict[str, float | None]:
    """How many were drawn, precision and recall; None where there are no k neighbours."""
    if min(len(drawn), len(real)) <= NEAREST:
        return {"n": len(drawn), "precision": None, "recall": None}
    found = (measure(drawn, real, NEAREST) for measure in (precision, recall))
    return dict(zip(("n", "precision", "recall"), (len(drawn), *found), strict=True))
