"""Images drawn without a label: what the baselines' engines do in a step."""

from collections.abc import Callable

import torch
from ignite.engine import Engine
from torch import nn

from lldm3d.engines import AutocastInferer
from lldm3d.generate.samplers import case_noise


class ImageGeneration:
    """The update of an engine that draws images, for batches of `CaseDataset`.

    Args:
        draw: from the noise [B, *shape] of the cases, and a generator for each, to images [B, 1, X, Y, Z] in [0, 1].
        shape: of a case's noise.
        seed: of all cases; the noise of a case follows from it and the case's number alone.
        device: where they are drawn.
    """

    def __init__(
        self,
        draw: Callable[[torch.Tensor, list[torch.Generator]], torch.Tensor],
        shape: list[int],
        seed: int,
        device: torch.device | str,
    ) -> None:
        self.draw, self.shape, self.seed, self.device = draw, list(shape), seed, device

    @torch.no_grad()
    def __call__(self, engine: Engine, batch: dict) -> dict:
        indices = batch["index"].tolist()
        noise = torch.stack([case_noise(self.seed, index, "image", self.shape) for index in indices]).to(self.device)
        generators = [torch.Generator(self.device).manual_seed(self.seed * 1_000_003 + index) for index in indices]
        image = self.draw(noise, generators).clamp(0, 1)
        return {**{key: batch[key] for key in ("name", "affine", "source_affine")}, "image": image}


class DiffusionDraw:
    """Draws by a diffusion process, and decodes what it gives.

    Args:
        network: called with (x, timesteps).
        noise_scheduler: `DDPM`, as in training.
        decode: from what the process gives of one case [1, C, x, y, z] to an image in [0, 1].
        device: of the network.
        autocast: bfloat16.
    """

    def __init__(
        self,
        network: nn.Module,
        noise_scheduler,
        decode: Callable[[torch.Tensor], torch.Tensor],
        device: torch.device | str,
        autocast: bool = True,
    ) -> None:
        self.network, self.noise_scheduler, self.decode = network, noise_scheduler, decode
        self.inferer = AutocastInferer(device, autocast)

    def predict(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return self.inferer(x, self.network, timesteps)

    def __call__(self, noise: torch.Tensor, generators: list[torch.Generator]) -> torch.Tensor:
        drawn = self.noise_scheduler.sample(self.predict, noise, generators)
        return torch.cat([self.inferer(case, self.decode) for case in drawn.split(1)])
