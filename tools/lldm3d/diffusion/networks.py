"""Diffusion networks that take a condition, or less memory."""

import math
from functools import partial

import torch
from einops import rearrange
from monai.networks.blocks import SpatialAttentionBlock
from monai.networks.nets import DiffusionModelUNet
from monai.networks.nets.diffusion_model_unet import DiffusionUNetResnetBlock
from torch import nn
from torch.distributed.algorithms._checkpoint import checkpoint_wrapper as torch_wrapper

from lldm3d.diffusion.noise import TIME_SCALE
from lldm3d.errors import UserError


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


class ConcatenatedDiffusion(nn.Module):
    """A diffusion model that sees the label beside the noisy latent, as one network of (x, timesteps, condition).

    Each latent voxel gets all of its `stride`³ label voxels as channels (space to depth), so that nothing of a thin
    class is lost. MONAI's `DiffusionInferer(mode="concat")` wants a condition of the latent's own size, to which a
    label would have to be shrunk. Trained jointly it beats a ControlNet beside a frozen network in GEM-3D's Table 3.

    Args:
        latent_channels: C of the latent.
        num_classes: K of the one-hot label, with background.
        stride: voxels of the label for each latent voxel, along each axis.
        preconditioned: add the best linear answer to velocities of rectified flow, with data and noise of variance 1,
            so that the network learns the rest alone (Karras et al. 2022, table 1, for this process: skip (1 - 2t) / a,
            input and output 1 / √a with a = (1 - t)² + t²).
        unet: further arguments of `DiffusionModelUNet`.
    """

    def __init__(
        self, latent_channels: int, num_classes: int, stride: int, preconditioned: bool = False, **unet: object
    ) -> None:
        super().__init__()
        self.stride, self.preconditioned = stride, preconditioned
        inputs = latent_channels + num_classes * stride**3
        self.unet = DiffusionModelUNet(in_channels=inputs, out_channels=latent_channels, **unet)

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Noisy latent [B, C, x, y, z], times [B], one-hot label [B, K, stride·x, ...]; gives the prediction like x."""
        beside = rearrange(
            condition, "b k (x i) (y j) (z l) -> b (k i j l) x y z", i=self.stride, j=self.stride, l=self.stride
        )
        if not self.preconditioned:
            return self.unet(torch.cat([x, beside], 1), timesteps=timesteps)
        time = (timesteps / TIME_SCALE).view(-1, 1, 1, 1, 1)
        variance = (1 - time) ** 2 + time**2
        rest = self.unet(torch.cat([x / variance.sqrt(), beside], 1), timesteps=timesteps)
        return (1 - 2 * time) / variance * x + rest / variance.sqrt()


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
