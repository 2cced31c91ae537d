"""The network of the semantic diffusion model (Wang et al. 2022, arXiv:2207.00050), in two or three dimensions."""

from collections.abc import Sequence

import torch
from monai.networks.blocks import SpatialAttentionBlock
from monai.networks.layers import Conv, Pool
from monai.networks.nets.diffusion_model_unet import get_timestep_embedding, zero_module
from torch import Tensor, nn
from torch.nn.functional import silu

from lldm3d.methods.spade import spade_norm


class TimeBlock(nn.Module):
    """A residual block that the time scales and shifts, norm(h) (1 + s) + b, and whose norms may see the label.

    Args:
        inputs, outputs: channels.
        time_channels: of the embedding of the time.
        spatial_dims: 2 or 3.
        groups: of the norms.
        label_channels: K; 0: the norms do not see the label.
        hidden_channels: of norms that do.
        resize: "down" (mean of 2 voxels along each axis), "up" (nearest), or neither.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        time_channels: int,
        spatial_dims: int,
        groups: int,
        label_channels: int = 0,
        hidden_channels: int = 128,
        resize: str = "",
    ) -> None:
        super().__init__()
        self.label_channels = label_channels
        kind = Conv["conv", spatial_dims]

        def norm(channels: int) -> nn.Module:
            if not label_channels:
                return nn.GroupNorm(groups, channels)
            return spade_norm(
                label_channels, channels, spatial_dims, hidden_channels, ("GROUP", {"num_groups": groups})
            )

        self.norms = nn.ModuleList([norm(inputs), norm(outputs)])
        sizes = {"down": Pool["avg", spatial_dims](2), "up": nn.Upsample(scale_factor=2.0)}
        self.resize = sizes.get(resize, nn.Identity())
        self.first = kind(inputs, outputs, 3, padding=1)
        self.time = nn.Linear(time_channels, 2 * outputs)
        self.last = zero_module(kind(outputs, outputs, 3, padding=1))
        self.short = kind(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        """Features [B, C, ...], embedded times [B, T] and the one-hot label [B, K, ...] at any size."""
        before, after = ((norm, (label,) if self.label_channels else ()) for norm in self.norms)
        h = self.first(self.resize(silu(before[0](x, *before[1]))))
        scale, shift = self.time(silu(time)).view(*time.shape[:1], -1, *[1] * (x.ndim - 2)).chunk(2, 1)
        h = self.last(silu(after[0](h, *after[1]) * (1 + scale) + shift))
        return h + self.short(self.resize(x))


class SemanticDiffusion(nn.Module):
    """A diffusion U-Net of (x, timesteps, condition), whose middle and decoder see the label, by their norms alone.

    MONAI's `SPADEDiffusionModelUNet` has such norms in the decoder only, adds the time, and its norms have the fault
    that `spade_norm` repairs.

    Args:
        num_classes: K of the one-hot label, with background.
        spatial_dims: 2 or 3.
        channels: of each level; each but the first has half the size of the one before.
        attention_levels: which of them attend.
        num_res_blocks: of each level.
        num_head_channels: of attention.
        norm_num_groups: of the group norms.
        hidden_channels: of the norms that see the label.
        latent_channels: C of x.
        out_channels: of the answer: 2C where the variance is learned.
    """

    def __init__(
        self,
        num_classes: int,
        spatial_dims: int,
        channels: Sequence[int],
        attention_levels: Sequence[bool],
        num_res_blocks: int = 2,
        num_head_channels: int = 32,
        norm_num_groups: int = 32,
        hidden_channels: int = 128,
        latent_channels: int = 1,
        out_channels: int = 2,
    ) -> None:
        super().__init__()
        self.width, time, kind = channels[0], 4 * channels[0], Conv["conv", spatial_dims]
        self.multiple = [2 ** (len(channels) - 1)] * spatial_dims
        shared = {"time_channels": time, "spatial_dims": spatial_dims, "groups": norm_num_groups}
        seeing = {**shared, "label_channels": num_classes, "hidden_channels": hidden_channels}

        def attention(width: int) -> nn.Module:
            return SpatialAttentionBlock(spatial_dims, width, num_head_channels, norm_num_groups)

        self.time_embed = nn.Sequential(nn.Linear(self.width, time), nn.SiLU(), nn.Linear(time, time))
        self.begin = kind(latent_channels, self.width, 3, padding=1)
        self.down, skips, width = nn.ModuleList(), [self.width], self.width
        for level, (outputs, attends) in enumerate(zip(channels, attention_levels, strict=True)):
            if level:
                self.down.append(nn.ModuleList([TimeBlock(width, width, **shared, resize="down")]))
                skips.append(width)
            for _ in range(num_res_blocks):
                block = TimeBlock(width, outputs, **shared)
                width = outputs
                self.down.append(nn.ModuleList([block, *([attention(width)] if attends else [])]))
                skips.append(width)
        self.middle = nn.ModuleList(
            [TimeBlock(width, width, **seeing), attention(width), TimeBlock(width, width, **seeing)]
        )
        self.up = nn.ModuleList()
        for level, (outputs, attends) in reversed(list(enumerate(zip(channels, attention_levels, strict=True)))):
            for number in range(num_res_blocks + 1):
                parts = [TimeBlock(width + skips.pop(), outputs, **seeing), *([attention(outputs)] if attends else [])]
                width = outputs
                if level and number == num_res_blocks:
                    parts.append(TimeBlock(width, width, **seeing, resize="up"))
                self.up.append(nn.ModuleList(parts))
        last = zero_module(kind(width, out_channels, 3, padding=1))
        self.end = nn.Sequential(nn.GroupNorm(norm_num_groups, width), nn.SiLU(), last)

    def forward(self, x: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
        """Noisy images [B, C, ...], times [B], one-hot labels [B, K, ...] or zeros; gives the answer."""
        time = self.time_embed(get_timestep_embedding(timesteps, self.width).to(x.dtype))

        def through(layers: nn.ModuleList, h: Tensor) -> Tensor:
            for layer in layers:
                h = layer(h, time, condition) if isinstance(layer, TimeBlock) else layer(h)
            return h

        h = self.begin(x)
        skips = [h]
        for layers in self.down:
            h = through(layers, h)
            skips.append(h)
        h = through(self.middle, h)
        for layers in self.up:
            h = through(layers, torch.cat([h, skips.pop()], 1))
        return self.end(h)
