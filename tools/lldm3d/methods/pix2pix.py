"""The generator of Pix2Pix (Isola et al. 2017, arXiv:1611.07004), in two or three dimensions."""

from collections.abc import Sequence

import torch
from monai.networks.layers import Conv, Norm
from monai.networks.utils import normal_init
from torch import Tensor, nn

from lldm3d.methods.conditional_gan import halvings, product_of

LEAST = 8  # voxels that an axis must have to be halved: norms of an instance want some at the bottom
DROPOUT = 0.5


class UNetGenerator(nn.Module):
    """A U-Net of strided convolutions from a one-hot label to an image, whose only noise are the masks of its dropout.

    The authors test in training mode, with dropout and the statistics of the batch: in evaluation mode a batch of one
    gives blurred or black images. Here norms are those of the instance, and the masks are arguments, so that they
    follow from the case and all slices of a volume may have the same. MONAI's U-Nets have neither.

    Args:
        num_classes: K, with background.
        roi_size: voxels of a label along two or three axes; each is halved while it is even and has 8.
        channels: of the first convolution; each halving doubles them, up to eight times.
    """

    def __init__(self, num_classes: int, roi_size: Sequence[int], channels: int = 64) -> None:
        super().__init__()
        self.strides, dims = halvings(roi_size, LEAST), len(roi_size)
        self.multiple, last = product_of(self.strides), len(self.strides) - 1
        widths = [channels * min(2**level, 8) for level in range(last + 1)]
        norm = Norm["instance", dims]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, stride in enumerate(self.strides):
            convolved = resized(widths[level - 1] if level else num_classes, widths[level], stride)
            normed = [norm(widths[level])] if 0 < level < last else []
            self.down.append(nn.Sequential(*([nn.LeakyReLU(0.2)] if level else []), convolved, *normed))
        for level in reversed(range(last + 1)):
            outputs = widths[level - 1] if level else 1
            inputs = widths[level] if level == last else 2 * widths[level]
            convolved = resized(inputs, outputs, self.strides[level], transposed=True)
            self.up.append(nn.Sequential(nn.ReLU(), convolved, norm(outputs) if level else nn.Tanh()))
        # three layers of the paper's eight; it halves down to 1 voxel, this one to 4
        self.dropped = [widths[level - 1] for level in range(last, 0, -1)][: max(1, last - 2)]
        self.apply(normal_init)

    def noise(self, size: Sequence[int], generator: torch.Generator | None = None) -> list[Tensor]:
        """Masks [C, ...] of the innermost layers of the decoder, of a label with `size` voxels: 0 or 2."""
        masks, device = [], generator.device if generator else "cpu"
        for number, channels in enumerate(self.dropped):
            step = product_of(self.strides[: len(self.strides) - 1 - number])
            shape = [channels, *(length // stride for length, stride in zip(size, step, strict=True))]
            kept = torch.rand(shape, generator=generator, device=device) >= DROPOUT
            masks.append(kept / (1 - DROPOUT))
        return masks

    def forward(self, label: Tensor, *masks: Tensor) -> Tensor:
        """Images [B, 1, ...] in [-1, 1] for one-hot labels [B, K, ...]; without masks nothing is dropped."""
        skips = []
        for layer in self.down:
            label = layer(label)
            skips.append(label)
        image = skips.pop()
        for number, layer in enumerate(self.up):
            image = layer(image)
            if number < len(masks):
                image = image * masks[number]
            if skips:
                image = torch.cat([image, skips.pop()], 1)
        return image


def resized(inputs: int, outputs: int, stride: tuple[int, ...], transposed: bool = False) -> nn.Module:
    """A convolution that halves, or doubles, the axes with a stride of 2: a kernel of 4 there, and of 3 elsewhere."""
    kernel = tuple(4 if step == 2 else 3 for step in stride)
    kind = Conv["convtrans" if transposed else "conv", len(stride)]
    return kind(inputs, outputs, kernel, stride, padding=1)
