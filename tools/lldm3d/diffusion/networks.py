"""Diffusion networks that take a condition, or less memory."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from einops import rearrange
from monai.networks.blocks import Convolution, SpatialAttentionBlock
from monai.networks.layers import Conv
from monai.networks.nets import ControlNet, DiffusionModelUNet
from monai.networks.nets.diffusion_model_unet import DiffusionUNetResnetBlock, get_timestep_embedding
from torch import nn
from torch.distributed.algorithms._checkpoint import checkpoint_wrapper as torch_wrapper

from lldm3d.diffusion.noise import TIME_SCALE
from lldm3d.errors import UserError
from lldm3d.training.checkpoints import load_model

LEAST_DEVIATION = 1e-3  # of a channel or a size, such as those of a class that no case has
SIZE_JITTER = 0.2  # of sizes that a network is told, in their deviations over the training cases


class ControlledDiffusion(nn.Module):
    """ControlNet + frozen diffusion model as one network of (x, timesteps, condition) (Zhang et al. 2023).

    MONAI's `ControlNetLatentDiffusionInferer` shrinks the condition by nearest neighbour to the latent's size, which
    erases vessels; here the label enters at full resolution and the embedding's own strides bring it down. An embedding
    whose output is not of the latent's size is refused, since MONAI's `ControlNet` broadcasts it silently.

    Args:
        diffusion: `DiffusionModelUNet`, frozen here.
        controlnet: `ControlNet` with the same channels.
        initialise: begin with a copy of the diffusion model's encoder, as training does.

    Raises:
        UserError: when the two networks' sizes differ.
    """

    def __init__(self, diffusion: nn.Module, controlnet: nn.Module, initialise: bool = True) -> None:
        super().__init__()
        self.diffusion = diffusion.requires_grad_(False)
        self.controlnet = controlnet
        self.stride = 2 ** sum(1 for block in controlnet.controlnet_cond_embedding.blocks if block.conv.stride[0] == 2)
        if initialise:
            self.initialise()

    def initialise(self) -> None:
        try:
            self.controlnet.load_state_dict(self.diffusion.state_dict(), strict=False)
        except RuntimeError as error:
            raise UserError(
                f"the ControlNet does not have the image LDM's sizes ({str(error).splitlines()[-1].strip()}); give "
                "both the same channels, attention_levels, num_res_blocks and latent_channels"
            ) from None

    def train(self, mode: bool = True) -> "ControlledDiffusion":
        """The diffusion model stays in evaluation mode."""
        super().train(mode)
        self.diffusion.eval()
        return self

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Noisy latent [B, C, x, y, z], times [B], condition [B, K, stride·x, ...]; gives the prediction like x."""
        embedded = [math.ceil(size / self.stride) for size in condition.shape[2:]]
        if embedded != list(x.shape[2:]):
            raise ValueError(
                f"the condition {list(condition.shape[2:])} is embedded to {embedded} (stride {self.stride}), but the "
                f"latent is {list(x.shape[2:])}: give conditioning_channels one entry more than the autoencoder halves"
            )
        down, middle = self.controlnet(x=x, timesteps=timesteps, controlnet_cond=condition)
        return self.diffusion(
            x=x, timesteps=timesteps, down_block_additional_residuals=tuple(down), mid_block_additional_residual=middle
        )


def velocity(
    network: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    timesteps: torch.Tensor,
    deviation: torch.Tensor | float = 1.0,
) -> torch.Tensor:
    """The velocity of rectified flow at x [B, C, ...]: the best linear answer, and the rest by a network of scaled x.

    Karras et al. 2022, table 1, for this process: with data of deviation s, noise of 1 and a = (1 - t)² s² + t², x is
    taken ((1 - t) s² - t) / a times, the network sees x / √a, and its answer is taken s / √a times.
    """
    time = (timesteps / TIME_SCALE).view(-1, *[1] * (x.ndim - 1))
    variance = (1 - time) ** 2 * deviation**2 + time**2
    rest = network(x / variance.sqrt())
    return ((1 - time) * deviation**2 - time) / variance * x + deviation / variance.sqrt() * rest


class LabelDiffusion(DiffusionModelUNet):
    """MONAI's diffusion model that may begin with the best linear answer to each channel, and be told sizes of classes.

    Where channels vary far less than others their velocity is nearly the noise itself, all of which a network has to
    hand on, through fewer channels than the latent has. So it answers that from the first step, and learns the rest.
    What all voxels share its normalisation takes away, so that all drawn organs are of nearly one size unless it is
    told one. MONAI's model embeds whole numbers of classes only.

    Args:
        preconditioned: the network learns what `velocity` leaves, by the channels' deviations that `measure` takes.
        sizes: S, how many sizes it is told (`class_sizes`); 0 for none.
        unet: arguments of `DiffusionModelUNet`.
    """

    def __init__(self, preconditioned: bool = False, sizes: int = 0, **unet: object) -> None:
        super().__init__(**unet)
        self.preconditioned, self.sizes = preconditioned, sizes
        if preconditioned:
            self.register_buffer("deviation", torch.ones(unet["in_channels"]))
        if sizes:
            width = 4 * unet["channels"][0]  # as the embedding of times, to which this is added
            self.num_class_embeds = sizes
            self.class_embedding = nn.Sequential(nn.Linear(sizes, width), nn.SiLU(), nn.Linear(width, width))
            nn.init.zeros_(self.class_embedding[-1].weight)
            nn.init.zeros_(self.class_embedding[-1].bias)
            self.register_buffer("usual_size", torch.zeros(sizes))
            self.register_buffer("size_deviation", torch.ones(sizes))

    def measure(self, cases: Sequence[dict[str, torch.Tensor]], kind: str) -> None:
        """Take what the training cases have: deviations of the channels of `<kind>_mean` [C, x, y, z], and "sizes".

        Raises UserError where they have other sizes than the network is told.
        """
        if self.preconditioned:
            squares = [case[f"{kind}_mean"].square().mean((1, 2, 3)) for case in cases]
            self.deviation.copy_(torch.stack(squares).mean(0).sqrt())
        if self.sizes:
            sizes = torch.stack([case["sizes"] for case in cases])
            if sizes.shape[1] != self.sizes:
                raise UserError(
                    f"the latents have {sizes.shape[1]} sizes of a label, the network is told {self.sizes}: its "
                    "classes, tubular ones and lesions must be the data set's; latents of before 0.22 are encoded anew"
                )
            self.usual_size.copy_(sizes.mean(0))
            self.size_deviation.copy_(sizes.std(0, correction=0).clamp(min=LEAST_DEVIATION))

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, sizes: torch.Tensor | None = None) -> torch.Tensor:
        """Noisy latent [B, C, x, y, z], times [B], sizes [B, S] (`class_sizes`); gives the prediction like x."""
        told = None
        if self.sizes:
            told = (sizes - self.usual_size) / self.size_deviation
            if self.training:  # else it knows each patient by them
                told = told + SIZE_JITTER * torch.randn_like(told)
        predict = partial(super().forward, timesteps=timesteps, class_labels=told)
        if not self.preconditioned:
            return predict(x)
        return velocity(predict, x, timesteps, self.deviation.clamp(min=LEAST_DEVIATION).view(-1, 1, 1, 1))


class ConcatenatedDiffusion(nn.Module):
    """A diffusion model that sees the label beside the noisy latent, as one network of (x, timesteps, condition).

    Each latent voxel gets all of its `stride`³ label voxels as channels (space to depth), so that nothing of a thin
    class is lost. MONAI's `DiffusionInferer(mode="concat")` wants a condition of the latent's own size, to which a
    label would have to be shrunk. Trained jointly it beats a ControlNet beside a frozen network in GEM-3D's Table 3.

    Args:
        latent_channels: C of the latent.
        num_classes: K of the one-hot label, with background.
        stride: voxels of the label for each latent voxel, along each axis.
        out_channels: of the prediction; None: C.
        preconditioned: the network learns what the best linear answer of `velocity` leaves.
        unet: further arguments of `DiffusionModelUNet`.
    """

    def __init__(
        self,
        latent_channels: int,
        num_classes: int,
        stride: int = 1,
        out_channels: int | None = None,
        preconditioned: bool = False,
        **unet: object,
    ) -> None:
        super().__init__()
        self.stride, self.preconditioned, dims = stride, preconditioned, unet["spatial_dims"]
        inputs = latent_channels + num_classes * stride**dims
        self.unet = DiffusionModelUNet(in_channels=inputs, out_channels=out_channels or latent_channels, **unet)
        self.multiple = [2 ** (len(unet["channels"]) - 1)] * dims

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Noisy latent [B, C, x, y, z], times [B], one-hot label [B, K, stride·x, ...]; gives the prediction like x."""
        if self.stride == 1:
            beside = condition
        else:
            steps = dict.fromkeys("ijl", self.stride)
            beside = rearrange(condition, "b k (x i) (y j) (z l) -> b (k i j l) x y z", **steps)
        if not self.preconditioned:
            return self.unet(torch.cat([x, beside], 1), timesteps=timesteps)
        return velocity(lambda scaled: self.unet(torch.cat([scaled, beside], 1), timesteps=timesteps), x, timesteps)


class DualEncoderDiffusion(nn.Module):
    """A diffusion model with a second encoder for the label or its edges, as one network of (x, timesteps, condition).

    Mask-guided and edge-guided DDPM of abdominal CT, of which no code is public. The features of the second encoder
    join those of the first before each halving, and so its skips, and the decoder's at each level. A joint is a
    convolution of 1 voxel that begins as the identity of what was there, so that the network begins as MONAI's U-Net;
    MONAI's `ControlNet` adds residuals instead. With edges the label lies beside x as well.

    Args:
        num_classes: K of the one-hot label, with background.
        guide: what the second encoder sees: "mask" or "edge".
        latent_channels: C of x.
        out_channels: of the prediction; None: C.
        unet: further arguments of `DiffusionModelUNet`.
    """

    def __init__(
        self,
        num_classes: int,
        guide: Literal["mask", "edge"],
        latent_channels: int = 1,
        out_channels: int | None = None,
        **unet: object,
    ) -> None:
        super().__init__()
        if guide not in ("mask", "edge"):
            raise ValueError(f"guide must be 'mask' or 'edge', got {guide!r}")
        self.guide, channels, dims = guide, list(unet["channels"]), unet["spatial_dims"]
        inputs, seen = (latent_channels, num_classes) if guide == "mask" else (latent_channels + num_classes, 1)
        self.unet = DiffusionModelUNet(in_channels=inputs, out_channels=out_channels or latent_channels, **unet)
        self.multiple = [2 ** (len(channels) - 1)] * dims
        self.downsamplers = nn.ModuleList(block.downsampler or nn.Identity() for block in self.unet.down_blocks)
        for block in self.unet.down_blocks:
            block.downsampler = None  # it comes after the joint
        groups = unet.get("norm_num_groups", 32)
        pairs = zip([seen, *channels[:-1]], channels, strict=True)
        self.encoder = nn.ModuleList(guide_level(*pair, dims, groups, level) for level, pair in enumerate(pairs))
        self.joints_down = nn.ModuleList(joint(width, width, dims) for width in channels)
        self.joints_up = nn.ModuleList(
            joint(before, width, dims) for before, width in zip([*channels[1:], channels[-1]], channels, strict=True)
        )

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Noisy image [B, C, ...], times [B], one-hot label [B, K, ...] of the same size; gives the prediction."""
        unet, features = self.unet, []
        seen = condition if self.guide == "mask" else label_edges(condition)
        for level in self.encoder:
            seen = level(seen)
            features.append(seen)
        if self.guide == "edge":
            x = torch.cat([x, condition], 1)
        time = unet.time_embed(get_timestep_embedding(timesteps, unet.block_out_channels[0]).to(x.dtype))
        h = unet.conv_in(x)
        skips = [h]
        for block, downsampler, join, feature in zip(
            unet.down_blocks, self.downsamplers, self.joints_down, features, strict=True
        ):
            h, states = block(h, time)
            h = join(torch.cat([h, feature], 1))
            skips += [*states[:-1], h]
            if not isinstance(downsampler, nn.Identity):
                h = downsampler(h, time)
                skips.append(h)
        h = unet.middle_block(h, time)
        for block, join, feature in zip(unet.up_blocks, reversed(self.joints_up), reversed(features), strict=True):
            number = len(block.resnets)
            skips, taken = skips[:-number], skips[-number:]
            h = block(join(torch.cat([h, feature], 1)), res_hidden_states_list=taken, temb=time)
        return unet.out(h)


def guide_level(inputs: int, outputs: int, spatial_dims: int, groups: int, level: int) -> nn.Module:
    """Two convolutions of the second encoder; all levels but the first halve the size."""
    shared = {"norm": ("GROUP", {"num_groups": groups}), "act": "SWISH"}
    first = Convolution(spatial_dims, inputs, outputs, strides=2 if level else 1, **shared)
    return nn.Sequential(first, Convolution(spatial_dims, outputs, outputs, **shared))


def joint(channels: int, further: int, spatial_dims: int) -> nn.Module:
    """A convolution of 1 voxel from both to `channels` features: at first the identity of the first ones."""
    layer = Conv["conv", spatial_dims](channels + further, channels, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    with torch.no_grad():
        layer.weight[:, :channels].flatten(1).copy_(torch.eye(channels))
    return layer


def label_edges(condition: torch.Tensor) -> torch.Tensor:
    """Voxels [B, 1, ...] whose class differs from that of a neighbour along an axis, of one-hot labels [B, K, ...]."""
    label = condition.argmax(1, keepdim=True)
    edges = torch.zeros_like(label, dtype=torch.bool)
    for axis in range(2, label.ndim):
        length = label.shape[axis]
        differs = label.narrow(axis, 1, length - 1) != label.narrow(axis, 0, length - 1)
        edges.narrow(axis, 1, length - 1).logical_or_(differs)
        edges.narrow(axis, 0, length - 1).logical_or_(differs)
    return edges.to(condition.dtype)


BLOCKS = (DiffusionUNetResnetBlock, SpatialAttentionBlock)


def checkpointed(network: nn.Module) -> nn.Module:
    """The network, a `DiffusionModelUNet` or `ControlNet`, whose blocks keep only their inputs for the backward pass.

    The gradients and the names of the weights stay the same (Chen et al. 2016); a step computes the forward pass twice.
    `AutoencoderKL` has this as `use_checkpoint`, MONAI's diffusion networks do not.
    """
    wrap = partial(torch_wrapper.checkpoint_wrapper, checkpoint_impl=torch_wrapper.CheckpointImpl.NO_REENTRANT)
    torch_wrapper.apply_activation_checkpointing(
        network, checkpoint_wrapper_fn=wrap, check_fn=lambda block: isinstance(block, BLOCKS)
    )
    return network


ARCHITECTURES = {"label_ldm": LabelDiffusion, "image_ldm": DiffusionModelUNet, "controlnet": ControlNet}


def load_network(path: str, stage: str) -> tuple[nn.Module, dict]:
    """The network that `stage` (label_ldm, image_ldm or controlnet) trained; as `load_model` otherwise."""
    return load_model(path, ARCHITECTURES[stage], stage)
