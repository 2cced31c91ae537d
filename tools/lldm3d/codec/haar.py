"""A codec that loses nothing and learns nothing: the orthonormal Haar wavelet transform."""

from itertools import product

import numpy as np
import torch
from einops import rearrange
from torch import nn
from torch.nn.functional import pad

from lldm3d.data.labels import signed_distance


class HaarTransform(nn.Module):
    """Volumes to their Haar bands and back, with the calls of an autoencoder.

    Each axis goes from neighbours a, b to (a + b) / √2 and (a - b) / √2, so that white noise stays white noise and
    energy is kept (SYSTEMS part K; as pywt's `dwtn`). With two levels every band is transformed again (a wavelet
    packet), so that all 64 bands lie on one grid. MONAI has no wavelets, and pywt none on a GPU.

    Args:
        channels: of a volume, C.
        levels: 1 or 2; bands have 1 / 2^levels of the size.
        axes: 3, or 2 for slice by slice: 4 bands instead of 8, as many slices as the volume.
    """

    scaled_alike = 1  # so many latent channels, one after the other, by the largest deviation among them

    def __init__(self, channels: int = 1, levels: int = 1, axes: int = 3) -> None:
        super().__init__()
        if levels not in (1, 2):
            raise ValueError(f"levels must be 1 or 2, got {levels!r}")
        if axes not in (2, 3):
            raise ValueError(f"axes must be 2 or 3, got {axes!r}")
        self.channels, self.levels = channels, levels
        self.block = {"i": 2, "j": 2, "k": axes - 1}
        # row: a band by its frequencies along the axes; column: a voxel of the block
        corners = list(product(*map(range, self.block.values())))
        signs = [
            [(-1) ** sum(f * i for f, i in zip(band, corner, strict=True)) for corner in corners] for band in corners
        ]
        self.register_buffer("matrix", torch.tensor(signs) / len(corners) ** 0.5, persistent=False)

    @property
    def stride(self) -> int:
        """Voxels for each voxel of a band, along each transformed axis."""
        return 2**self.levels

    @property
    def latent_channels(self) -> int:
        return self.channels * len(self.matrix) ** self.levels

    def encode(self, volume: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Bands [B, C·8^levels (of slices C·4^levels), x, y, z], and zeros like them, as nothing is uncertain.

        Sizes that are no multiples of the stride are filled with the last voxel; who decodes cuts that off.
        """
        missing = [-size % n**self.levels for size, n in zip(volume.shape[2:], self.block.values(), strict=True)]
        if any(missing):
            volume = pad(volume, [size for missed in reversed(missing) for size in (0, missed)], mode="replicate")
        for _ in range(self.levels):
            blocks = rearrange(volume, "b c (x i) (y j) (z k) -> b c (i j k) x y z", **self.block)
            volume = torch.einsum("fv,bcvxyz->bcfxyz", self.matrix, blocks).flatten(1, 2)
        return volume, torch.zeros_like(volume)

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """The volume [B, C, X, Y, Z] of such bands."""
        for _ in range(self.levels):
            bands = rearrange(latent, "b (c f) x y z -> b c f x y z", f=len(self.matrix))
            blocks = torch.einsum("fv,bcfxyz->bcvxyz", self.matrix, bands)
            latent = rearrange(blocks, "b c (i j k) x y z -> b c (x i) (y j) (z k)", **self.block)
        return latent


class HaarDistances(HaarTransform):
    """The Haar transform of how deep each voxel lies in each class, instead of whether it does.

    A network that errs a little moves a surface, where by one-hot channels it scatters specks. All bands of a class are
    divided by one deviation, so that noise hides fine bands first and the whole is drawn before its details; of one-hot
    bands that were scaled each by itself organs were drawn at wrong places. It is that of the largest band of all, for
    classes of less than half of that of their own: else noise hides a vessel before the organ around it, and vessels
    were drawn too short. By their own, two parts of a hippocampus (1.3 times less) had 1.13 pieces instead of 1.01.

    Args:
        reach: depth at which it is cut off, inside and outside (voxels).
    """

    def __init__(self, channels: int = 1, levels: int = 1, axes: int = 3, reach: float = 4.0) -> None:
        super().__init__(channels, levels, axes)
        self.reach, self.scaled_alike = reach, self.latent_channels // channels

    def encode(self, volume: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Bands of one-hot labels [B, K, X, Y, Z]; what is decoded has its maximum at each voxel's class."""
        cases = volume.cpu().numpy() > 0
        depth = np.stack([[-signed_distance(mask, (1.0, 1.0, 1.0)) for mask in case] for case in cases])
        return super().encode(torch.from_numpy(depth).to(volume.device).clamp(-self.reach, self.reach) / self.reach)
