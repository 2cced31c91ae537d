"""Losses of the autoencoders: reconstruction, KL and the perceptual term."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from monai.losses import DiceCELoss, JukeboxLoss, PerceptualLoss, SoftclDiceLoss
from monai.networks.nets import resnet10
from torch import nn

from lldm3d.errors import UserError


def kl_divergence(mean: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """KL of N(mean, sigma²) to N(0, 1), mean over the elements [B, C, x, y, z] (Kingma & Welling 2014, app. B)."""
    variance = sigma.square()
    return 0.5 * (mean.square() + variance - torch.log(variance + 1e-8) - 1).mean()


class AutoencoderLoss(nn.Module):
    """Reconstruction loss + kl_weight × KL, on the tuple (reconstruction, mean, sigma) that `AutoencoderKL` returns.

    Args:
        reconstruction_loss: called with (reconstruction, target).
        kl_weight: weight of the KL term, per latent element.
    """

    def __init__(self, reconstruction_loss: nn.Module, kl_weight: float) -> None:
        super().__init__()
        self.reconstruction_loss, self.kl_weight = reconstruction_loss, kl_weight

    def forward(self, output: tuple[torch.Tensor, ...], target: torch.Tensor) -> torch.Tensor:
        reconstruction, mean, sigma = output
        return self.reconstruction_loss(reconstruction, target) + self.kl_weight * kl_divergence(mean, sigma)


class QuantizedLoss(nn.Module):
    """Reconstruction loss + the quantiser's commitment, on the tuple (reconstruction, commitment) that `VQVAE` returns.

    Args:
        reconstruction_loss: called with (reconstruction, target).
    """

    def __init__(self, reconstruction_loss: nn.Module) -> None:
        super().__init__()
        self.reconstruction_loss = reconstruction_loss

    def forward(self, output: tuple[torch.Tensor, ...], target: torch.Tensor) -> torch.Tensor:
        reconstruction, commitment = output
        return self.reconstruction_loss(reconstruction, target) + commitment


class ImageReconstructionLoss(nn.Module):
    """L1 + perceptual_weight × perceptual term, images [B, 1, X, Y, Z] in [0, 1].

    Args:
        perceptual: called with (reconstruction, target); see `perceptual_loss`.
        perceptual_weight: 0 leaves the term out.
    """

    def __init__(self, perceptual: nn.Module, perceptual_weight: float) -> None:
        super().__init__()
        self.l1, self.perceptual, self.perceptual_weight = nn.L1Loss(), perceptual, perceptual_weight

    def forward(self, reconstruction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        loss = self.l1(reconstruction, target)
        if self.perceptual_weight > 0:
            loss = loss + self.perceptual_weight * self.perceptual(reconstruction, target)
        return loss


class LabelReconstructionLoss(nn.Module):
    """Cross-entropy + Dice over all classes, + clDice over the tubular ones (Shit et al. 2021).

    Args:
        class_names: names with background, in the order of the one-hot channels.
        tubular: names of the thin classes (vessels); none: no clDice.
        cldice_weight: weight of the clDice term.
    """

    def __init__(self, class_names: Sequence[str], tubular: Sequence[str] = (), cldice_weight: float = 0.5) -> None:
        super().__init__()
        self.dice_ce = DiceCELoss(softmax=True, include_background=False, batch=True)
        self.cldice, self.cldice_weight = SoftclDiceLoss(iter_=3), cldice_weight
        self.tubular = [list(class_names).index(name) for name in tubular]

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Logits and one-hot target, both [B, K, X, Y, Z]."""
        loss = self.dice_ce(logits, target)
        if self.tubular and self.cldice_weight > 0:
            probability = logits.softmax(1)[:, self.tubular]
            loss = loss + self.cldice_weight * self.cldice(probability, target[:, self.tubular])
        return loss


logger = logging.getLogger("lldm3d.codec.losses")


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
    return SpectralLoss(spatial_dims=3, fft_norm="ortho")


class SpectralLoss(JukeboxLoss):
    """Mean squared distance of the amplitudes of the Fourier transforms (Dhariwal et al. 2020, Jukebox, sec. 3.2).

    MONAI's takes the root of a sum of squares, whose gradient is NaN where a coefficient is 0. Those that are real by
    symmetry are so by rounding, once in some ten thousand steps, and the training is lost.
    """

    def _get_fft_amplitude(self, images: torch.Tensor) -> torch.Tensor:
        return torch.fft.fftn(images, s=self.fft_signal_size, dim=self.fft_dim, norm=self.fft_norm).abs()


def unit_deviation(volume: torch.Tensor) -> torch.Tensor:
    """Of mean 0 and deviation 1; MONAI's `medicalnet_intensity_normalisation` is NaN for a batch of one grey value."""
    return (volume - volume.mean()) / volume.std().clamp(min=1e-3)


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
        if missing := set(self.network.state_dict()) - set(state):
            raise UserError(f"perceptual_weights: {path} lacks {sorted(missing)[:3]}; a MedicalNet ResNet-10 is needed")
        self.network.load_state_dict(state, strict=False)
        self.network.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "MedicalNetLoss":
        """The feature network stays in evaluation mode."""
        return super().train(False)

    def forward(self, reconstruction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        fake, real = (
            nn.functional.normalize(self.network(unit_deviation(volume)), dim=1) for volume in (reconstruction, target)
        )
        return (fake - real).square().sum(1).mean()
