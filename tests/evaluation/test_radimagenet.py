"""With random weights in both published forms, of a network written from the papers: ResNet-50 in 2D.

(torchvision's own would be the counterpart; its wheels do not load beside a CPU build of torch.)
"""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from lldm3d.errors import UserError
from lldm3d.evaluation.distances import compare, fid
from lldm3d.evaluation.metrics import Compared, Metric, Row
from lldm3d.evaluation.pretrained import load_radimagenet, plane_means


class Bottleneck(nn.Module):
    """He et al. 2016, fig. 5, right; the stride is in the 3x3 convolution, in Keras in the first."""

    def __init__(self, channels: int, width: int, stride: int, keras: bool) -> None:
        super().__init__()
        first, second = (stride, 1) if keras else (1, stride)
        eps = 1.001e-5 if keras else 1e-5
        self.conv1 = nn.Conv2d(channels, width, 1, first, bias=keras)
        self.bn1 = nn.BatchNorm2d(width, eps)
        self.conv2 = nn.Conv2d(width, width, 3, second, 1, bias=keras)
        self.bn2 = nn.BatchNorm2d(width, eps)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=keras)
        self.bn3 = nn.BatchNorm2d(4 * width, eps)
        shortcut = nn.Conv2d(channels, 4 * width, 1, stride, bias=keras), nn.BatchNorm2d(4 * width, eps)
        self.downsample = nn.Sequential(*shortcut) if stride > 1 or channels != 4 * width else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return torch.relu(self.bn3(self.conv3(y)) + (self.downsample(x) if self.downsample else x))


def resnet50(keras: bool) -> nn.Sequential:
    """The children of torchvision's network, with their names, but for the classifier."""
    children: dict[str, nn.Module] = {
        "conv1": nn.Conv2d(3, 64, 7, 2, 3, bias=keras),
        "bn1": nn.BatchNorm2d(64, 1.001e-5 if keras else 1e-5),
        "relu": nn.ReLU(),
        "maxpool": nn.MaxPool2d(3, 2, 1),
    }
    channels = 64
    for layer, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), start=1):
        strides = [1 if layer == 1 else 2] + [1] * (blocks - 1)
        inputs = [channels] + [4 * width] * (blocks - 1)
        made = [Bottleneck(number, width, stride, keras) for number, stride in zip(inputs, strides, strict=True)]
        children[f"layer{layer}"], channels = nn.Sequential(*made), 4 * width
    return nn.Sequential(OrderedDict(children, avgpool=nn.AdaptiveAvgPool2d(1)))


def authors(path) -> nn.Module:
    """The PyTorch form: the children of torchvision's network, numbered."""
    torch.manual_seed(0)
    network = stirred(resnet50(keras=False))
    numbered = nn.Sequential(*network.children())
    torch.save({f"backbone.{key}": value for key, value in numbered.state_dict().items()}, path)
    return network.eval()


def converted(path) -> nn.Module:
    """The Keras form: convolutions with biases, the stride in the first of a block, another epsilon."""
    torch.manual_seed(0)
    network = stirred(resnet50(keras=True))
    torch.save(network.state_dict(), path)
    return network.eval()


def stirred(network: nn.Module) -> nn.Module:
    """Statistics of the batch norms that differ from channel to channel, as after training."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    return network


def expected(network: nn.Module, pictures: torch.Tensor, keras: bool) -> np.ndarray:
    pictures = nn.functional.interpolate(pictures, (224, 224), mode="bilinear", antialias=True).expand(-1, 3, -1, -1)
    scaled = pictures - torch.tensor([0.406, 0.456, 0.485])[:, None, None] if keras else 2 * pictures - 1
    with torch.no_grad():
        return network(scaled).flatten(1).numpy()


@pytest.mark.parametrize("write", [authors, converted])
def test_both_published_forms_give_their_features_of_slices_of_each_plane(tmp_path, write):
    reference = write(tmp_path / "weights.pt")
    found = load_radimagenet(tmp_path / "weights.pt")
    image = np.random.default_rng(0).random((20, 18, 3), np.float32)
    features = found(image)
    assert {space.name for space in found.spaces} == set(features)
    assert {name.split()[-1]: values.shape for name, values in features.items()} == {
        "sagittal": (8, 2048),
        "coronal": (8, 2048),
        "axial": (3, 2048),
    }
    slices = torch.from_numpy(np.moveaxis(image, 2, 0))[:, None]
    wanted = expected(reference, slices, keras=write is converted)
    np.testing.assert_allclose(features["radimagenet_resnet50 axial"], wanted, rtol=1e-3, atol=1e-4)


def test_other_files_are_refused(tmp_path):
    torch.save({"network": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="is no ResNet-50 of RadImageNet"):
        load_radimagenet(tmp_path / "other.pt")


def test_fid_of_slices_takes_cases_whole():
    rng = np.random.default_rng(0)
    slices = rng.normal(0, 1, (20, 4, 6))
    assert fid(slices, slices + 1) == pytest.approx(6)
    assert compare(fid, slices, rng.normal(0, 1, (30, 4, 6)), [])[0].n == 15


def test_the_mean_of_the_planes_and_what_slices_lose_stand_below_them():
    rows = [
        Row(Metric.FID, Compared.SYNTHETIC_TEST, value, variant=f"radimagenet_resnet50 {plane}", floor=1.0)
        for plane, value in (("axial", 1.0), ("coronal", 2.0), ("sagittal", 6.0))
    ]
    mean, *across = plane_means(rows)[3:]
    assert [(row.metric, row.variant.partition(" ")[2], row.value, row.floor) for row in across] == [
        (Metric.PLANE_GAP, "coronal less axial", 1.0, 0.0),
        (Metric.PLANE_GAP, "sagittal less axial", 5.0, 0.0),
    ]
    assert (mean.metric, mean.value, mean.floor) == (Metric.FID, 3.0, 1.0)
    assert mean.variant == "radimagenet_resnet50 mean of planes"
