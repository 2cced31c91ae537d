"""One update of an image generator on labels and its discriminator, and what a discriminator says of images.

Labels are one-hot [B, K, ...], images [B, 1, ...] in [-1, 1], in two or three dimensions. A generator is a network of
(label, *noise) whose `noise(size, generator)` gives the noise of one case as a list of tensors without the batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from monai.engines import SupervisedTrainer
from monai.losses import PatchAdversarialLoss
from monai.networks.nets import PatchDiscriminator
from monai.utils import CommonKeys as Keys
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, avg_pool3d, l1_loss, relu
from torch.nn.utils.parametrizations import spectral_norm

from lldm3d.codec.training import descend
from lldm3d.data.labels import one_hot
from lldm3d.diffusion.batches import generators_of
from lldm3d.errors import UserError


class ImageGenerator(Protocol):
    """What draws an image for a label."""

    multiple: list[int]  # voxels of which each axis of a label must be a multiple

    def noise(self, size: Sequence[int], generator: torch.Generator | None = None) -> list[Tensor]:
        """The noise of a case of that size, on the CPU or the generator's device."""

    def __call__(self, label: Tensor, *noise: Tensor) -> Tensor:
        """Images [B, 1, ...] in [-1, 1] for labels [B, K, ...]; noise as `noise` gives, with the batch in front."""


def halvings(size: Sequence[int], least: int) -> list[tuple[int, ...]]:
    """The strides by which a network halves a volume: each axis while it is even and has at least so many voxels.

    Raises UserError where an axis is shorter than `least`.
    """
    if min(size) < least:
        raise UserError(f"size {list(size)}: needs at least {least} voxels along each axis; prepare larger cases")
    strides, size = [], list(size)
    while any(length >= least and length % 2 == 0 for length in size):
        strides.append(tuple(2 if length >= least and length % 2 == 0 else 1 for length in size))
        size = [length // step for length, step in zip(size, strides[-1], strict=True)]
    if not strides:
        raise UserError(f"size {size}: no axis is even, so that nothing can be halved; prepare cases of another size")
    return strides


def product_of(strides: Sequence[tuple[int, ...]]) -> list[int]:
    """The product of strides along each axis."""
    return torch.tensor(strides).prod(0).tolist()


@dataclass(eq=False)
class LabelToImageBatch:
    """One-hot labels, their images in [-1, 1], and the generator's noise: `prepare_batch` of these trainings."""

    generator: ImageGenerator
    num_classes: int  # K, with background
    seed: int | None = None  # given, the noise depends on the case alone (validation): figures can be compared

    def __call__(self, batch: dict, device=None, non_blocking: bool = False, **_) -> tuple:
        label = one_hot(batch["label"].to(device, non_blocking=non_blocking), self.num_classes)
        image = batch["image"].to(device, non_blocking=non_blocking) * 2 - 1
        generators = generators_of(batch, self.seed) or [None] * len(label)
        return label, image, batched_noise(self.generator, label, generators), {}


def batched_noise(network: ImageGenerator, label: Tensor, generators: Sequence[torch.Generator | None]) -> tuple:
    """The noise of each case by its generator, as one tensor [B, ...] for each that the network takes."""
    cases = [network.noise(label.shape[2:], generator) for generator in generators]
    return tuple(torch.stack(parts).to(label.device) for parts in zip(*cases, strict=True))


class Judge(Protocol):
    """What the discriminator, and the generator, learn from a real and a drawn image of the same label."""

    def discriminator_loss(self, discriminator: nn.Module, label: Tensor, real: Tensor, fake: Tensor) -> Tensor: ...

    def generator_loss(self, discriminator: nn.Module, label: Tensor, real: Tensor, fake: Tensor) -> Tensor: ...


@dataclass(eq=False)
class ConditionalUpdate:
    """Updates the discriminator, then the generator, on the images of a batch and those drawn for its labels.

    For `SupervisedTrainer(iteration_update=...)`. MONAI's `GanTrainer` draws from latents alone, and its
    `AdversarialTrainer` gives the discriminator no label.
    """

    discriminator: nn.Module
    optimizer: torch.optim.Optimizer  # of the discriminator
    judge: Judge
    l1_weight: float = 0.0  # of the distance to the real image, in the generator's loss

    def __call__(self, engine: SupervisedTrainer, batch: dict) -> dict:
        label, real, noise, _ = engine.prepare_batch(batch, engine.state.device, engine.non_blocking)
        engine.network.train()
        fake = engine.inferer(label, engine.network, *noise)
        judged = self.judge.discriminator_loss(self.discriminator, label, real, fake.detach())
        descend(judged, [self.discriminator], [self.optimizer])
        distance = l1_loss(fake, real)
        loss = self.judge.generator_loss(self.discriminator, label, real, fake) + self.l1_weight * distance
        descend(loss, [engine.network], [engine.optimizer])
        output = {Keys.IMAGE: label, Keys.LABEL: real, Keys.PRED: fake.detach(), Keys.LOSS: loss.detach()}
        return {**output, "discriminator_loss": judged.detach(), "l1": distance.detach()}


def hinge_loss(logits: Tensor, real: bool, for_discriminator: bool) -> Tensor:
    """max(0, 1 - D) of real and max(0, 1 + D) of drawn images; the generator gets -D (Lim & Ye 2017).

    `PatchAdversarialLoss("hinge")` applies tanh first, so that a discriminator at its margin has no gradient: at D = 5
    the generator's loss is 9e-5, not -5.
    """
    if not for_discriminator:
        return -logits.mean()
    return relu(1 - logits if real else 1 + logits).mean()


def vanilla_loss(logits: Tensor, real: bool, for_discriminator: bool) -> Tensor:
    """Binary cross-entropy of the logits, by MONAI's class."""
    return PatchAdversarialLoss(criterion="bce")(logits, real, for_discriminator)


@dataclass(eq=False)
class PatchJudge:
    """Adversarial loss of a discriminator that sees label and image, and the distance of its features (pix2pixHD).

    The discriminator gives lists of features, the logits last, one for each scale or one alone; drawn and real images
    pass it together. Wang et al. 2018, eq. 4: feature matching is the L1 distance of all features but the logits.
    """

    criterion: Callable[[Tensor, bool, bool], Tensor]
    matching_weight: float = 0.0
    discriminator_weight: float = 1.0  # pix2pix halves the discriminator's loss

    def scales(self, discriminator: nn.Module, label: Tensor, real: Tensor, fake: Tensor) -> list[list[tuple]]:
        """The features of real and drawn images, as pairs, by scale and layer."""
        output = discriminator(torch.cat([torch.cat([label, real], 1), torch.cat([label, fake], 1)]))
        scales = output if isinstance(output[0], list) else [output]
        return [[features.chunk(2) for features in scale] for scale in scales]

    def discriminator_loss(self, discriminator: nn.Module, label: Tensor, real: Tensor, fake: Tensor) -> Tensor:
        logits = [scale[-1] for scale in self.scales(discriminator, label, real, fake)]
        losses = [self.criterion(good, True, True) + self.criterion(bad, False, True) for good, bad in logits]
        return self.discriminator_weight * sum(losses) / len(losses)

    def generator_loss(self, discriminator: nn.Module, label: Tensor, real: Tensor, fake: Tensor) -> Tensor:
        scales = self.scales(discriminator, label, real, fake)
        loss = sum(self.criterion(scale[-1][1], True, False) for scale in scales)
        if self.matching_weight:
            matched = sum(l1_loss(bad, good.detach()) for scale in scales for good, bad in scale[:-1])
            loss = loss + self.matching_weight * matched
        return loss / len(scales)


class PyramidDiscriminator(nn.Module):
    """Spectrally normalised PatchGANs on the image and its halves: lists of features, logits last, by scale.

    Each is MONAI's `PatchDiscriminator` with a padding of 2, as SPADE's. MONAI's `MultiScalePatchDiscriminator` is not
    pix2pixHD's: it has no pyramid, but a further network with twice the layers on the whole image.

    Args:
        spatial_dims: 2 or 3.
        in_channels: of label and image.
        channels: of the first convolution.
        num_layers: as in `PatchDiscriminator`.
        scales: each half of the one before it.
    """

    def __init__(
        self, spatial_dims: int, in_channels: int, channels: int = 64, num_layers: int = 3, scales: int = 2
    ) -> None:
        super().__init__()
        shared = {"num_layers_d": num_layers, "norm": "INSTANCE", "padding": 2}
        self.scales = nn.ModuleList(
            normalised(PatchDiscriminator(spatial_dims, channels, in_channels, **shared)) for _ in range(scales)
        )
        self.pool = {2: avg_pool2d, 3: avg_pool3d}[spatial_dims]

    def forward(self, pair: Tensor) -> list[list[Tensor]]:
        """Features of label and image [B, K + 1, ...]."""
        found = []
        for scale in self.scales:
            found.append(scale(pair))
            pair = self.pool(pair, 3, 2, 1, count_include_pad=False)
        return found


CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)


def normalised(network: nn.Module) -> nn.Module:
    """The network, each of whose convolutions has a largest singular value of 1 (Miyato et al. 2018)."""
    for module in network.modules():
        if isinstance(module, CONVOLUTIONS):
            spectral_norm(module)
    return network
