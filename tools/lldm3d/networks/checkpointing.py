"""Less memory for more time: activations that are computed again instead of kept."""

from functools import partial

from monai.networks.blocks import SpatialAttentionBlock
from monai.networks.nets.diffusion_model_unet import DiffusionUNetResnetBlock
from torch import nn
from torch.distributed.algorithms._checkpoint import checkpoint_wrapper as torch_wrapper

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
