"""One case of the phantom in mm: anatomy, hepatocellular carcinomas and both vessel trees, before any voxel grid."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

from lldm3d.phantom.anatomy import Anatomy, Waves, ellipsoid
from lldm3d.phantom.vessels import HEPATIC, PORTAL, Tree, grow, skeleton, trim

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
        radii = radius * np.array([1, rng.uniform(0.8, 1), rng.uniform(0.7, 0.95)])
        axes = Rotation.random(random_state=rng).as_matrix().astype("f4")
        ripple = Waves.draw(rng, (1.2 * radius, 3 * radius), rms=0.05 * radius, count=5)
        return cls(np.asarray(centre, "f4"), radii, axes, ripple, kind)

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


PITCH = 12.0  # mm between the twigs' targets
GAP = 4.0  # mm of liver between the walls of the two trees
TRIES = 250  # to place a lesion


@dataclass(frozen=True)
class Patient:
    """All that is drawn in mm."""

    anatomy: Anatomy
    lesions: list[Lesion]
    portal: Tree
    hepatic: Tree
    low: np.ndarray  # [3] mm, corner of the box round the liver
    high: np.ndarray  # [3] mm, opposite corner


def draw_patient(rng: np.random.Generator) -> Patient:
    """Draw a patient: the trees go round the lesions and keep clear of one another."""
    anatomy = Anatomy.draw(rng)
    axes = [np.arange(-half, half, PITCH) for half in (140, 115, 115)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)  # over the liver: a jittered grid
    points = (points + rng.uniform(0, PITCH, points.shape)).astype("f4")
    points = points[anatomy.liver(points.T) < 0]
    roots = rng.uniform(5.5, 7.0), rng.uniform(6.0, 7.5)  # mm
    portal = _main_branches(anatomy, PORTAL, roots[0], inside=5)
    hepatic = _main_branches(anatomy, HEPATIC, roots[1], inside=3)
    lesions, portal, hepatic = _place_lesions(rng, anatomy, points, portal, hepatic)
    targets = points[anatomy.liver(points.T) < -5]
    rng.shuffle(targets)
    half = len(targets) // 2
    hepatic = grow(hepatic, targets[:half], _Clear(anatomy, lesions, portal), roots[1])
    portal = grow(portal, targets[half:], _Clear(anatomy, lesions, hepatic), roots[0])
    return Patient(anatomy, lesions, portal, hepatic, points.min(0), points.max(0))


def _main_branches(anatomy: Anatomy, branches: tuple, root_radius: float, inside: float) -> Tree:
    """The main branches, cut where they come within `inside` mm of the liver's surface after having been in it."""
    tree = skeleton(branches, anatomy.from_standard, root_radius)
    depth = -anatomy.liver(tree.nodes.T.astype("f4"))
    entered = np.zeros(len(depth), bool)
    for node, parent in enumerate(tree.parents):
        entered[node] = depth[node] > inside or (parent >= 0 and entered[parent])
    return trim(tree, (depth > inside) | ~entered)


def _place_lesions(rng, anatomy: Anatomy, points: np.ndarray, portal: Tree, hepatic: Tree):
    """Draw 0 to 5 lesions, the largest first, each a little smaller at each vain try; they push the main vessels."""
    lesions: list[Lesion] = []
    depth, count = -anatomy.liver(points.T), rng.choice(len(COUNTS), p=COUNTS)
    for long_axis in np.sort(np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST), count)))[::-1]:
        for _ in range(TRIES):
            candidates = points[depth > 0.42 * long_axis + 1]
            if len(candidates):
                lesion = Lesion.draw(rng, candidates[rng.integers(len(candidates))], long_axis)
                pushed = [_pushed(anatomy, lesion, tree) for tree in (portal, hepatic)]
                if all(pushed) and _apart(lesion, lesions, *pushed):
                    lesions.append(lesion)
                    portal, hepatic = pushed
                    break
            long_axis = max(0.99 * long_axis, SMALLEST)
    return lesions, portal, hepatic


def _pushed(anatomy: Anatomy, lesion: Lesion, tree: Tree) -> Tree | None:
    """The tree pushed aside by a lesion, without what was squeezed out of the liver; None where that tears it."""
    if np.linalg.norm(tree.nodes - lesion.centre, axis=1).min() < 0.3 * lesion.radius:
        return None
    nodes = lesion.push(tree.nodes)
    before, after = (anatomy.liver(n.T.astype("f4")) for n in (tree.nodes, nodes))
    outside = before > -2.5  # the trunk, and the mouth of the hepatic veins
    pushed = trim(replace(tree, nodes=nodes), ~(after > -2.5) | outside)
    return pushed if len(pushed.nodes) > 0.6 * len(nodes) else None


def _apart(lesion: Lesion, others: list[Lesion], portal: Tree, hepatic: Tree) -> bool:
    """Whether a new lesion keeps its distance from the others, and the pushed vessels from all and from one another."""
    if any(np.linalg.norm(lesion.centre - mass.centre) < lesion.radius + mass.radius + APART for mass in others):
        return False
    vessels, radii = np.concatenate([portal.nodes, hepatic.nodes]), np.concatenate([portal.radii, hepatic.radii])
    for mass in (lesion, *others):
        if (np.linalg.norm(vessels - mass.centre, axis=1) < np.maximum(mass.radius + 1, 5) + radii).any():
            return False
    walls = portal.radii[:, None] + hepatic.radii
    return bool((cdist(portal.nodes, hepatic.nodes) > walls + GAP - 1).all())


class _Clear:
    """Whether a path [n, 3] (mm) stays in the liver, out of the lesions and clear of the other tree."""

    def __init__(self, anatomy: Anatomy, lesions: list[Lesion], other: Tree):
        self.anatomy, self.other = anatomy, other
        self.centres = np.array([lesion.centre for lesion in lesions]).reshape(-1, 3)
        self.reach = np.array([lesion.clearance for lesion in lesions])

    def __call__(self, path: np.ndarray) -> bool:
        near_tree = (cdist(path, self.other.nodes) < self.other.radii + GAP).any()
        if near_tree or (cdist(path, self.centres) < self.reach).any():
            return False
        return bool((self.anatomy.liver(path.T.astype("f4")) < -2.5).all())
