"""The nearest training image of an image, whichever way a copy of it was mirrored or moved."""

import math
from itertools import combinations

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from tqdm import tqdm

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


def nearest(
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
