"""Sampling training crops of cached volumes, and augmenting a whole batch on the device of the network."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.transforms import MapTransform, RandomizableTransform
from monai.transforms.utils import create_rotate

from lldm3d.data.dataset import LEFT_OUT_VALUE
from lldm3d.data.volumes import window


@dataclass(eq=False)
class AugmentedBatch:
    """Image and label of a batch, each case rotated, scaled, brightened and given noise by draws of its own.

    With the same ranges MONAI's `RandAffined` (bilinear for the image, nearest for the label, border),
    `RandScaleIntensityd`, `RandShiftIntensityd` and `RandGaussianNoised` do the same, but to one case after the other,
    on the CPU, and note each step in metadata.
    """

    rotation: float  # largest angle about each axis (rad)
    scaling: float  # largest relative change of each axis
    factor: float  # largest relative change of the image's values
    offset: float  # largest change of the image's values
    noise: float  # largest standard deviation of the noise
    prob: float  # of rotation with scaling, of `factor` and of `offset`, each for itself
    noise_prob: float  # of noise

    def __call__(self, batch: dict, device=None, non_blocking: bool = False, **_) -> tuple[torch.Tensor, torch.Tensor]:
        image, label = (batch[key].to(device, non_blocking=non_blocking) for key in ("image", "label"))
        probs = (self.prob, self.noise_prob)
        moved, noisy = ((torch.rand(len(image)) < prob).nonzero().flatten().tolist() for prob in probs)
        # one case after the other: their temporary volumes stay in a processor's cache, which halves the time there
        for index in moved:
            angles, scales = uniform(self.rotation, 3), 1 + uniform(self.scaling, 3)
            rotation = torch.as_tensor(create_rotate(3, angles.tolist())[:3, :3], dtype=torch.float32)
            image[index], label[index] = warp(image[index], label[index], rotation * scales)
        factor, offset = (
            (uniform(reach, len(image)) * (torch.rand(len(image)) < self.prob)).view(-1, 1, 1, 1, 1)
            for reach in (self.factor, self.offset)
        )
        image.mul_((1 + factor).to(device)).add_(offset.to(device))
        for index in noisy:
            image[index].add_(torch.randn_like(image[index]), alpha=self.noise * torch.rand(1).item())
        return image, label


def uniform(reach: float, *size: int) -> torch.Tensor:
    """Draws from -reach to reach."""
    return (2 * torch.rand(size) - 1) * reach


def warp(image: torch.Tensor, label: torch.Tensor, matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Image (trilinear) and label (nearest), both [1, X, Y, Z], at `matrix` [3, 3] @ voxel, from the middle.

    Outside the volume the nearest voxel's value, as MONAI's `Affine` with padding_mode="border". It calls `grid_sample`
    once for each; on a CPU that takes four times as long (4.0 for 1.1 ms for two crops of 32x48x32 voxels).
    """
    size = image.shape[1:]
    steps = (size[1] * size[2], size[2], 1)
    places = source_places(matrix.to(image.device), size)
    nearest = flat_index([place.round().to(torch.int32) for place in places], steps)
    low = [place.clamp(max=n - 2).to(torch.int32) for place, n in zip(places, size, strict=True)]
    weights = [place.sub_(index).flatten() for place, index in zip(places, low, strict=True)]
    moved = between(image.flatten(), flat_index(low, steps), weights, steps)
    return moved.view(image.shape), label.flatten().index_select(0, nearest).view(label.shape)


def flat_index(indices: list[torch.Tensor], steps: tuple[int, ...]) -> torch.Tensor:
    """Three indices as one into the flattened volume, [X * Y * Z]."""
    x, y, z = indices
    return (x * steps[0]).add_(y, alpha=steps[1]).add_(z).flatten()


def source_places(matrix: torch.Tensor, size: torch.Size) -> list[torch.Tensor]:
    """Where each voxel's value comes from: three coordinates [X, Y, Z] in voxels, moved to the volume's edge."""
    x, y, z = (torch.arange(n, device=matrix.device) - (n - 1) / 2 for n in size)
    x, y = x[:, None, None], y[:, None]
    return [
        (row[0] * x + row[1] * y + (row[2] * z + (n - 1) / 2)).clamp_(0, n - 1)
        for row, n in zip(matrix, size, strict=True)
    ]


def between(
    values: torch.Tensor, corner: torch.Tensor, weights: list[torch.Tensor], steps: tuple[int, ...]
) -> torch.Tensor:
    """Linear between the values at index `corner` and one step further, along each axis in turn."""
    if not steps:
        return values.index_select(0, corner)
    low = between(values, corner, weights[1:], steps[1:])
    high = between(values[steps[0] :], corner, weights[1:], steps[1:])
    return low.lerp_(high, weights[0])


FOREGROUND = "foreground"


class ForegroundIndicesd(MapTransform):
    """Adds `foreground`: where the label has a class, int32 [n], indices of the flattened volume.

    Voxels that the loss leaves out have none.

    Args:
        keys: the label, [1, X, Y, Z].
    """

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict:
        label = np.asarray(data[self.first_key(data)])
        of_class = (label > 0) & (label != LEFT_OUT_VALUE)
        indices = np.flatnonzero(of_class).astype(np.int32)  # torch's nonzero takes four times as long
        return {**data, FOREGROUND: torch.from_numpy(indices)}


class PosNegCropd(RandomizableTransform, MapTransform):
    """A crop of all keys, as often round a voxel of the foreground as round one of the background.

    What stock `RandCropByPosNegLabeld` draws with `pos=1, neg=1, num_samples=1`. That looks through the whole label in
    each draw or, given the indices, copies all of them; this draws the background by trial.

    Args:
        keys: volumes [C, X, Y, Z], of which the last is the label.
        spatial_size: voxels of the crop, at most those of the volumes.
    """

    def __init__(self, keys: Sequence[str], spatial_size: Sequence[int]) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self)
        self.spatial_size = tuple(spatial_size)

    def randomize(self, data: Mapping) -> None:
        """Draw the first voxel [3] of the crop."""
        label, foreground = data[self.keys[-1]], data[FOREGROUND]
        share = len(foreground) / label.numel()
        if share == 1 or (share > 0 and self.R.rand() < 0.5):
            index = int(foreground[self.R.randint(len(foreground))])
        else:
            flat = label.flatten()
            while 0 < flat[index := self.R.randint(len(flat))] < LEFT_OUT_VALUE:
                pass
        center = np.array(np.unravel_index(index, label.shape[1:]))
        self.start = window(center, label.shape[1:], self.spatial_size)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict:
        self.randomize(data)
        box = tuple(slice(low, low + size) for low, size in zip(self.start, self.spatial_size, strict=True))
        return {key: data[key][(slice(None), *box)] for key in self.keys}
