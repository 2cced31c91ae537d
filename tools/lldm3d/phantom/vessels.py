"""Vessel trees in mm: main branches of the textbook, then twigs that grow toward points spread over the liver.

A twig goes to the tree's node of least distance + `BALANCE` * path to the root, which gives the acute, stretched
branching of vessels (Cuntz et al. 2010, "One rule to grow them all"). Radii follow Murray's law.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.interpolate import make_interp_spline
from scipy.spatial.distance import cdist

STEP = 4.0  # mm between nodes
BALANCE = 0.35
MURRAY = 2.7  # r_parent^m = sum r_child^m; 3 is Murray's, measured ones lie below
THINNEST = 0.7  # mm, radius of the last twigs
LONGEST = 45.0  # mm, of one twig

# Main branches in the standard patient's frame (mm); each starts where an earlier one passes.
PORTAL = (
    ((-24, -12, -48), (-16, -6, -36), (-4, 0, -24), (6, 2, -18)),  # trunk, to the hilum
    ((6, 2, -18), (24, 2, -12), (38, 8, -4), (50, 24, 12), (58, 34, 34)),  # right, right anterior
    ((24, 2, -12), (44, -14, -16), (58, -32, -14), (66, -42, 8)),  # right posterior
    ((44, 14, 4), (58, 30, -14), (66, 34, -38)),  # segment 5
    ((52, -24, -15), (62, -26, -36), (60, -20, -56)),  # segment 6
    ((6, 2, -18), (-6, 14, -4), (-20, 26, 8), (-36, 36, 16)),  # left, to its umbilical part
    ((-30, 33, 13), (-54, 34, 20), (-76, 36, 30)),  # segment 3
    ((-16, 23, 5), (-38, 14, 24), (-60, 9, 32)),  # segment 2
    ((-22, 28, 10), (-14, 46, 16), (-2, 54, 26)),  # segment 4
)
HEPATIC = (
    ((-10, -12, 54), (-9, -5, 56), (-8, 0, 56)),  # the confluence at the vena cava
    ((-9, -5, 56), (14, -12, 52), (44, -14, 34), (66, -8, 4), (74, -4, -30)),  # right
    ((-8, 0, 56), (4, 14, 48), (16, 28, 30), (24, 42, 8), (28, 50, -16)),  # middle
    ((-8, 0, 56), (-22, 14, 52), (-44, 26, 44), (-70, 28, 38)),  # left
)


@dataclass(frozen=True)
class Tree:
    """Nodes of a tree, parents before children."""

    nodes: np.ndarray  # [N, 3] mm
    parents: np.ndarray  # [N] index of the parent; -1 at the root
    radii: np.ndarray  # [N] mm
    main: int  # the first nodes, those of the main branches


def skeleton(branches: tuple, from_standard: Callable, root_radius: float) -> Tree:
    """Main branches as cubic splines with a node each 4 mm; `from_standard` maps [3, N] to the patient's mm."""
    nodes, parents = np.empty((0, 3)), []
    for branch in branches:
        points = from_standard(np.array(branch, "f4").T).T
        at = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
        spline = make_interp_spline(at, points, k=min(3, len(points) - 1))
        curve = spline(np.linspace(0, at[-1], int(at[-1] / STEP) + 2))
        start = int(cdist(nodes, curve[:1]).argmin()) if len(nodes) else -1
        curve = curve if start < 0 else curve[1:]
        parents += [start, *range(len(nodes), len(nodes) + len(curve) - 1)]
        nodes = np.concatenate([nodes, curve])
    return _with_radii(nodes, np.array(parents), root_radius, len(nodes))


def trim(tree: Tree, keep: np.ndarray) -> Tree:
    """The tree without the nodes where `keep` [N] is false, and without all that hangs on them."""
    keep = keep.copy()
    for node in range(1, len(keep)):
        keep[node] &= keep[tree.parents[node]]
    index = np.cumsum(keep) - 1
    parents = np.where(tree.parents < 0, -1, index[tree.parents])
    return Tree(tree.nodes[keep], parents[keep], tree.radii[keep], int(keep[: tree.main].sum()))


def grow(tree: Tree, targets: np.ndarray, allowed: Callable[[np.ndarray], bool], root_radius: float) -> Tree:
    """Grow twigs from `tree` to `targets` [T, 3] mm, the cheapest first, on paths [n, 3] that `allowed` accepts."""
    growth = _Growth(tree, targets)
    while np.isfinite(growth.cost).any():
        target = int(growth.cost.argmin())
        growth.cost[target] = np.inf  # reached now, or blocked until a new node offers another way
        path = growth.path(target)
        if allowed(path):
            growth.reached[target] = True
            growth.add(path, growth.start[target])
    return _smoothed(_with_radii(np.array(growth.nodes), np.array(growth.parents), root_radius, tree.main))


class _Growth:
    """A growing tree, and for each target the cheapest node to start from."""

    def __init__(self, tree: Tree, targets: np.ndarray):
        self.nodes, self.parents, self.length = list(tree.nodes), list(tree.parents), [0.0]  # mm from the root
        for node, parent in zip(tree.nodes[1:], tree.parents[1:], strict=True):
            self.length.append(self.length[parent] + np.linalg.norm(node - tree.nodes[parent]))
        self.targets, self.reached = targets, np.zeros(len(targets), bool)
        self.cost, self.start = np.full(len(targets), np.inf), np.zeros(len(targets), int)
        self._offer(0)

    def path(self, target: int) -> np.ndarray:
        """The straight way [n, 3] to a target, a node each 4 mm, without its start."""
        start, end = self.nodes[self.start[target]], self.targets[target]
        return np.linspace(start, end, int(np.linalg.norm(end - start) / STEP) + 2)[1:]

    def add(self, path: np.ndarray, start: int) -> None:
        """Hang `path` [n, 3] on the node `start`."""
        first, step = len(self.nodes), np.linalg.norm(path[0] - self.nodes[start])
        self.nodes += list(path)
        self.parents += [start, *range(first, first + len(path) - 1)]
        self.length += list(self.length[start] + step * np.arange(1, len(path) + 1))
        self._offer(first)

    def _offer(self, first: int) -> None:
        """Let the nodes from index `first` on compete for the targets that are not reached."""
        distance = cdist(self.targets, np.array(self.nodes[first:]))
        cost = np.where(distance < LONGEST, distance + BALANCE * np.array(self.length[first:]), np.inf)
        lower = (cost.min(1, initial=np.inf) < self.cost) & ~self.reached
        self.cost[lower] = cost[lower].min(1)
        self.start[lower] = first + cost[lower].argmin(1)


def _with_radii(nodes: np.ndarray, parents: np.ndarray, root_radius: float, main: int) -> Tree:
    """Murray's law: each end of the tree carries the same flow."""
    flow = np.ones(len(nodes))
    flow[np.unique(parents[1:])] = 0
    for node in range(len(nodes) - 1, 0, -1):
        flow[parents[node]] += flow[node]
    return Tree(nodes, parents, np.maximum(root_radius * (flow / flow[0]) ** (1 / MURRAY), THINNEST), main)


def _smoothed(tree: Tree) -> Tree:
    """Round the corners: each node moves toward its parent and its thickest child."""
    order = np.argsort(tree.radii[1:], kind="stable") + 1
    child = np.arange(len(tree.nodes))
    child[tree.parents[order]] = order  # the last written is the thickest
    inner = (child != np.arange(len(child))) & (tree.parents >= 0)
    nodes = tree.nodes.copy()
    for _ in range(3):
        nodes[inner] = 0.5 * nodes[inner] + 0.25 * (nodes[tree.parents[inner]] + nodes[child[inner]])
    return replace(tree, nodes=nodes)
