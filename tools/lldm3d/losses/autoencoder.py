"""Reconstruction + KL, for images and for labels."""

from collections.abc import Sequence

import torch
from monai.losses import DiceCELoss, SoftclDiceLoss
from torch import nn


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
