"""The discriminator of OASIS (Schönfeld et al. 2021, arXiv:2012.04781): a segmentation network with a class for drawn.

Logits are [B, K + 1, ...]: 0 is drawn, and c + 1 a real voxel of class c. Images are [B, 1, ...] in [-1, 1].
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from monai.networks.layers import Conv, Pool
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, leaky_relu, mse_loss
from torch.nn.utils.parametrizations import spectral_norm

from lldm3d.methods.conditional_gan import halvings

LEAST = 8  # voxels that an axis must have to be halved
MOST_WEIGHT = 100.0  # of a class: without a limit one voxel of a rare class outweighs all others
MOST = 8  # times the channels of the last layer, in the deepest


class ResidualBlock(nn.Module):
    """Two spectrally normalised convolutions beside a shortcut; no other norm.

    Args:
        inputs, outputs: channels.
        spatial_dims: 2 or 3.
        first: of the image itself, before which nothing is rectified.
    """

    def __init__(self, inputs: int, outputs: int, spatial_dims: int, first: bool = False) -> None:
        super().__init__()
        kind, self.first = Conv["conv", spatial_dims], first
        pairs = ((inputs, outputs), (outputs, outputs))
        self.convolutions = nn.ModuleList(spectral_norm(kind(*pair, 3, padding=1)) for pair in pairs)
        self.short = spectral_norm(kind(inputs, outputs, 1)) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = x if self.first else leaky_relu(x, 0.2)
        h = self.convolutions[1](leaky_relu(self.convolutions[0](h), 0.2))
        return h + self.short(x)


class SegmentingDiscriminator(nn.Module):
    """A residual U-Net that says of each voxel of an image which class it is of, or that it was drawn.

    Args:
        num_classes: K, with background.
        roi_size: voxels along two or three axes; each is halved while it is even and has 8.
        channels: of the last layer; the levels have 2, 2, 4, 4, 8, 8 times as many.
    """

    def __init__(self, num_classes: int, roi_size: Sequence[int], channels: int = 64) -> None:
        super().__init__()
        self.strides, dims = halvings(roi_size, LEAST), len(roi_size)
        widths = [1, *(channels * min(2 ** (level // 2 + 1), MOST) for level in range(len(self.strides)))]
        self.down, self.pools, self.up = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for level, stride in enumerate(self.strides):
            self.down.append(ResidualBlock(*widths[level : level + 2], dims, first=level == 0))
            self.pools.append(Pool["avg", dims](stride))
        inputs = widths[-1]
        for level in reversed(range(len(self.strides))):
            outputs = widths[level] if level else channels
            self.up.append(ResidualBlock(inputs, outputs, dims))
            inputs = outputs + widths[level]
        self.end = Conv["conv", dims](channels, num_classes + 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits [B, K + 1, ...] of images [B, 1, ...]."""
        x, skips = image, []
        for block, pool in zip(self.down, self.pools, strict=True):
            skips.append(x)
            x = pool(block(x))
        for number, (stride, block) in enumerate(zip(reversed(self.strides), self.up, strict=True)):
            x = block(interpolate(x, scale_factor=tuple(map(float, stride))))
            if number < len(self.up) - 1:
                x = torch.cat([x, skips[-1 - number]], 1)
        return self.end(leaky_relu(x, 0.2))


def class_weights(label: Tensor) -> Tensor:
    """alpha [K] of the classes of one-hot labels [B, K, ...]: voxels over (those of the class × classes present).

    Schönfeld et al. 2021, eq. 1, with the division by the number of classes that their code adds, so that a balanced
    batch has weights of 1; none is above 100, and what is absent has 0.
    """
    counts = label.sum(dim=[0, *range(2, label.ndim)])
    weights = counts.sum() / (counts.clamp_min(1) * (counts > 0).sum())
    return torch.where(counts > 0, weights.clamp_max(MOST_WEIGHT), 0)


def real_loss(logits: Tensor, label: Tensor) -> Tensor:
    """The weighted cross-entropy of logits [B, K + 1, ...] that all voxels are real, and of their classes."""
    weights = torch.cat([label.new_zeros(1), class_weights(label)])
    losses = cross_entropy(logits, label.argmax(1) + 1, reduction="none")
    return (weights[label.argmax(1) + 1] * losses).mean()


def label_mix(label: Tensor) -> Tensor:
    """A mask [B, 1, ...] of 0 and 1, drawn for each class of each case, so that its borders are those of the label."""
    drawn = torch.randint(0, 2, label.shape[:2], device=label.device, dtype=label.dtype)
    return (label * drawn.view(*drawn.shape, *[1] * (label.ndim - 2))).sum(1, keepdim=True)


@dataclass(eq=False)
class SegmentationJudge:
    """The losses of OASIS: cross-entropy over the classes and "drawn", and consistency under LabelMix (eq. 1 to 4)."""

    mix_weight: float = 10.0  # lambda of LabelMix

    def discriminator_loss(self, discriminator: nn.Module, label: Tensor, real: Tensor, fake: Tensor) -> Tensor:
        of_real, of_fake = discriminator(torch.cat([real, fake])).chunk(2)
        drawn = torch.zeros_like(label[:, 0], dtype=torch.long)
        loss = real_loss(of_real, label) + cross_entropy(of_fake, drawn)
        if not self.mix_weight:
            return loss
        mask = label_mix(label)
        mixed = discriminator(torch.where(mask > 0, real, fake))
        return loss + self.mix_weight * mse_loss(mixed, torch.where(mask > 0, of_real, of_fake))

    def generator_loss(self, discriminator: nn.Module, label: Tensor, real: Tensor, fake: Tensor) -> Tensor:
        return real_loss(discriminator(fake), label)
