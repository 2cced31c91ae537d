import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.networks.nets import SegResNet, UNet

from lldm3d.bundle import bundle_path
from lldm3d.errors import UserError
from lldm3d.evaluation.features import Layers, find_layers, load_segmenter

from .toys import CLASSES, SIZE, scan, write_segmenter


@pytest.mark.parametrize(
    "network, layer",
    [
        (UNet(3, 1, 2, [4, 8, 16], [2, 2], num_res_units=2), Layers("model.0", "model.1.submodule.1.submodule")),
        (UNet(3, 1, 2, [4, 8, 16], [2, 2], num_res_units=0), Layers("model.0", "model.1.submodule.1.submodule")),
        (
            SegResNet(init_filters=8, out_channels=2, blocks_down=(1, 1), blocks_up=(1,)),
            Layers("down_layers.0", "down_layers.1"),
        ),
    ],
)
def test_the_first_and_the_deepest_level_are_found(network, layer):
    assert find_layers(network, lambda: network(torch.rand(1, 1, 16, 16, 16))) == layer


@pytest.mark.parametrize(
    "bundle, layers",
    [
        ("seg_unet", Layers("model.0", "model.1.submodule.1.submodule.1.submodule")),
        ("seg_resunet", Layers("model.0", "model.1.submodule.1.submodule.1.submodule")),
        ("seg_wideresunet", Layers("model.0", "model.1.submodule.1.submodule.1.submodule")),
        ("seg_dynunet", Layers("input_block", "bottleneck")),
        ("seg_vnet", Layers("in_tr", "down_tr256")),
        ("seg_swinunetr", Layers("encoder1", "encoder10")),
    ],
)
def test_the_first_and_the_deepest_level_of_every_bundle_are_found(bundle, layers):
    parser = ConfigParser(ConfigParser.load_config_file(bundle_path(bundle) / "configs/inference.yaml"))
    parser["roi_size"] = [32, 32, 32]
    network = parser.get_parsed_content("network_def").eval()
    assert find_layers(network, lambda: network(torch.rand(1, 1, 32, 32, 32))) == layers


def test_features_and_prediction_of_any_size(tmp_path):
    weights = write_segmenter(tmp_path / "stage")
    segmenter = load_segmenter(tmp_path / "stage", CLASSES)
    assert segmenter.weights == weights and segmenter.name == "seg_resunet"
    for size in (SIZE, (10, 30, 18)):
        features, pred = segmenter(np.random.default_rng(0).random(size, np.float32))
        assert {name: values.shape for name, values in features.items()} == {"content": (16,), "texture": (4,)}
        assert pred.shape == size and pred.dtype == np.uint8
    image = scan(0)[0].astype(np.float32)
    assert np.array_equal(segmenter(image)[0]["content"], segmenter(image)[0]["content"])


def test_other_classes_are_refused(tmp_path):
    write_segmenter(tmp_path / "stage")
    with pytest.raises(UserError, match="was trained for the classes"):
        load_segmenter(tmp_path / "stage", ("background", "kidney"))


def test_a_folder_without_a_network_is_refused(tmp_path):
    with pytest.raises(UserError, match="overrides.yaml: no such file"):
        load_segmenter(tmp_path, CLASSES)
    write_segmenter(tmp_path / "stage")
    (tmp_path / "stage" / "model.pt").unlink()
    with pytest.raises(UserError, match="no such checkpoint"):
        load_segmenter(tmp_path / "stage", CLASSES)
