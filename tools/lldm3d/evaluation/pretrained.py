"""Features of networks pretrained elsewhere (MedicalNet, RadImageNet), and radiomics."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from monai.networks.nets import resnet, resnet50
from torch import nn

from lldm3d.errors import UserError
from lldm3d.evaluation.features import FeatureSpace
from lldm3d.evaluation.metrics import Compared, Metric, Row
from lldm3d.files import load_checkpoint, sha256
from lldm3d.plots import PLANES
from lldm3d.processes import device

DEPTHS = {  # blocks of the four layers, and whether they are bottlenecks: depth
    (1, 1, 1, 1, False): 10,
    (2, 2, 2, 2, False): 18,
    (3, 4, 6, 3, False): 34,
    (3, 4, 6, 3, True): 50,
    (3, 4, 23, 3, True): 101,
    (3, 8, 36, 3, True): 152,
}


@dataclass(frozen=True)
class MedicalNet:
    """Features [D] of an image [X, Y, Z]: 2048 of a ResNet-50, 512 of a ResNet-10."""

    name: str
    weights: str  # SHA-256 of the file
    network: nn.Module

    @property
    def spaces(self) -> list[FeatureSpace]:
        return [FeatureSpace(self.name, self.name, self.weights, neighbours=True)]

    @torch.no_grad()
    def __call__(self, image: np.ndarray, mask: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """The last layer's means over all positions; the image is brought to mean 0 and deviation 1, as in training."""
        volume = torch.as_tensor(image, dtype=torch.float32, device=device())[None, None]
        volume = (volume - volume.mean()) / volume.std()
        return {self.name: self.network(volume)[0].double().cpu().numpy()}


def load_medicalnet(path: str | Path) -> MedicalNet:
    """Load weights as MedicalNet publishes them, such as `resnet_50_23dataset.pth`; the file tells the depth.

    Raises:
        UserError: where the file is missing or holds something else.
    """
    content = load_checkpoint(path, made_by="MedicalNet (huggingface.co/TencentMedicalNet)")
    content = content.get("state_dict", content)
    state = {str(key).removeprefix("module."): value for key, value in content.items()}
    blocks = [len({key.split(".")[1] for key in state if key.startswith(f"layer{layer}.")}) for layer in range(1, 5)]
    depth = DEPTHS.get((*blocks, "layer1.0.conv3.weight" in state))
    if depth is None:
        raise UserError(
            f"{path}: is no ResNet of MedicalNet (its first entries: {sorted(state)[:3]}); give its .pth file"
        )
    bias_downsample, shortcut_type = resnet.get_medicalnet_pretrained_resnet_args(depth)
    network = getattr(resnet, f"resnet{depth}")(
        spatial_dims=3,
        n_input_channels=1,
        feed_forward=False,
        conv1_t_stride=2,  # MedicalNet's own
        shortcut_type=shortcut_type,
        bias_downsample=bias_downsample,
    )
    state = {key: value for key, value in state.items() if not key.startswith(("fc.", "conv_seg."))}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(
            f"{path}: does not fit MedicalNet's ResNet-{depth} ({str(error).splitlines()[-1].strip()})"
        ) from None
    return MedicalNet(f"medicalnet_resnet{depth}", sha256(path), network.to(device()).eval())


NAME = "radimagenet_resnet50"
SLICES = 8  # of each plane, evenly spaced: neighbouring slices say nearly the same
SIDE = 224  # pixels, as in its training
KERAS_MEAN = (0.406, 0.456, 0.485)  # of blue, green and red; the Keras weights were trained on slices less these
MODULES = {0: "conv1", 1: "bn1", 4: "layer1", 5: "layer2", 6: "layer3", 7: "layer4"}  # names of torchvision's children


@dataclass(frozen=True)
class RadImageNet:
    """Features [S, 2048] of the S slices of each plane of an image [X, Y, Z] in [0, 1]."""

    weights: str  # SHA-256 of the file
    network: nn.Module
    from_keras: bool  # whether the weights were converted from the Keras network

    @property
    def spaces(self) -> list[FeatureSpace]:
        return [FeatureSpace(f"{NAME} {plane}", NAME, self.weights) for plane in PLANES]

    @torch.no_grad()
    def __call__(self, image: np.ndarray, mask: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """The last layer's means over all positions of each slice."""
        return {f"{NAME} {plane}": self.seen(slices(image, axis)).cpu().numpy() for plane, axis in PLANES.items()}

    def seen(self, pictures: torch.Tensor) -> torch.Tensor:
        """[S, 2048] of slices [S, 1, H, W] in [0, 1]."""
        pictures = nn.functional.interpolate(pictures.to(device()), (SIDE, SIDE), mode="bilinear", antialias=True)
        if self.from_keras:
            return self.network(pictures - pictures.new_tensor(KERAS_MEAN)[:, None, None])
        return self.network((2 * pictures - 1).expand(-1, 3, -1, -1))


def slices(image: np.ndarray, axis: int) -> torch.Tensor:
    """Up to 8 slices [S, 1, H, W] of an image [X, Y, Z] along an axis, the middles of as many equal parts."""
    length = image.shape[axis]
    number = min(SLICES, length)
    chosen = ((np.arange(number) + 0.5) * length / number).astype(int)
    return torch.as_tensor(np.moveaxis(image, axis, 0)[chosen], dtype=torch.float32)[:, None]


def load_radimagenet(path: str | Path) -> RadImageNet:
    """Load weights in either published form; the file tells which.

    The authors' `ResNet50.pt` numbers the children of torchvision's network (`backbone.0.weight`). The converted
    `RadImageNet-ResNet50_notop.pth`, which MONAI's perceptual loss downloads, is Keras' network: its convolutions have
    biases, and the first of a block has the stride. MONAI's has no biases; before a batch norm each is the same as a
    shift of the norm's running mean.

    Raises:
        UserError: where the file is missing or holds something else.
    """
    content = load_checkpoint(path, made_by="RadImageNet (github.com/BMEII-AI/RadImageNet)")
    state = {named(key): value for key, value in content.items() if not key.startswith("fc.")}
    options = {"conv1_t_stride": 2, "bias_downsample": False, "feed_forward": False}  # torchvision's ResNet-50
    network = resnet50(spatial_dims=2, n_input_channels=3, **options)
    if from_keras := "conv1.bias" in state:
        as_keras(network)
        state = without_biases(state)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(
            f"{path}: is no ResNet-50 of RadImageNet ({str(error).splitlines()[-1].strip()[:200]}); give its "
            "ResNet50.pt, or RadImageNet-ResNet50_notop.pth"
        ) from None
    return RadImageNet(sha256(path), network.to(device()).eval(), from_keras)


def named(key: str) -> str:
    """`backbone.4.0.conv1.weight` as `layer1.0.conv1.weight`."""
    first, _, rest = key.removeprefix("backbone.").partition(".")
    return f"{MODULES.get(int(first), first)}.{rest}" if first.isdigit() else key


def as_keras(network: nn.Module) -> None:
    """The stride of a block in its first convolution, and Keras' epsilon."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1.001e-5
    for layer in (network.layer2, network.layer3, network.layer4):
        layer[0].conv1.stride, layer[0].conv2.stride = layer[0].conv2.stride, layer[0].conv1.stride


def without_biases(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The bias of each convolution taken off the running mean of the batch norm that follows it."""
    state = dict(state)
    for key in [key for key in state if key.endswith(".bias") and ("conv" in key or "downsample.0" in key)]:
        norm = key.replace("conv", "bn").replace("downsample.0", "downsample.1").removesuffix(".bias")
        state[f"{norm}.running_mean"] = state[f"{norm}.running_mean"] - state.pop(key)
    return state


def plane_means(rows: list[Row]) -> list[Row]:
    """The rows, the mean over the three planes of each of their figures, and FID across the slices.

    That is the FID of coronal or sagittal slices less the one of axial slices (GEM-3D): a volume that was drawn slice
    by slice has steps that only the other planes show.
    """
    of_planes: dict[tuple[Metric, Compared], dict[str, Row]] = {}
    for row in rows:
        if row.variant and row.variant.startswith(f"{NAME} "):
            of_planes.setdefault((row.metric, row.compared), {})[row.variant.split()[-1]] = row
    means = [joined([*planes.values()], np.mean, "mean of planes") for planes in of_planes.values()]
    gaps = [
        joined([planes[plane], planes["axial"]], np.subtract.reduce, f"{plane} less axial", metric=Metric.PLANE_GAP)
        for (metric, _), planes in of_planes.items()
        for plane in ("coronal", "sagittal")
        if metric == Metric.FID and {plane, "axial"} <= planes.keys()
    ]
    return rows + means + gaps


def joined(rows: list[Row], function: Callable, variant: str, **changes: Metric) -> Row:
    """What a function makes of the values and floors of rows; None where one is."""
    both = [row.value for row in rows], [row.floor for row in rows]
    value, floor = (float(function(found)) if None not in found else None for found in both)
    return replace(rows[0], variant=f"{NAME} {variant}", value=value, floor=floor, interval=None, **changes)


FAMILIES = ["statistics", "glcm", "glrlm", "glszm", "ngtdm"]
LEVELS = 32  # grey levels, as the initiative advises for MR
DESCRIBED = ("stat_", "cm_", "rlm_", "szm_", "ngt_")  # columns that are features; others describe the case


class Radiomics:
    """80 features of an image inside the foreground of its label, or of the whole image where there is none."""

    def __init__(self) -> None:
        try:
            from mirp import extract_features
        except ImportError:
            raise UserError("--radiomics: MIRP is not installed; `pip install 'lldm3d[radiomics]'`") from None
        self.extract_features = extract_features

    @property
    def spaces(self) -> list[FeatureSpace]:
        return [FeatureSpace("radiomics", f"mirp {version('mirp')}", None, scaled=True)]

    def __call__(self, image: np.ndarray, mask: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Features [80] of an image [X, Y, Z] in the mask [X, Y, Z]; what is undefined there counts as 0."""
        inside = np.ones(image.shape, bool) if mask is None or not mask.any() else mask
        with quiet():
            [table] = self.extract_features(
                image=image.astype(np.float64),
                mask=inside.astype(np.uint8),
                base_feature_families=FAMILIES,
                base_discretisation_method="fixed_bin_number",
                base_discretisation_n_bins=LEVELS,
                spatial_method="3d",
            )
        columns = [name for name in table.columns if name.startswith(DESCRIBED)]
        return {"radiomics": np.nan_to_num(table[columns].to_numpy(float)[0])}


@contextmanager
def quiet() -> Iterator[None]:
    """Without MIRP's report of each case, and its warnings of what is undefined in tiny masks."""
    logging.disable(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
