from copy import deepcopy

import pytest
import torch
from monai.networks.nets import ControlNet, DiffusionModelUNet

from lldm3d.diffusion.networks import checkpointed

SIZES = {
    "spatial_dims": 3, "in_channels": 2, "channels": [8, 8], "attention_levels": [False, True], "num_res_blocks": 1,
    "num_head_channels": 8, "norm_num_groups": 4,
}  # fmt: skip
CONDITION = {"conditioning_embedding_in_channels": 3, "conditioning_embedding_num_channels": [4]}


@pytest.fixture(params=["diffusion", "controlnet"])
def network(request):
    torch.manual_seed(0)
    if request.param == "diffusion":
        return DiffusionModelUNet(out_channels=2, **SIZES)
    return ControlNet(**SIZES, **CONDITION)


def step(network) -> tuple[list[torch.Tensor], int]:
    """The gradients of a step, and the bytes that it keeps between its two passes."""
    torch.manual_seed(1)
    x, kept = torch.randn(1, 2, 8, 8, 8), []
    arguments = {"controlnet_cond": torch.randn(1, 3, 8, 8, 8)} if isinstance(network, ControlNet) else {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.nbytes) or t, lambda t: t):
        output = network(x=x, timesteps=torch.tensor([3.0]), **arguments)
    parts = [output] if torch.is_tensor(output) else [*output[0], output[1]]
    sum((part + 1).square().sum() for part in parts).backward()
    return [weight.grad for weight in network.parameters()], sum(kept)


def test_less_is_kept_and_the_gradients_are_the_same(network):
    less = checkpointed(deepcopy(network))
    (expected, kept), (found, kept_less) = step(network), step(less)
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
    assert kept_less < kept / 2


def test_weights_keep_their_names_and_a_copy_its_own_weights(network):
    less = checkpointed(deepcopy(network))
    assert less.state_dict().keys() == network.state_dict().keys()
    network.load_state_dict(less.state_dict())
    copy = deepcopy(less)
    for weight in copy.parameters():
        weight.data.zero_()
    assert any(weight.any() for weight in less.parameters())
