"""Losses of the autoencoders."""

from lldm3d.losses.autoencoder import AutoencoderLoss, ImageReconstructionLoss, LabelReconstructionLoss, QuantizedLoss
from lldm3d.losses.perceptual import perceptual_loss

__all__ = ["AutoencoderLoss", "ImageReconstructionLoss", "LabelReconstructionLoss", "QuantizedLoss", "perceptual_loss"]
