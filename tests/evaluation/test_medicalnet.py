"""With random weights in the published files' form, since the real ones have to be downloaded."""

import numpy as np
import pytest
import torch
from monai.networks.nets import resnet

from lldm3d.errors import UserError
from lldm3d.evaluation.pretrained import load_medicalnet


def published(depth: int, path) -> torch.nn.Module:
    """Save a network as MedicalNet does: under `state_dict`, with the prefix of DataParallel and a head."""
    bias_downsample, shortcut_type = resnet.get_medicalnet_pretrained_resnet_args(depth)
    torch.manual_seed(depth)
    network = getattr(resnet, f"resnet{depth}")(
        spatial_dims=3, n_input_channels=1, feed_forward=False, conv1_t_stride=2, shortcut_type=shortcut_type,
        bias_downsample=bias_downsample,
    )  # fmt: skip
    state = {f"module.{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": {**state, "module.conv_seg.0.weight": torch.zeros(1)}}, path)
    return network.eval()


@pytest.mark.parametrize("depth, length", [(10, 512), (34, 512), (50, 2048)])
def test_the_file_tells_the_depth_and_gives_its_features(tmp_path, depth, length):
    network = published(depth, tmp_path / "weights.pth")
    found = load_medicalnet(tmp_path / "weights.pth")
    image = np.random.default_rng(0).normal(5, 3, (16, 16, 16)).astype(np.float32)
    features = found(image)[found.name]
    assert found.name == f"medicalnet_resnet{depth}" and features.shape == (length,)
    expected = network(torch.from_numpy((image - image.mean()) / image.std(ddof=1))[None, None])[0]
    np.testing.assert_allclose(features, expected.detach(), rtol=1e-4, atol=1e-5)
    other = found(2 * image + 1)[found.name]  # whatever the scanner's scale
    np.testing.assert_allclose(other, features, rtol=1e-3, atol=1e-4)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="none.pth"):
        load_medicalnet(tmp_path / "none.pth")
    torch.save({"network": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="is no ResNet of MedicalNet"):
        load_medicalnet(tmp_path / "other.pth")
    network = published(10, tmp_path / "cut.pth")
    state = {key: value for key, value in network.state_dict().items() if not key.startswith("bn1")}
    torch.save(state, tmp_path / "cut.pth")
    with pytest.raises(UserError, match="does not fit MedicalNet's ResNet-10"):
        load_medicalnet(tmp_path / "cut.pth")
