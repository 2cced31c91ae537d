"""What of a batch goes into the network: `prepare_batch` callables for MONAI's supervised engines."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from lldm3d.data.labels import one_hot
from lldm3d.diffusion.gaussian import GaussianDiffusion
from lldm3d.diffusion.noise import NoiseProcess, noise_like


@dataclass(eq=False)
class ReconstructionBatch:
    """The input is its own target; label maps [B, 1, X, Y, Z] become one-hot [B, K, X, Y, Z] first."""

    key: str  # "image" or "label"
    num_classes: int | None = None  # K, with background (labels only)

    def __call__(self, batch: dict, device=None, non_blocking: bool = False, **_) -> tuple[torch.Tensor, torch.Tensor]:
        volume = batch[self.key].to(device, non_blocking=non_blocking)
        if self.num_classes is not None:
            volume = one_hot(volume, self.num_classes)
        return volume, volume


@dataclass(eq=False)
class DiffusionBatch:
    """Draws a latent, its noise and its time, and gives the noisy latent and what the network shall answer.

    MONAI's `LatentDiffusionPrepareBatch` encodes in every step, cannot draw from a cached mean and sigma, and knows
    no rectified flow.
    """

    noise_scheduler: NoiseProcess
    kind: str  # "image" or "label", whose latents are learnt
    num_classes: int | None = None  # K with background; given, the one-hot label map is the condition of a ControlNet
    condition: str = "label"  # full-resolution one-hot, or "label_latent" (the paper's eq. 6)
    label_dropout: float = 0.0  # share of cases whose condition is zero in training, for guidance (Ho & Salimans 2022)
    seed: int | None = None  # given, noise and times depend on the case alone (validation): losses can be compared

    def __post_init__(self) -> None:
        if self.condition not in ("label", "label_latent"):
            raise ValueError(f"condition must be 'label' or 'label_latent', got {self.condition!r}")

    def __call__(self, batch: dict, device=None, non_blocking: bool = False, **_) -> tuple:
        generators = generators_of(batch, self.seed)
        batch = {key: value.to(device, non_blocking=non_blocking) for key, value in batch.items()}
        latent = sample_latent(batch, self.kind, generators)
        noisy, target, timesteps = noised(latent, self.noise_scheduler, generators, non_blocking)
        arguments = {"timesteps": timesteps}
        if self.num_classes is not None:
            arguments["condition"] = self.make_condition(batch, generators)
        if "sizes" in batch:  # of the classes, for a network that is told them
            arguments["sizes"] = batch["sizes"]
        return noisy, target, (), arguments

    def make_condition(self, batch: dict, generators: list[torch.Generator] | None) -> torch.Tensor:
        """The condition [B, K or C, ...], zero where it is dropped, and of cases that have no label ("labelled")."""
        if self.condition == "label":
            condition = one_hot(batch["label"], self.num_classes)
        else:
            condition = sample_latent(batch, "label", generators)
        if "labelled" in batch:
            condition = zero_unless(batch["labelled"], condition)
        if self.seed is None and self.label_dropout > 0:
            kept = torch.rand(len(condition), device=condition.device) >= self.label_dropout
            condition = zero_unless(kept, condition)
        return condition


def zero_unless(kept: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
    """The condition [B, C, ...], zero for the cases that are not `kept`, bool [B]."""
    return condition * kept.view(-1, *[1] * (condition.ndim - 1))


@dataclass(eq=False)
class EncodedBatch:
    """Encodes the images of a batch, and gives them with noise and what the network shall answer.

    For diffusion on voxels, or on latents that are encoded in each step. MONAI's `DiffusionPrepareBatch` draws times
    and noise of validation from the global generator, so that losses cannot be compared.
    """

    noise_scheduler: NoiseProcess
    encode: Callable[[torch.Tensor], torch.Tensor]  # images [B, 1, X, Y, Z] in [0, 1] to what is diffused, [B, C, ...]
    seed: int | None = None  # given, noise and times depend on the case alone (validation): losses can be compared

    def __call__(self, batch: dict, device=None, non_blocking: bool = False, **_) -> tuple:
        with torch.no_grad():
            latent = self.encode(batch["image"].to(device, non_blocking=non_blocking))
        generators = generators_of(batch, self.seed)
        noisy, target, timesteps = noised(latent, self.noise_scheduler, generators, non_blocking)
        return noisy, target, (), {"timesteps": timesteps}


@dataclass(eq=False)
class LabelledBatch:
    """Noisy images of voxels, and their one-hot labels as the condition, in two or three dimensions."""

    noise_scheduler: GaussianDiffusion
    num_classes: int  # K, with background
    label_dropout: float = 0.0  # share of cases whose label is zero in training, for guidance (Ho & Salimans 2022)
    seed: int | None = None  # given, noise and times depend on the case alone (validation): losses can be compared

    def __call__(self, batch: dict, device=None, non_blocking: bool = False, **_) -> tuple:
        image = batch["image"].to(device, non_blocking=non_blocking) * 2 - 1
        condition = one_hot(batch["label"].to(device, non_blocking=non_blocking), self.num_classes)
        if self.seed is None and self.label_dropout > 0:
            condition = zero_unless(torch.rand(len(condition), device=device) >= self.label_dropout, condition)
        generators = generators_of(batch, self.seed)
        noisy, target, timesteps = noised(image, self.noise_scheduler, generators, non_blocking)
        return noisy, target, (), {"timesteps": timesteps, "condition": condition}


def generators_of(batch: dict, seed: int | None) -> list[torch.Generator] | None:
    """A generator for each case of the batch, by its "index"; None without a seed."""
    return None if seed is None else [torch.Generator().manual_seed(seed + index) for index in batch["index"].tolist()]


def noised(
    latent: torch.Tensor, process: NoiseProcess, generators: list[torch.Generator] | None, non_blocking: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The noisy latent [B, C, x, y, z], what the network shall answer, and the times [B] that were drawn."""
    noise = noise_like(latent, generators)
    draws = [(1, one) for one in generators or ()] or [(len(latent), None)]
    timesteps = torch.cat([process.sample_timesteps(*draw) for draw in draws])
    timesteps = timesteps.to(latent.device, non_blocking=non_blocking)
    return *process.noisy_and_target(latent, noise, timesteps), timesteps


def sample_latent(batch: dict, kind: str, generators: list[torch.Generator] | None) -> torch.Tensor:
    """A fresh draw from the cached Gaussian of each latent [B, C, x, y, z], std 1 over the training set.

    Without a sigma, as of a codec that loses nothing, the latent is the mean.
    """
    mean, sigma = batch[f"{kind}_mean"], batch.get(f"{kind}_sigma")
    return mean if sigma is None else mean + sigma * noise_like(mean, generators)
