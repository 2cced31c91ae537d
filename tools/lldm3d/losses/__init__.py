"""Losses of the autoencoders."""

from lldm3d.losses.autoencoder import AutoencoderLoss, ImageReconstructionLoss, LabelReconstructionLoss
from lldm3d.losses.perceptual import perceptual_loss

__all__ = ["AutoencoderLoss", "ImageReconstructionLoss", "LabelReconstructionLoss", "perceptual_loss"]
