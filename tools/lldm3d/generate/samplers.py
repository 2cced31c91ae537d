"""From a case's number to its label and image."""

import math
from collections.abc import Callable

import numpy as np
import torch
from ignite.engine import Engine

from lldm3d.codec import Codec
from lldm3d.diffusion import guided
from lldm3d.engines import AutocastInferer
from lldm3d.labels import one_hot


def case_noise(seed: int, index: int, kind: str, shape: list[int]) -> torch.Tensor:
    """The noise [C, x, y, z] of case `index`: the same whatever the batch, the number of cases or the device."""
    number = np.random.SeedSequence([seed, index, ("label", "image").index(kind)]).generate_state(1, np.uint64)[0]
    return torch.randn(shape, generator=torch.Generator().manual_seed(int(number) % 2**63))


class LatentSampler:
    """Draws latents of one kind and decodes them.

    Args:
        codec: its decoder and latent scale.
        network: called with (x, timesteps) or (x, timesteps, condition).
        noise_scheduler: `RectifiedFlow` or `DDPM`, as in training.
        latent_shape: [C, x, y, z].
        seed: seed of all cases.
        guidance_scale: guidance on the label; 1 for none.
        autocast: bfloat16, in sampling and decoding (docs/sampling.md has what that changes).
    """

    def __init__(
        self,
        codec: Codec,
        network: torch.nn.Module,
        noise_scheduler,
        latent_shape: list[int],
        seed: int = 0,
        guidance_scale: float = 1.0,
        autocast: bool = True,
    ) -> None:
        self.codec, self.network, self.noise_scheduler = codec, network, noise_scheduler
        self.latent_shape, self.seed, self.guidance_scale = list(latent_shape), seed, guidance_scale
        self.device = codec.latent_mean.device
        self.inferer = AutocastInferer(self.device, autocast)

    def call(self, x: torch.Tensor, timesteps: torch.Tensor, *condition: torch.Tensor) -> torch.Tensor:
        return self.inferer(x, self.network, timesteps, *condition)

    def predictor(self, condition: torch.Tensor | None) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """The network as a function of (x, timesteps)."""
        return self.call if condition is None else guided(self.call, condition, self.guidance_scale)

    @torch.no_grad()
    def draw(self, indices: list[int], condition: torch.Tensor | None = None) -> torch.Tensor:
        """Latents [B, C, x, y, z] of these cases; the spatial size follows the condition where it is a label."""
        shape = self.latent_shape
        if condition is not None and condition.shape[2:] != torch.Size(shape[1:]):
            shape = [shape[0], *(math.ceil(size / self.codec.stride) for size in condition.shape[2:])]
        noise = torch.stack([case_noise(self.seed, index, self.codec.kind, shape) for index in indices])
        if self.device.type == "cuda":  # else the copy would wait for all that the GPU was given before
            noise = noise.pin_memory().to(self.device, non_blocking=True)
        return self.noise_scheduler.sample(self.predictor(condition), noise)

    def decode(self, latent: torch.Tensor, in_slabs: bool = False) -> torch.Tensor:
        """Volumes [B, 1, X, Y, Z], case by case: one alone fills a GPU, and more would take more memory."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.inferer.enabled):
            return torch.cat([self.codec.decode(case, in_slabs) for case in latent.split(1)])


class Generation:
    """The update of a generating engine: labels (drawn, or given with the batch), then images on them.

    Args:
        label: sampler of labels; None where labels come with the batch or none are wanted.
        image: sampler of images; None for labels alone.
        condition: what guides the image: "label" (one-hot), "label_latent", or None for images without a label.

    `in_slabs`, False at first, lets the volumes be decoded slab by slab.
    """

    def __init__(
        self, label: LatentSampler | None = None, image: LatentSampler | None = None, condition: str | None = None
    ) -> None:
        self.label, self.image, self.condition, self.in_slabs = label, image, condition, False

    @torch.no_grad()
    def __call__(self, engine: Engine, batch: dict) -> dict:
        indices = batch["index"].tolist()
        output = {key: batch[key] for key in ("name", "affine", "source_affine")}
        latent = None
        if "label" in batch:
            output["label"] = batch["label"].to(engine.state.device)
        elif self.label is not None:
            latent = self.label.draw(indices)
            output["label"] = self.label.decode(latent, self.in_slabs)
        if self.image is not None:
            drawn = self.image.draw(indices, self.guide(output, latent))
            output["image"] = self.image.decode(drawn, self.in_slabs)
        return output

    def guide(self, output: dict, latent: torch.Tensor | None) -> torch.Tensor | None:
        """The condition of the image sampler [B, K or C, ...]."""
        if self.condition is None:
            return None
        if self.condition == "label":
            return one_hot(output["label"], len(self.image.codec.class_names))
        return latent if latent is not None else self.label.codec.encode(output["label"])[0]
