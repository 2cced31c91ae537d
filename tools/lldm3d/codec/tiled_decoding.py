"""Decoding in slabs along the first axis: the same volume with less memory."""

from collections.abc import Callable, Iterator

import torch
from monai.networks.blocks import Convolution, UpSample
from monai.networks.nets import AutoencoderKL
from monai.networks.nets.autoencoderkl import AEKLResBlock
from torch import nn
from torch.nn import functional

DEPTH = 16  # voxels of a slab of the output; its halo of one voxel on each side then costs an eighth


@torch.no_grad()
def decode_in_slabs(autoencoder: AutoencoderKL, latent: torch.Tensor) -> torch.Tensor:
    """What `autoencoder.decode(latent)` gives, layer by layer and each layer slab by slab; without gradients.

    Independent windows cannot do it: group norm takes its statistics from what it is given, so `SlidingWindowInferer`
    leaves seams (a test shows them). Here the statistics are those of the whole, and each convolution sees its slab
    with a halo. MONAI's `AutoencoderKlMaisi` splits convolutions, but is another network with other names of its
    weights, drops the last slices of a size that its number of splits does not divide, and keeps norms whole.

    Args:
        autoencoder: with weights of AutoencoderKL, in evaluation mode.
        latent: [B, C, x, y, z], as `decode` takes it.
    """
    x = autoencoder.post_quant_conv(latent)
    for block in autoencoder.decoder.blocks:
        x = layer(block, x)
    return x


def layer(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """One block of the decoder, which may write over `x`; attention, to which all voxels belong, stays whole."""
    if isinstance(block, AEKLResBlock):
        return residual(block, x)
    if isinstance(block, nn.GroupNorm):
        normalise = normaliser(block, x)
        for start, stop in bounds(x):
            x[:, :, start:stop] = normalise(x[:, :, start:stop])
        return x
    if isinstance(block, UpSample):
        return by_slabs(block, x, scale=2)
    return by_slabs(block, x) if isinstance(block, Convolution) else block(x)


def residual(block: AEKLResBlock, x: torch.Tensor) -> torch.Tensor:
    """The block's output, in the memory of `x` where that has the channels: two tensors are held instead of four."""
    hidden = by_slabs(activated(block.norm1, block.conv1, x), x)
    branch = activated(block.norm2, block.conv2, hidden)
    narrower = block.out_channels <= block.in_channels
    out = x[:, : block.out_channels] if narrower else torch.empty_like(hidden)
    for start, stop in bounds(x):
        out[:, :, start:stop] = block.nin_shortcut(x[:, :, start:stop]) + slab(branch, hidden, start, stop)
    return out


def activated(norm: nn.GroupNorm, convolution: nn.Module, x: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """The function of a part of `x` that normalises it as part of the whole, activates and convolves it."""
    normalise = normaliser(norm, x)
    return lambda part: convolution(functional.silu(normalise(part), inplace=True))


def normaliser(norm: nn.GroupNorm, x: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """The function of a part of `x` that normalises it with the mean and variance of each group of the whole."""
    count, total, squares = 0, 0.0, 0.0
    for start, stop in bounds(x):
        groups = x[:, :, start:stop].float().unflatten(1, (norm.num_groups, -1)).flatten(2)
        variance, mean = (item.double() for item in torch.var_mean(groups, -1, correction=0))
        size = groups.shape[-1]
        count, total, squares = count + size, total + size * mean, squares + size * (variance + mean.square())
    mean = total / count
    spread = (squares / count - mean.square() + norm.eps).sqrt()
    each = norm.num_channels // norm.num_groups  # channels of a group
    scale = norm.weight / spread.float().repeat_interleave(each, 1)
    shift = norm.bias - mean.float().repeat_interleave(each, 1) * scale
    scale, shift = (item[..., None, None, None] for item in (scale, shift))
    return lambda part: torch.addcmul(shift, part.float(), scale)


def bounds(x: torch.Tensor, depth: int = DEPTH) -> Iterator[tuple[int, int]]:
    """First slice and the one after the last of each slab of `x` [B, C, X, Y, Z]."""
    return ((start, min(start + depth, x.shape[2])) for start in range(0, x.shape[2], depth))


def by_slabs(function: Callable, x: torch.Tensor, scale: int = 1) -> torch.Tensor:
    """`function(x)` for a function of each voxel's neighbours that makes `scale` voxels of one along each axis."""
    out = None
    for start, stop in bounds(x, DEPTH // scale):
        part = slab(function, x, start, stop, scale)
        if out is None:
            out = part.new_empty(*part.shape[:2], scale * x.shape[2], *part.shape[3:])
        out[:, :, scale * start : scale * stop] = part
    return out


def slab(function: Callable, x: torch.Tensor, start: int, stop: int, scale: int = 1) -> torch.Tensor:
    """`function(x)` for the slices from `start` to `stop`, computed with a halo of one slice on each side."""
    first = max(start - 1, 0)
    return function(x[:, :, first : stop + 1])[:, :, scale * (start - first) : scale * (stop - first)]
