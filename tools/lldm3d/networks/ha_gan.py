"""Hierarchical Amortized GAN (Sun et al. 2022, IEEE JBHI, arXiv:2008.01910), written from the paper.

Volumes are [B, 1, D, H, W] in [-1, 1] with the axis first along which sub-volumes are cut; features A are those of the
whole volume at a quarter of its size. MONAI has no GAN that draws a volume by parts.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from lldm3d.networks.sizes import check_cases, check_least, check_multiple

STRIDE = 4  # voxels for each voxel of the features A, and of the low resolution
MULTIPLE = 4 * STRIDE  # the grid that the latent is laid on


def check_size(roi_size: Sequence[int]) -> list[int]:
    """The size itself. Raises UserError where an axis is no multiple of 16 voxels."""
    return check_multiple("roi_size", roi_size, MULTIPLE, "prepare the data with another size")


def check_sizes(dataset_dir: str, roi_size: Sequence[int], slab: Sequence[int], channels: dict[str, list[int]]) -> None:
    """Raise UserError where the cases of a data set, or slabs of them, do not fit the networks.

    Args:
        dataset_dir: prepared data set.
        roi_size: voxels of its cases.
        slab: voxels of a slab, depth first.
        channels: of the discriminators, "high" and "low".
    """
    fewer = "give discriminator_channels#{} fewer entries, each of which halves that"
    check_cases(dataset_dir, roi_size, MULTIPLE, mend="")
    check_least("roi_size", roi_size, STRIDE * 2 ** len(channels["low"]), fewer.format("low"))
    check_multiple("slab", slab[:1], STRIDE, "give another slab")
    check_least("slab", slab, 2 ** len(channels["high"]), fewer.format("high"))


def convolution(inputs: int, outputs: int, groups: int) -> nn.Sequential:
    """3x3x3 convolution, group normalisation, ReLU."""
    return nn.Sequential(nn.Conv3d(inputs, outputs, 3, padding=1), nn.GroupNorm(groups, outputs), nn.ReLU())


def upsampling(inputs: int, outputs: int, groups: int) -> nn.Sequential:
    """Twice the size by nearest neighbours, then a convolution."""
    return nn.Sequential(nn.Upsample(scale_factor=2), *convolution(inputs, outputs, groups))


class Generator(nn.Module):
    """G^A from latent to features A, G^L to the low resolution, G^H to the high one of all of A or a slab of it.

    Args:
        roi_size: voxels of the volume, depth first, multiples of 16.
        latent_size: of z.
        channels: of A.
        groups: of the group normalisations.
    """

    def __init__(self, roi_size: Sequence[int], latent_size: int = 1024, channels: int = 64, groups: int = 8) -> None:
        super().__init__()
        self.grid = [size // MULTIPLE for size in check_size(roi_size)]
        self.width = 4 * channels
        self.lay = nn.Linear(latent_size, self.width * torch.Size(self.grid).numel())
        self.trunk = nn.Sequential(
            convolution(4 * channels, 4 * channels, groups),
            upsampling(4 * channels, 2 * channels, groups),
            upsampling(2 * channels, channels, groups),
        )
        self.low = nn.Sequential(
            convolution(channels, channels // 2, groups), nn.Conv3d(channels // 2, 1, 3, padding=1), nn.Tanh()
        )
        self.high = nn.Sequential(
            upsampling(channels, channels // 2, groups),
            upsampling(channels // 2, channels // 4, min(groups, channels // 4)),
            nn.Conv3d(channels // 4, 1, 3, padding=1),
            nn.Tanh(),
        )

    def features(self, latent: torch.Tensor) -> torch.Tensor:
        """G^A: A [B, C, D/4, H/4, W/4] of latents [B, N]."""
        return self.trunk(self.lay(latent).view(len(latent), self.width, *self.grid))

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        """The whole volumes [B, 1, D, H, W] of latents [B, N] in one pass."""
        return self.high(self.features(latent))


class Encoder(nn.Module):
    """E^H from a slab of the volume to its slab of A, and E^G from all of A to the latent.

    Args:
        roi_size, latent_size, channels, groups: as the generator's.
    """

    def __init__(self, roi_size: Sequence[int], latent_size: int = 1024, channels: int = 64, groups: int = 8) -> None:
        super().__init__()
        voxels = torch.Size(size // MULTIPLE for size in check_size(roi_size)).numel()
        self.slab = nn.Sequential(
            nn.Conv3d(1, channels // 2, 4, stride=2, padding=1),
            nn.GroupNorm(groups, channels // 2),
            nn.ReLU(),
            nn.Conv3d(channels // 2, channels, 4, stride=2, padding=1),
            nn.GroupNorm(groups, channels),
            nn.ReLU(),
            nn.Conv3d(channels, channels, 3, padding=1),
        )
        self.whole = nn.Sequential(
            nn.Conv3d(channels, 2 * channels, 4, stride=2, padding=1),
            nn.GroupNorm(groups, 2 * channels),
            nn.ReLU(),
            nn.Conv3d(2 * channels, 4 * channels, 4, stride=2, padding=1),
            nn.GroupNorm(groups, 4 * channels),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(4 * channels * voxels, latent_size),
        )

    @torch.no_grad()
    def features(self, volume: torch.Tensor, depth: int) -> torch.Tensor:
        """A [B, C, D/4, H/4, W/4], slab after slab of `depth` voxels, whose activations are not kept."""
        return torch.cat([self.slab(part) for part in volume.split(depth, 2)], 2)


class Discriminator(nn.Module):
    """D^H or D^L: one score of a volume, told where in the whole one it lies.

    Args:
        channels: of its convolutions, each of which halves the size.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        pairs = zip((1, *channels), channels, strict=False)
        layers = [spectral_norm(nn.Conv3d(a, b, 4, stride=2, padding=1)) for a, b in pairs]
        self.layers = nn.ModuleList(layers)
        self.score = nn.Sequential(
            spectral_norm(nn.Linear(channels[-1] + 1, channels[-1])),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Linear(channels[-1], 1)),
        )

    def forward(self, volume: torch.Tensor, place: float = 0.0) -> torch.Tensor:
        """Scores [B, 1] of volumes [B, 1, d, h, w] that begin at `place` in 0..1 of the depth."""
        for layer in self.layers:
            volume = nn.functional.leaky_relu(layer(volume), 0.2)
        pooled = volume.mean((2, 3, 4))
        return self.score(torch.cat([pooled, torch.full_like(pooled[:, :1], place)], 1))
