"""Generators whose norms see the label (Park et al. 2019, SPADE, arXiv:1903.07291), in two or three dimensions.

With noise beside the label it is the generator of OASIS (Schönfeld et al. 2021, arXiv:2012.04781).
"""

from collections.abc import Sequence

import torch
from monai.networks.blocks import SPADE
from monai.networks.layers import Conv
from torch import Tensor, nn
from torch.nn.functional import interpolate, leaky_relu
from torch.nn.utils.parametrizations import spectral_norm

from lldm3d.methods.conditional_gan import halvings, product_of

LEAST = 16  # voxels that an axis must have to be halved: 256 are laid on a grid of 8, as the paper's
MOST = 16  # times the channels of the last layer, in the first


def spade_norm(
    label_channels: int, channels: int, spatial_dims: int, hidden_channels: int, norm: str | tuple = "INSTANCE"
) -> SPADE:
    """norm(x) (1 + gamma(m)) + beta(m), with gamma and beta two convolutions of the label m, brought to x by nearest.

    MONAI's class after a repair: as it stands gamma and beta pass an instance norm of their own, so that their size
    follows from how much of the volume a class takes: at the centre of a square of one class gamma is 9.20, 3.62, 1.69
    and 0.35 for sides of 8, 32, 64 and 120 voxels; without it the same for all.
    """
    kind = (norm, {"affine": False}) if isinstance(norm, str) else (norm[0], {**norm[1], "affine": False})
    layer = SPADE(label_channels, channels, spatial_dims=spatial_dims, hidden_channels=hidden_channels, norm=kind)
    layer.mlp_gamma.adn, layer.mlp_beta.adn = nn.Identity(), nn.Identity()
    layer.mlp_shared.adn = nn.ReLU()  # as the authors; MONAI's lets a hundredth of the rest through
    return layer


class SpadeBlock(nn.Module):
    """Two spectrally normalised convolutions, each after such a norm, beside a shortcut.

    Args:
        label_channels: of the condition, noise with it.
        inputs, outputs: channels.
        spatial_dims: 2 or 3.
        hidden_channels: of the norms.
    """

    def __init__(self, label_channels: int, inputs: int, outputs: int, spatial_dims: int, hidden_channels: int) -> None:
        super().__init__()
        middle, kind = min(inputs, outputs), Conv["conv", spatial_dims]

        def norm(channels: int) -> SPADE:
            return spade_norm(label_channels, channels, spatial_dims, hidden_channels)

        self.norms = nn.ModuleList([norm(inputs), norm(middle)])
        self.convolutions = nn.ModuleList(
            [spectral_norm(kind(inputs, middle, 3, padding=1)), spectral_norm(kind(middle, outputs, 3, padding=1))]
        )
        if inputs != outputs:
            self.short_norm, self.short = norm(inputs), spectral_norm(kind(inputs, outputs, 1, bias=False))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Features [B, C, ...] and the condition [B, K, ...] at any size."""
        shortcut = self.short(self.short_norm(x, condition)) if hasattr(self, "short") else x
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            x = convolution(leaky_relu(norm(x, condition), 0.2))
        return shortcut + x


class SpadeGenerator(nn.Module):
    """From a one-hot label, shrunk to a small grid, to an image; each block sees the label at its own size.

    Norms are of the instance: the authors' synchronised batch norm says nothing in batches of one.

    Args:
        num_classes: K, with background.
        roi_size: voxels of a label along two or three axes; each is halved while it is even and has 16.
        channels: of the last block; each halving doubles them, up to sixteen times.
        hidden_channels: of the norms.
        noise_channels: numbers of z, laid beside the label everywhere (OASIS); 0: an image follows from its label.
    """

    def __init__(
        self,
        num_classes: int,
        roi_size: Sequence[int],
        channels: int = 64,
        hidden_channels: int = 128,
        noise_channels: int = 0,
    ) -> None:
        super().__init__()
        self.strides, dims = halvings(roi_size, LEAST), len(roi_size)
        self.multiple, self.noise_channels = product_of(self.strides), noise_channels
        depth, sees = len(self.strides), num_classes + noise_channels
        widths = [channels * min(2**level, MOST) for level in range(depth, -1, -1)]
        self.begin = Conv["conv", dims](sees, widths[0], 3, padding=1)

        def block(inputs: int, outputs: int) -> SpadeBlock:
            return SpadeBlock(sees, inputs, outputs, dims, hidden_channels)

        self.head = block(widths[0], widths[0])
        self.middle = block(widths[0], widths[0])
        self.blocks = nn.ModuleList(block(*pair) for pair in zip(widths[:-1], widths[1:], strict=True))
        self.end = Conv["conv", dims](widths[-1], 1, 3, padding=1)
        self.apply(xavier)

    def noise(self, size: Sequence[int], generator: torch.Generator | None = None) -> list[Tensor]:
        """z [C, 1, ...], the same at each voxel; no tensor without noise channels."""
        if not self.noise_channels:
            return []
        device = generator.device if generator else "cpu"
        return [torch.randn([self.noise_channels, *[1] * len(size)], generator=generator, device=device)]

    def forward(self, label: Tensor, *noise: Tensor) -> Tensor:
        """Images [B, 1, ...] in [-1, 1] for one-hot labels [B, K, ...] and z [B, C, 1, ...]."""
        size = label.shape[2:]
        condition = torch.cat([label, *(z.expand(-1, -1, *size) for z in noise)], 1)
        small = [length // step for length, step in zip(size, self.multiple, strict=True)]
        x = self.middle(self.head(self.begin(interpolate(condition, small)), condition), condition)
        for stride, block in zip(reversed(self.strides), self.blocks, strict=True):
            x = block(interpolate(x, scale_factor=tuple(map(float, stride))), condition)
        return torch.tanh(self.end(leaky_relu(x, 0.2)))


def xavier(module: nn.Module) -> None:
    """The authors' initialisation of convolutions: Xavier's, with a gain of 0.02."""
    if isinstance(module, (nn.Conv2d, nn.Conv3d)):
        nn.init.xavier_normal_(module.weight, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
