"""Label maps, their one-hot form, and the distance of voxels to a class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import ndimage
from skimage.graph import MCP_Geometric
from skimage.measure import label as components
from skimage.morphology import skeletonize


def one_hot(label: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Class indices [B, 1, X, Y, Z] to float32 [B, num_classes, X, Y, Z].

    Labels are one-hot in and out of the label autoencoder: a scalar map that is blurred on its way makes classes that
    are not there (between liver and tumour lie the vessels). MONAI's `one_hot` keeps MetaTensors and the label's dtype.

    Raises:
        ValueError: on a value outside 0 .. num_classes - 1.
    """
    label = torch.as_tensor(label).long()
    low, high = int(label.min()), int(label.max())
    if low < 0 or high >= num_classes:
        raise ValueError(f"label values must lie in 0..{num_classes - 1}, got {low}..{high}")
    hot = torch.zeros(len(label), num_classes, *label.shape[2:], device=label.device)
    return hot.scatter_(1, label, 1.0)


VOLUME, LENGTH, NUMBER = "volume", "length", "number"


def size_kinds(class_names: Sequence[str], tubular: Sequence[str], lesions: Sequence[str]) -> list[list[str]]:
    """What `class_sizes` measures, each as class and kind: the volume of each class but the background, the length of
    the tubular ones, and the number of lesions of each kind."""
    kinds = {VOLUME: class_names[1:], LENGTH: tubular, NUMBER: lesions}
    return [[name, kind] for kind, found in kinds.items() for name in class_names if name in found]


def class_sizes(label: torch.Tensor, class_names: Sequence[str], kinds: Sequence[Sequence[str]]) -> torch.Tensor:
    """Sizes [S], one for each of `size_kinds`, in indices [1, X, Y, Z].

    A volume is the cube root of the voxels, a length the voxels of the centreline, a number that of the pieces.
    """
    volume, found = label[0].cpu().numpy(), []
    for name, kind in kinds:
        value = list(class_names).index(name)
        mask = volume == value
        if kind == VOLUME:
            found.append(mask.sum() ** (1 / 3))
        else:
            found.append(skeletonize(mask).sum() if kind == LENGTH else pieces_of(volume, value)[1])
    return torch.tensor(found, dtype=torch.float32)


def signed_distance(mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Distance (mm) of each voxel's centre to the surface of a mask [X, Y, Z], negative inside.

    The surface lies half a voxel beyond the last centre inside. Where there is none, all is infinitely far from it.
    MONAI's `DistanceTransformEDT` is one-sided.
    """
    if mask.all() or not mask.any():
        return np.where(mask, -np.inf, np.inf).astype(np.float32)
    outside = ndimage.distance_transform_edt(~mask, spacing)
    inside = ndimage.distance_transform_edt(mask, spacing)
    half = min(spacing) / 2
    return np.where(mask, half - inside, outside - half).astype(np.float32)


TOUCHING = np.ones((3, 3, 3))  # voxels touch by faces, edges or corners
DETOUR = 16.0  # what it costs to pass a voxel, for each unit by which a class lies deeper than in the one that won


def pieces_of(label: np.ndarray, value: int) -> tuple[np.ndarray, int]:
    """The pieces of a class in a label map [X, Y, Z], numbered from 1, and how many there are."""
    return components(label == value, return_num=True, connectivity=3)


@dataclass(frozen=True)
class LabelForm:
    """What a drawn label map shall have, by the classes' indices.

    Args:
        voxels: of classes.
        pieces: at most, from 1.
    """

    voxels: Mapping[int, int] = field(default_factory=dict)
    pieces: Mapping[int, int] = field(default_factory=dict)

    def label(self, depths: np.ndarray) -> np.ndarray:
        """The label map [X, Y, Z] uint8 of depths, or any scores, [K, X, Y, Z]; see `with_voxels`, `join_pieces`."""
        depths = with_voxels(depths, self.voxels) if self.voxels else depths
        label = depths.argmax(0).astype(np.uint8)
        for value, most in self.pieces.items():
            label = join_pieces(label, depths, value, most)
        return label


ROUNDS = 3  # as classes take voxels from each other
FARTHEST = 0.25  # of the depth at which distances are cut off: one voxel. Farther off lies what was not meant: specks


def with_voxels(depths: np.ndarray, voxels: Mapping[int, int]) -> np.ndarray:
    """Depths [K, X, Y, Z] in which each of these classes is shifted as a whole, until it wins so many voxels.

    So surfaces move where they were nearest to lying elsewhere, by `FARTHEST` at most: thin classes, of which a network
    that errs a little draws too few voxels, get theirs. Of a class that shall have none, none is left.
    """
    moved, shifts = depths.copy(), dict.fromkeys(voxels, 0.0)
    for value, number in list(voxels.items()) * ROUNDS:
        lacking = np.delete(moved, value, 0).max(0) - moved[value]
        places = [place for place in (number - 1, number) if 0 <= place < lacking.size]  # of the last in, the first out
        ends = np.partition(lacking, places, None)[places]
        shift = shifts[value] + (ends.mean() if number else ends[0] - 1)
        shifts[value] = float(np.clip(shift, -FARTHEST, FARTHEST)) if number else shift
        moved[value] = depths[value] + shifts[value]
    return moved


def join_pieces(label: np.ndarray, depths: np.ndarray, value: int, most: int) -> np.ndarray:
    """A label map [X, Y, Z] in which a class has at most so many pieces.

    The smallest piece grows towards another one, voxel by voxel along the path on which the class was nearest to being
    drawn, through the class that surrounds it; a piece that no path joins becomes that class.

    Args:
        depths: how deep each voxel lies in each class, or any score of them, [K, X, Y, Z]; the largest one won.
        value: the class.
        most: pieces, from 1.
    """
    label = label.copy()
    around = label[ndimage.binary_dilation(label == value, TOUCHING) & (label != value)]
    if not around.size:
        return label
    host, lacking = np.bincount(around).argmax(), depths.max(0) - depths[value]
    while (pieces := pieces_of(label, value)[0]).max() > most:
        piece = pieces == 1 + np.bincount(pieces.flat)[1:].argmin()
        others = (pieces > 0) & ~piece
        cost = np.where(label == host, 1 + DETOUR * lacking, -1)  # no path leads below 0
        cost[label == value] = 1e-3
        paths = MCP_Geometric(cost)
        reached, _ = paths.find_costs(np.argwhere(piece), np.argwhere(others), find_all_ends=False)
        reached = np.where(others, reached, np.inf)
        if np.isfinite(reached.min()):
            label[tuple(np.transpose(paths.traceback(np.unravel_index(reached.argmin(), label.shape))))] = value
        else:
            label[piece] = host
    return label
