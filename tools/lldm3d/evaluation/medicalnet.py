"""MedicalNet's 3D ResNets as a second pair of eyes, pretrained on 23 data sets of CT and MR (Chen et al. 2019)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai.networks.nets import resnet
from torch import nn

from lldm3d.errors import UserError
from lldm3d.evaluation.processes import device
from lldm3d.evaluation.spaces import Space
from lldm3d.files import load_checkpoint, sha256

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
    def spaces(self) -> list[Space]:
        return [Space(self.name, self.name, self.weights, neighbours=True)]

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
    depth = DEPTHS.get((*(blocks(state, layer) for layer in range(1, 5)), "layer1.0.conv3.weight" in state))
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


def blocks(state: dict, layer: int) -> int:
    """Number of residual blocks of a layer."""
    return len({key.split(".")[1] for key in state if key.startswith(f"layer{layer}.")})
