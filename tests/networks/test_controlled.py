from functools import partial

import pytest
import torch
from monai.networks.nets import ControlNet, DiffusionModelUNet

from lldm3d.diffusion.networks import ControlledDiffusion, load_network
from lldm3d.errors import UserError
from lldm3d.files import write_json
from lldm3d.training.checkpoints import save_network

SIZES = {
    "spatial_dims": 3, "in_channels": 2, "channels": (16, 32), "attention_levels": (False, True), "num_res_blocks": 1,
    "num_head_channels": 16, "norm_num_groups": 8,
}  # fmt: skip
UNET = partial(DiffusionModelUNet, out_channels=2, **SIZES)
CONTROLNET = partial(
    ControlNet, conditioning_embedding_in_channels=3, conditioning_embedding_num_channels=(4, 8, 8), **SIZES
)
CALL = (torch.randn(2, 2, 4, 4, 4), torch.tensor([100.0, 900.0]))


@pytest.fixture
def controlled():
    torch.manual_seed(0)
    diffusion = UNET()
    with torch.no_grad():
        for parameter in diffusion.out.parameters():
            parameter.normal_(0, 0.1)  # MONAI begins with zeros, which would hide everything
    return ControlledDiffusion(diffusion, CONTROLNET())


def test_it_begins_as_the_diffusion_model(controlled):
    condition = torch.rand(2, 3, 16, 16, 16)
    torch.testing.assert_close(controlled(*CALL, condition), controlled.diffusion(*CALL))


def test_a_thin_vessel_changes_the_answer_once_trained(controlled):
    with torch.no_grad():
        for parameter in controlled.controlnet.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    empty, vessel = torch.zeros(2, 3, 16, 16, 16), torch.zeros(2, 3, 16, 16, 16)
    vessel[:, 2, 7, 7, :] = 1  # one voxel wide
    assert (controlled(*CALL, vessel) - controlled(*CALL, empty)).abs().max() > 1e-4


def test_only_the_controlnet_learns(controlled):
    controlled.train()
    controlled(*CALL, torch.rand(2, 3, 16, 16, 16)).square().mean().backward()
    assert not controlled.diffusion.training
    assert all(p.grad is None for p in controlled.diffusion.parameters())
    assert any(p.grad is not None and p.grad.any() for p in controlled.controlnet.parameters())


def test_a_condition_that_would_be_broadcast_is_refused(controlled):
    with pytest.raises(ValueError, match=r"\[1, 1, 1\].*stride 4.*\[4, 4, 4\]"):
        controlled(*CALL, torch.rand(2, 3, 4, 4, 4))


def test_other_sizes_than_the_image_ldms_are_refused():
    other = CONTROLNET(**{**SIZES, "channels": (16, 48)})
    with pytest.raises(UserError, match="same channels"):
        ControlledDiffusion(UNET(), other)


def test_a_saved_network_restores_itself(tmp_path):
    latents = {"class_names": ["background", "liver"], "codecs": {"image": "a", "label": "b"}}
    latents |= {"latent_shape": {"image": [2, 4, 4, 4]}, "roi_size": [16] * 3, "spacing": [1.0] * 3}
    write_json(tmp_path / "latents.json", latents)
    network = UNET()
    save_network(str(tmp_path / "model.pt"), network, UNET, str(tmp_path), noise_scheduler="rectified_flow")
    loaded, checkpoint = load_network(str(tmp_path / "model.pt"), "image_ldm")
    torch.testing.assert_close(loaded(*CALL), network.eval()(*CALL))
    assert checkpoint["class_names"] == ["background", "liver"] and checkpoint["spacing"] == [1.0] * 3
    with pytest.raises(UserError, match=r"model\.pt.*controlnet"):
        load_network(str(tmp_path / "model.pt"), "controlnet")
