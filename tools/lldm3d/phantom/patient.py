"""One case of the phantom in mm: anatomy, lesions and both vessel trees, before any voxel grid."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.distance import cdist

from lldm3d.phantom.anatomy import Anatomy
from lldm3d.phantom.lesions import APART, SMALLEST, Lesion, draw_long_axes
from lldm3d.phantom.vessels import HEPATIC, PORTAL, Tree, grow, skeleton, trim

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
    points = _inside_liver(anatomy, rng)
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


def _inside_liver(anatomy: Anatomy, rng: np.random.Generator) -> np.ndarray:
    """Points [N, 3] (mm) spread over the liver: a jittered grid."""
    axes = [np.arange(-half, half, PITCH) for half in (140, 115, 115)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    grid = (grid + rng.uniform(0, PITCH, grid.shape)).astype("f4")
    return grid[anatomy.liver(grid.T) < 0]


def _main_branches(anatomy: Anatomy, branches: tuple, root_radius: float, inside: float) -> Tree:
    """The main branches, cut where they come within `inside` mm of the liver's surface after having been in it."""
    tree = skeleton(branches, anatomy.from_standard, root_radius)
    depth = -anatomy.liver(tree.nodes.T.astype("f4"))
    entered = np.zeros(len(depth), bool)
    for node, parent in enumerate(tree.parents):
        entered[node] = depth[node] > inside or (parent >= 0 and entered[parent])
    return trim(tree, (depth > inside) | ~entered)


def _place_lesions(rng, anatomy: Anatomy, points: np.ndarray, portal: Tree, hepatic: Tree):
    """Draw lesions one by one, each a little smaller at each vain try, and push the main vessels round them."""
    lesions: list[Lesion] = []
    depth = -anatomy.liver(points.T)
    for long_axis in draw_long_axes(rng):
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
    squeezed = after > -2.5
    pushed = trim(replace(tree, nodes=nodes), ~squeezed | outside)
    return pushed if len(pushed.nodes) > 0.6 * len(nodes) else None


def _apart(lesion: Lesion, others: list[Lesion], portal: Tree, hepatic: Tree) -> bool:
    """Whether a new lesion keeps its distance from the others, and the pushed vessels from all and from one another."""
    for other in others:
        if np.linalg.norm(lesion.centre - other.centre) < lesion.radius + other.radius + APART:
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
        if (cdist(path, self.centres) < self.reach).any():
            return False
        if (cdist(path, self.other.nodes) < self.other.radii + GAP).any():
            return False
        return bool((self.anatomy.liver(path.T.astype("f4")) < -2.5).all())
