"""Copies: is a synthetic case nearer to some training case than real held-out cases are?"""

import math
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist
from tqdm import tqdm

from lldm3d.data.dataset import Case
from lldm3d.evaluation.features import FeatureSpace
from lldm3d.evaluation.metrics import Compared, Metric, Row
from lldm3d.evaluation.records import CaseRecords
from lldm3d.processes import device
from lldm3d.statistics import bootstrap_interval

COARSE = 24  # voxels along each axis that a coarse image has at most
SHIFT = 2  # voxels along each axis by which a copy may be moved
SMOOTHING = 0.5  # coarse voxels; of 140 hippocampus scans with noise of 0.1 added, 99 % are found with it, 69 % without
MOST_NOISE = 0.4  # of a query's variance that is taken for noise; with 0.3 of copies with noise of 0.2 95 % are found


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
    queries: np.ndarray,
    training: np.ndarray,
    size: tuple[int, ...],
    device: torch.device,
    description: str,
    others: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The training image nearest to each query: its distance [N] and its index [N].

    The distance is 1 - |r| for the partial correlation r of the images given what all patients share (`shared_images`:
    it would else make any two scans near copies, and another brightness or contrast hide one), the best of the eight
    mirrored queries and of all shifts by up to 2 voxels along each axis. In float32: r is right to 1e-5. A copy with
    bright and dark exchanged has r = -1. Noise that a query has beyond that of training images (`noise_shares`) hides
    no copy: r is divided by the root of what is left of its variance (Spearman 1904, correction for attenuation). Of
    140 hippocampus scans with noise of 0.2 added 98 % are found with it, 74 % without; of 60 other patients none, of
    these with such noise 0.4 %, with noise of 0.3 5 %.

    Args:
        queries: coarse images [N, x, y, z].
        training: coarse images [M, x, y, z].
        size: voxels of the scans.
        device: where all are compared with all, most of what grows with N times M in an evaluation.
        description: shown by the progress bar.
        others: bool [N, M], the training images that count, of which those nearer than `SAME` are left out; infinity
            where none is left. Default: all count.
    """
    margin = (-(-SHIFT // block) for block in block_size(size))
    cuts = [(min(cut, (length - 1) // 2), length) for cut, length in zip(margin, training.shape[1:], strict=True)]
    inner = tuple(slice(cut, length - cut) for cut, length in cuts)
    queries, training = (torch.as_tensor(images, dtype=torch.float32, device=device) for images in (queries, training))
    window, shared = training[0][inner].shape, shared_images(training.mean(0)[inner])
    targets, found = residuals(training[:, *inner].flatten(1), shared), []
    noise = noise_shares(residuals(queries[:, *inner].flatten(1), shared), targets, window)
    for number, query in enumerate(tqdm(queries, desc=description, mininterval=1)):
        match = (residuals(shifted_windows(mirror_images(query), window), shared) @ targets.T).abs().amax(0)
        match = (match / (1 - noise[number]).sqrt()).clamp(max=1)
        if others is not None:
            match[~torch.as_tensor(others[number], device=device) | (match > 1 - SAME)] = -torch.inf
        found.append(match.max(0))
    best = np.array([float(item.values) for item in found])
    return np.maximum(1 - best, 0), np.array([int(item.indices) for item in found])


def mirror_images(image: torch.Tensor) -> torch.Tensor:
    """The eight mirror images of [x, y, z], the image itself first."""
    return torch.stack([image.flip(axes) for number in range(4) for axes in combinations(range(3), number)])


def shifted_windows(images: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """All windows of `size` of [B, x, y, z], flat: [W, P]."""
    for axis, length in enumerate(size, start=1):
        images = images.unfold(axis, length, 1)
    return images.reshape(-1, math.prod(size))


def shared_images(mean: torch.Tensor) -> torch.Tensor:
    """What all patients share, as orthonormal columns [P, K]: a constant, and the mean image [x, y, z] as it is and
    shaded along each axis, as coils shade a scan. Those that others explain are left out."""
    ramps = torch.meshgrid(*(torch.linspace(-1, 1, length) for length in mean.shape), indexing="ij")
    images = [torch.ones_like(mean), mean, *(mean * ramp.to(mean) for ramp in ramps)]
    columns, sizes, _ = torch.linalg.svd(torch.stack(images).flatten(1).T, full_matrices=False)
    return columns[:, sizes > 1e-3 * sizes[0]]


def residuals(rows: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
    """Rows [N, P] less what `shared` [P, K] explains of them, of length 1."""
    return torch.nn.functional.normalize(rows - (rows @ shared) @ shared.T, eps=1e-3)  # above what rounding leaves


def noise_shares(queries: torch.Tensor, training: torch.Tensor, window: tuple[int, ...]) -> torch.Tensor:
    """The part of the variance [N] of queries that is noise which 99 % of the training images do not have.

    White noise, smoothed as coarse images are, has a share of its energy in differences of neighbouring voxels that is
    known, and real images a smaller one.

    Args:
        queries: rows [N, P] of length 1, as `residuals` gives them.
        training: rows [M, P].
        window: the size of the images, whose voxels are the P.
    """
    rng = np.random.default_rng(0)
    white = np.stack([gaussian_filter(rng.normal(size=window), SMOOTHING, mode="wrap") for _ in range(8)])
    white = torch.as_tensor(white, dtype=queries.dtype, device=queries.device).flatten(1)
    usual = fine_share(training, window).quantile(0.99, interpolation="lower")
    room = fine_share(torch.nn.functional.normalize(white), window).mean() - usual
    if not room > 0:  # images of one voxel along an axis, or training images that are noise
        return queries.new_zeros(len(queries))
    return ((fine_share(queries, window) - usual) / room).clamp(0, MOST_NOISE)


def fine_share(rows: torch.Tensor, window: tuple[int, ...]) -> torch.Tensor:
    """The energy [N] of differences of neighbours, along all axes in turn, of rows [N, P] of length 1."""
    images = rows.reshape(-1, *window)
    for axis in (1, 2, 3):
        images = images.diff(dim=axis)
    return images.flatten(1).square().sum(1) / 8


SAME = 0.01  # distance below which two scans are one
SAMPLED = 100  # training cases at most whose distances to those of other patients are taken
PERCENTILE = 5  # of the held-out distances; the share of held-out cases below it is chance
WORST = 10
TOO_FEW = "fewer than 2 held-out real cases (validation and test)"


@dataclass(frozen=True)
class NearestCases:
    """Distances [N] of cases to their nearest training cases, between features or between images.

    Where images are drawn for warped labels, a repeated patient is warped too, and found beside the warped real image
    alone: of 140 warped hippocampus scans 4 % are found beside the training scans themselves.
    """

    by: str  # features or image
    synthetic: np.ndarray
    held_out: np.ndarray
    neighbours: np.ndarray  # [N] index of the training case nearest to each synthetic case
    others: np.ndarray = field(default_factory=lambda: np.empty(0))  # of training cases to those of other patients
    warped: tuple[np.ndarray, np.ndarray] | None = None  # of synthetic cases to warped training cases, and their index

    @property
    def comparable(self) -> bool:
        """Whether there are enough held-out cases to set the scale."""
        return len(self.held_out) >= 2

    @property
    def nearest(self) -> np.ndarray:
        """Of the synthetic cases, to training cases and warped ones."""
        return self.synthetic if self.warped is None else np.minimum(self.synthetic, self.warped[0])

    def neighbour(self, index: int, training: list[Case], warped: list[Case]) -> Case:
        """The training case, or the warped one, nearest to a synthetic case."""
        if self.warped is not None and self.warped[0][index] < self.synthetic[index]:
            return warped[self.warped[1][index]]
        return training[self.neighbours[index]]

    @property
    def threshold(self) -> float:
        return float(np.percentile(self.held_out, PERCENTILE))


def nearest_cases(
    synthetic: CaseRecords,
    training: CaseRecords,
    held_out: list[CaseRecords],
    size: tuple[int, ...],
    space: FeatureSpace | None,
    warped: CaseRecords | None = None,
) -> list[NearestCases]:
    """Distances between images (`nearest_images`; `size` are the voxels of the scans), and before it, where there is
    a feature space, between features (Euclidean, each divided by its standard deviation over the training cases).

    `warped` are training cases, changed as the labels that images were drawn for."""
    real = [split for split in held_out if len(split)]
    sample, others = apart(training)
    find = partial(nearest_images, training=training.coarse, size=size, device=device())
    distances, neighbours = find(synthetic.coarse, description="evaluate copies")
    other = [find(split.coarse, description="evaluate held-out real cases")[0] for split in real]
    among = find(sample.coarse, description="evaluate training cases", others=others)[0]
    images = nearest("image", distances, neighbours, other, among)
    if warped is not None:
        beside = nearest_images(synthetic.coarse, warped.coarse, size, device(), "evaluate copies, warps undone")
        images = replace(images, warped=beside)
    if space is None:
        return [images]
    points = scaled_features(training, training, space)
    between, *other, among = (
        cdist(scaled_features(cases, training, space), points) for cases in (synthetic, *real, sample)
    )
    among = np.where(others & (among > SAME), among, np.inf).min(1)
    by_features = between.min(1), between.argmin(1), [item.min(1) for item in other], among
    features = nearest("features", *by_features)
    if warped is not None:
        beside = cdist(scaled_features(synthetic, training, space), scaled_features(warped, training, space))
        features = replace(features, warped=(beside.min(1), beside.argmin(1)))
    return [features, images]


def nearest(
    by: str, synthetic: np.ndarray, neighbours: np.ndarray, held_out: list[np.ndarray], others: np.ndarray
) -> NearestCases:
    joined = np.concatenate([np.empty(0), *held_out])
    return NearestCases(by, synthetic, joined, neighbours, others[np.isfinite(others)])


def apart(training: CaseRecords) -> tuple[CaseRecords, np.ndarray]:
    """Up to `SAMPLED` training cases, and which of all are of other patients, bool [N, M]."""
    known = training.in_domain()
    chosen = np.unique(np.linspace(0, len(known) - 1, SAMPLED).astype(int))
    sample = CaseRecords([known.cases[index] for index in chosen], [known.records[index] for index in chosen])
    return sample, np.array([[case.patient != other.patient for other in training.cases] for case in sample.cases])


def scaled_features(cases: CaseRecords, training: CaseRecords, space: FeatureSpace) -> np.ndarray:
    """Features [N, D] in standard deviations of the training cases; a feature that is constant there is left out."""
    spread = training.features(space).std(0)
    varied = spread > 1e-6 * max(spread.max(), 1e-12)
    return cases.features(space)[:, varied] / spread[varied]


def copy_rows(nearest: list[NearestCases], space: FeatureSpace | None) -> list[Row]:
    """The share of near copies; by features and by image their number, the share nearer than the 5th percentile of
    held-out cases, and the median distance."""
    row = Row(Metric.NEAR_COPIES_SHARE, Compared.SYNTHETIC_TRAINING, n=len(nearest[0].synthetic), note=TOO_FEW)
    if all(item.comparable for item in nearest):
        row = replace(row, value=copied_share(nearest), floor=0, note="by features or by image")
    rows = [row]
    for item in nearest:
        network = {"network": space.network, "weights": space.weights} if item.by == "features" else {}
        rows += nearest_rows(item, {"variant": item.by, "n": len(item.synthetic), **network})
    return rows


def nearest_rows(item: NearestCases, common: dict) -> list[Row]:
    """The three rows by features or by image."""
    held_out = f"{len(item.held_out)} held-out real cases (validation and test)"
    copies = Row(Metric.NEAR_COPIES, Compared.SYNTHETIC_TRAINING, note=TOO_FEW, **common)
    nearer = Row(Metric.NEARER_SHARE, Compared.SYNTHETIC_HELD_OUT, note=TOO_FEW, **common)
    value, interval = float(np.median(item.synthetic)), bootstrap_interval(np.median, item.synthetic)
    distance = Row(
        *(Metric.NEAREST_DISTANCE, Compared.SYNTHETIC_ALONE, value), interval=interval, note=held_out, **common
    )
    if not item.comparable:
        return [copies, nearer, distance]
    note = "nearer than half the distance that three in four real cases keep"
    if item.warped is not None:
        note += ", to a training case or a warped one"
        held_out += "; training cases as they are, without the warps by which near copies are looked for"
    if near := int((item.held_out < copy_distance(item.held_out, item.others)).sum()):
        note += f"; so near are {near} of the held-out cases: is a patient in two splits, or do patients differ little?"
    share = nearer_share(item.synthetic, item.held_out)
    interval = bootstrap_interval(nearer_share, item.synthetic, item.held_out)
    return [
        replace(copies, value=int(near_copies(item).sum()), floor=0, note=note),
        replace(nearer, value=share, interval=interval, floor=PERCENTILE / 100, note=f"{held_out}; floor: chance"),
        replace(distance, floor=float(np.median(item.held_out))),
    ]


def copy_distance(held_out: np.ndarray, others: np.ndarray | None = None) -> float:
    """The distance below which a case is a near copy: half of what three in four held-out cases keep.

    Of the distances the one above the lower quarter, as the least may be that of a scan which is filed in training and
    test, or of a follow-up scan: it would switch the search off. Where many are, what training cases keep from those of
    other patients, if that is more.
    """
    known = [values for values in (held_out, others) if values is not None and len(values)]
    return max(float(np.quantile(values, 0.25, method="higher")) for values in known) / 2


def near_copies(item: NearestCases) -> np.ndarray:
    """Which synthetic cases [N] lie nearer than `copy_distance`."""
    return item.nearest < copy_distance(item.held_out, item.others)


def copied_share(nearest: list[NearestCases]) -> float:
    """Share of the synthetic cases that are near copies by features or by image."""
    return float(np.any([near_copies(item) for item in nearest], axis=0).mean())


def nearer_share(synthetic: np.ndarray, held_out: np.ndarray) -> float:
    """Share of the synthetic distances below the 5th percentile of the held-out ones."""
    return float((synthetic < np.percentile(held_out, PERCENTILE)).mean())


def nearest_pairs(
    nearest: list[NearestCases], synthetic: list[Case], training: list[Case], warped: list[Case]
) -> list[dict]:
    """The synthetic cases nearest to training cases, by distance relative to the median of held-out cases."""
    entries = []
    for item in nearest:
        scale = float(np.median(item.held_out)) if len(item.held_out) else float(np.median(item.synthetic))
        for index in np.argsort(item.nearest)[:WORST]:
            case, near, distance = synthetic[index], item.neighbour(index, training, warped), float(item.nearest[index])
            entry = {"case": case.name, "nearest": near.name, "warped": near in warped, "by": item.by}
            entry["distance"] = distance
            entry["threshold"] = item.threshold if item.comparable else None
            entry["relative"] = distance / scale if scale > 0 else None
            entries.append(entry | {"image": case.image, "nearest_image": near.image})
    return entries
