"""Copies: is a synthetic case nearer to some training case than real held-out cases are?"""

import math
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist
from tqdm import tqdm

from lldm3d.evaluation.features import Space
from lldm3d.evaluation.metrics import HIGHER, LOWER, Row, bootstrap
from lldm3d.evaluation.records import Survey
from lldm3d.evaluation.scans import case_name
from lldm3d.processes import device

COARSE = 24  # voxels along each axis that a coarse image has at most
SHIFT = 2  # voxels along each axis by which a copy may be moved
SMOOTHING = 0.5  # coarse voxels; of 140 hippocampus scans with noise of 0.1 added, 99 % are found with it, 69 % without


def coarse(image: np.ndarray) -> np.ndarray:
    """The image [X, Y, Z] averaged over blocks of whole voxels, down to at most 24 along each axis, and smoothed."""
    blocks = block_size(image.shape)
    kept = tuple(length // block * block for length, block in zip(image.shape, blocks, strict=True))
    split = [part for length, block in zip(kept, blocks, strict=True) for part in (length // block, block)]
    return gaussian_filter(image[tuple(map(slice, kept))].reshape(split).mean((1, 3, 5)), SMOOTHING)


def block_size(size: tuple[int, ...]) -> tuple[int, ...]:
    """Voxels of a scan along each axis of a voxel of its coarse image."""
    return tuple(-(-length // COARSE) for length in size)


def nearest_images(
    queries: np.ndarray, training: np.ndarray, size: tuple[int, ...], device: torch.device, description: str
) -> tuple[np.ndarray, np.ndarray]:
    """The training image nearest to each query: its distance [N] and its index [N].

    The distance is 1 - r for the correlation r of the images less the mean training image (what all patients share
    would else make any two scans near copies), the best of the eight mirrored queries and of all shifts by up to 2
    voxels along each axis. In float32: r is right to 1e-5.

    Args:
        queries: coarse images [N, x, y, z].
        training: coarse images [M, x, y, z].
        size: voxels of the scans.
        device: where all are compared with all, most of what grows with N times M in an evaluation.
        description: shown by the progress bar.
    """
    margin = tuple(-(-SHIFT // block) for block in block_size(size))
    inner = tuple(slice(cut, length - cut) for cut, length in zip(margin, training.shape[1:], strict=True))
    queries, training = (torch.as_tensor(images, dtype=torch.float32, device=device) for images in (queries, training))
    window, mean = training[0][inner].shape, training.mean(0)[inner].flatten()
    targets = unit(training[:, *inner].flatten(1) - mean)
    found = [
        (unit(windows(mirrored(query), window) - mean) @ targets.T).amax(0).max(0)
        for query in tqdm(queries, desc=description, mininterval=1)
    ]
    best = np.array([float(item.values) for item in found])
    return np.maximum(1 - best, 0), np.array([int(item.indices) for item in found])


def mirrored(image: torch.Tensor) -> torch.Tensor:
    """The eight mirror images of [x, y, z], the image itself first."""
    return torch.stack([image.flip(axes) for number in range(4) for axes in combinations(range(3), number)])


def windows(images: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """All windows of `size` of [B, x, y, z], flat: [W, P]."""
    for axis, length in enumerate(size, start=1):
        images = images.unfold(axis, length, 1)
    return images.reshape(-1, math.prod(size))


def unit(rows: torch.Tensor) -> torch.Tensor:
    """Rows [N, P] less their means, of length 1."""
    return torch.nn.functional.normalize(rows - rows.mean(1, keepdim=True), eps=1e-6)


PERCENTILE = 5  # of the held-out distances; the share of held-out cases below it is chance
WORST = 10
TOO_FEW = "fewer than 2 held-out real cases (validation and test)"


@dataclass(frozen=True)
class Nearest:
    """Distances [N] of the cases of each side to their nearest training cases, in one space."""

    space: str  # features or image
    synthetic: np.ndarray
    held_out: np.ndarray
    neighbours: np.ndarray  # [N] index of the training case nearest to each synthetic case

    @property
    def comparable(self) -> bool:
        """Whether there are enough held-out cases to set the scale."""
        return len(self.held_out) >= 2

    @property
    def threshold(self) -> float:
        return float(np.percentile(self.held_out, PERCENTILE))


def nearest_neighbours(
    synthetic: Survey, training: Survey, held_out: list[Survey], size: tuple[int, ...], space: Space | None
) -> list[Nearest]:
    """Distances in image space (`matching.nearest`; `size` are the voxels of the scans), and before it, where there is
    one, in a feature space (Euclidean, each feature divided by its standard deviation over the training cases)."""
    real = [side for side in held_out if len(side)]
    find = partial(nearest_images, training=training.coarse, size=size, device=device())
    distances, neighbours = find(synthetic.coarse, description="evaluate copies")
    other = [find(side.coarse, description="evaluate held-out real cases")[0] for side in real]
    images = Nearest("image", distances, joined(other), neighbours)
    if space is None:
        return [images]
    points = scaled_features(training, training, space)
    between = cdist(scaled_features(synthetic, training, space), points)
    other = [cdist(scaled_features(side, training, space), points).min(1) for side in real]
    return [Nearest("features", between.min(1), joined(other), between.argmin(1)), images]


def joined(distances: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(distances) if distances else np.empty(0)


def scaled_features(side: Survey, training: Survey, space: Space) -> np.ndarray:
    """Features [N, D] in standard deviations of the training cases; a feature that is constant there is left out."""
    spread = training.features(space).std(0)
    varied = spread > 1e-6 * max(spread.max(), 1e-12)
    return side.features(space)[:, varied] / spread[varied]


def copy_rows(spaces: list[Nearest], space: Space | None) -> list[Row]:
    """The share of near copies; for each space their number, the share nearer than the 5th percentile of held-out
    cases, and the median distance."""
    blank = Row("copies", "", "synthetic / real training", None, LOWER, n=len(spaces[0].synthetic), note=TOO_FEW)
    rows = [replace(blank, name="share of near copies")]
    if all(item.comparable for item in spaces):
        rows = [replace(rows[0], value=copied_share(spaces), floor=0, note="in any of the spaces below")]
    for item in spaces:
        known = replace(blank, **(space.identity if item.space == "features" else {}))
        rows += [near_row(item, known), share_row(item, known), median_row(item, known)]
    return rows


def near_row(item: Nearest, blank: Row) -> Row:
    row = replace(blank, name=f"near copies, {item.space}", unit="cases")
    if not item.comparable:
        return row
    note = "nearer than half the distance of the nearest held-out case"
    return replace(row, value=int(near_copies(item).sum()), floor=0, note=note)


def share_row(item: Nearest, blank: Row) -> Row:
    name = f"share nearer than {PERCENTILE} % of held-out cases, {item.space}"
    row = replace(blank, name=name, between="synthetic / real held-out, to nearest training case")
    if not item.comparable:
        return row
    return replace(
        row,
        value=share(item.synthetic, item.held_out),
        interval=bootstrap(share, item.synthetic, item.held_out),
        floor=PERCENTILE / 100,
        note=f"{len(item.held_out)} held-out real cases (validation and test); floor: chance",
    )


def median_row(item: Nearest, blank: Row) -> Row:
    return replace(
        blank,
        name=f"median distance to nearest training case, {item.space}",
        between="synthetic; floor: real held-out",
        value=float(np.median(item.synthetic)),
        interval=bootstrap(np.median, item.synthetic),
        floor=float(np.median(item.held_out)) if item.comparable else None,
        direction=HIGHER,
        note=f"{len(item.held_out)} held-out real cases (validation and test)",
    )


def near_copies(item: Nearest) -> np.ndarray:
    """Which synthetic cases [N] lie at less than half the distance of the nearest held-out case."""
    return item.synthetic < item.held_out.min() / 2


def copied_share(spaces: list[Nearest]) -> float:
    """Share of the synthetic cases that are near copies in any space."""
    return float(np.any([near_copies(item) for item in spaces], axis=0).mean())


def share(synthetic: np.ndarray, held_out: np.ndarray) -> float:
    """Share of the synthetic distances below the 5th percentile of the held-out ones."""
    return float((synthetic < np.percentile(held_out, PERCENTILE)).mean())


def worst(spaces: list[Nearest], synthetic: Survey, training: Survey) -> list[dict]:
    """The synthetic cases nearest to training cases, by distance relative to the median of held-out cases."""
    entries = []
    for item in spaces:
        scale = float(np.median(item.held_out)) if len(item.held_out) else float(np.median(item.synthetic))
        for index in np.argsort(item.synthetic)[:WORST]:
            near = training.cases[item.neighbours[index]]
            entries.append(
                {
                    "case": case_name(synthetic.cases[index]),
                    "nearest": case_name(near),
                    "space": item.space,
                    "distance": float(item.synthetic[index]),
                    "threshold": item.threshold if item.comparable else None,
                    "relative": float(item.synthetic[index] / scale) if scale > 0 else None,
                    "image": synthetic.cases[index]["image"],
                    "nearest_image": near["image"],
                }
            )
    return entries
