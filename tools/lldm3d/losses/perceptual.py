"""The perceptual term, with or without downloaded weights."""

import logging
from pathlib import Path

import torch
from monai.losses import JukeboxLoss, PerceptualLoss
from monai.losses.perceptual import medicalnet_intensity_normalisation
from monai.networks.nets import resnet10
from torch import nn

from lldm3d.errors import UserError

logger = logging.getLogger("lldm3d.losses")


def perceptual_loss(weights: str | None) -> nn.Module:
    """A perceptual term for volumes [B, 1, X, Y, Z] in [0, 1].

    Args:
        weights: path of MedicalNet ResNet-10 weights (`resnet_10_23dataset.pth`); "monai" for MONAI's own loader, which
            downloads them; None for the spectral term (Dhariwal et al. 2020, Jukebox, sec. 3.2), which needs none and
            takes a ninth of the time of 3D SSIM on a CPU. Where MONAI's loader cannot reach its source, training
            goes on with the spectral term, and says so once.

    Raises:
        UserError: when the path does not exist or does not hold ResNet-10 weights.
    """
    if weights == "monai":
        try:
            return PerceptualLoss(3, "medicalnet_resnet10_23datasets", is_fake_3d=False)
        except Exception as error:  # torch.hub raises whatever the network stack does
            logger.warning(
                f"perceptual weights could not be loaded ({error}); going on with the spectral term, which needs none"
            )
    elif weights is not None:
        return MedicalNetLoss(weights)
    else:
        logger.info("no perceptual weights are given (perceptual_weights): the perceptual term is spectral")
    return JukeboxLoss(spatial_dims=3, fft_norm="ortho")


class MedicalNetLoss(nn.Module):
    """Mean squared distance of unit-normalised MedicalNet ResNet-10 features (Chen et al. 2019; Zhang et al. 2018).

    Stock `PerceptualLoss` takes 3D weights through torch.hub alone, never from a path.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        if not Path(path).is_file():
            raise UserError(f"perceptual_weights: no file {path}; give a path, 'monai', or null for the spectral term")
        self.network = resnet10(n_input_channels=1, feed_forward=False, shortcut_type="B", bias_downsample=False)
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = {name.removeprefix("module."): value for name, value in state.get("state_dict", state).items()}
        missing = set(self.network.state_dict()) - set(state)
        if missing:
            raise UserError(f"perceptual_weights: {path} lacks {sorted(missing)[:3]}; a MedicalNet ResNet-10 is needed")
        self.network.load_state_dict(state, strict=False)
        self.network.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "MedicalNetLoss":
        """The feature network stays in evaluation mode."""
        return super().train(False)

    def forward(self, reconstruction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        fake, real = (
            nn.functional.normalize(self.network(medicalnet_intensity_normalisation(volume)), dim=1)
            for volume in (reconstruction, target)
        )
        return (fake - real).square().sum(1).mean()
