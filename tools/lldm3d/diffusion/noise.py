"""Noise processes: rectified flow, and the paper's DDPM with DDIM sampling."""

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler
from torch import Tensor

from lldm3d.errors import UserError

# Networks embed times on DDPM's scale of 0 to 1000.
TIME_SCALE = 1000.0


class NoiseProcess(Protocol):
    """How a latent becomes noise in training, and noise a latent when it is sampled."""

    name: str  # in checkpoints, so that no model is sampled by another process
    num_inference_steps: int

    def sample_timesteps(self, num: int, generator: torch.Generator | None = None) -> Tensor:
        """Times [num] of `num` training cases, on the CPU."""

    def noisy_and_target(self, latent: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """The noisy latent at `timesteps` [B] and what the network learns to answer, both like `latent` [B, C, ...]."""

    def sample(self, network: Callable, noise: Tensor, generators: Sequence[torch.Generator] | None = None) -> Tensor:
        """A latent from `noise` [B, C, x, y, z]; `network(x, timesteps [B])` answers as in training.

        What is random on the way comes from the generator of each case; without any, nothing is.
        """


class SharedNoise:
    """Stands for a generator: its normal noise is the weighted sum of that of several, and of unit variance.

    Of those with generators of equal seeds in common, noise is correlated.
    """

    def __init__(self, generators: Sequence[torch.Generator], weights: Sequence[float]) -> None:
        self.generators, self.device = generators, generators[0].device
        self.weights = [weight / math.hypot(*weights) for weight in weights]

    def normal(self, shape: torch.Size) -> Tensor:
        pairs = zip(self.weights, self.generators, strict=True)
        return sum(weight * torch.randn(shape, generator=item, device=self.device) for weight, item in pairs)


def noise_like(like: Tensor, generators: Sequence[torch.Generator | SharedNoise] | None) -> Tensor:
    """Normal noise like a tensor [B, C, ...]: drawn on its device, or of each case by its own generator."""
    if generators is None:
        return torch.randn_like(like)
    shape = like.shape[1:]
    drawn = [
        item.normal(shape) if isinstance(item, SharedNoise) else torch.randn(shape, generator=item, device=item.device)
        for item in generators
    ]
    return torch.stack(drawn).to(like.device)


class RectifiedFlow:
    """Straight paths x_t = (1 - t) x_0 + t x_1 from latent x_0 to noise x_1; the network learns x_0 - x_1.

    Liu et al., *Flow Straight and Fast* (2023), eq. 1. MONAI's `RFlowScheduler` keeps times in float16, its step sizes
    sum to 1.0102 over 30 steps, and its `transform_scale` does nothing; these steps are float32 and sum to 1.

    Args:
        num_inference_steps: steps from noise to latent.
        solver: "euler" (one call of the network a step) or "heun" (two, second order).
        time_shift: above 1 steps are shorter near the noise and longer near the latent, 1 makes all alike (Esser et al.
            2024, *Scaling Rectified Flow Transformers*, eq. 23).
        time_grid: "even" steps, or "cosine", whose steps are shorter near both ends, where the path of what is larger
            or smaller than the noise bends. By 8 steps of Heun so spaced the exact velocity of Gaussian parts of
            variance 0.05 to 10 gives 0.96 to 1.04 of their standard deviation, by 16 of Euler, which cost as much, 0.86
            to 0.92: duller images.
        times: of training: "uniform", or "logit_normal", more of them in the middle of the path (there, eq. 19).
    """

    name = "rectified_flow"  # in checkpoints, so that no model is sampled by the other process

    def __init__(
        self,
        num_inference_steps: int = 20,
        solver: str = "euler",
        time_shift: float = 1.0,
        times: str = "uniform",
        time_grid: str = "even",
    ) -> None:
        if times not in ("uniform", "logit_normal"):
            raise ValueError(f"times must be 'uniform' or 'logit_normal', got {times!r}")
        if solver not in ("euler", "heun"):
            raise ValueError(f"solver must be 'euler' or 'heun', got {solver!r}")
        if time_grid not in ("even", "cosine"):
            raise ValueError(f"time_grid must be 'even' or 'cosine', got {time_grid!r}")
        if num_inference_steps < 1:
            raise ValueError(f"num_inference_steps must be at least 1, got {num_inference_steps}")
        if not time_shift > 0:
            raise ValueError(f"time_shift must be above 0, got {time_shift}")
        self.num_inference_steps, self.solver, self.time_shift = num_inference_steps, solver, time_shift
        self.training_times, self.time_grid = times, time_grid

    def sample_timesteps(self, num: int, generator: torch.Generator | None = None) -> Tensor:
        """Times [num] in [0, 1000), one in each of `num` equal parts, so that a batch covers the path evenly.

        The parts are equally probable: of equal length for uniform times.
        """
        offsets = torch.rand(num, generator=generator)
        parts = torch.randperm(num, generator=generator)
        times = (parts + offsets) / num
        if self.training_times == "logit_normal":
            times = torch.sigmoid(torch.special.ndtri(times.double().clamp(1e-6, 1 - 1e-6))).float()
        return times * TIME_SCALE

    def noisy_and_target(self, latent: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """The noisy latent at `timesteps` [B] and the velocity that the network shall answer, both like `latent`."""
        time = (timesteps / TIME_SCALE).view(-1, *[1] * (latent.ndim - 1))
        return (1 - time) * latent + time * noise, latent - noise

    def times(self) -> Tensor:
        """The `num_inference_steps` + 1 times from 1 (noise) to 0 (latent), float32."""
        times = torch.linspace(1, 0, self.num_inference_steps + 1, dtype=torch.float32)
        if self.time_grid == "cosine":
            times = (1 - torch.cos(torch.pi * times)) / 2
        return self.time_shift * times / (1 + (self.time_shift - 1) * times)

    @torch.no_grad()
    def sample(self, network: Callable, noise: Tensor, generators: Sequence[torch.Generator] | None = None) -> Tensor:
        """Follow the flow from `noise` [B, C, x, y, z] to a latent; `network(x, timesteps [B])` gives the velocity.

        The path is not random: the generators of `NoiseProcess` are left alone.
        """
        latent, times = noise.float(), self.times()
        for start, end in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
            velocity = self.velocity(network, latent, start)
            step = latent + (start - end) * velocity
            if self.solver == "heun" and end > 0:
                step = latent + (start - end) * 0.5 * (velocity + self.velocity(network, step, end))
            latent = step
        return latent

    @staticmethod
    def velocity(network: Callable, latent: Tensor, time: float) -> Tensor:
        timesteps = torch.full((len(latent),), time * TIME_SCALE, device=latent.device)
        return network(latent, timesteps).float()


class DDPM:
    """MONAI's `DDPMScheduler` and `DDIMScheduler` behind the calls of `RectifiedFlow`.

    Ho et al. 2020 (training, and ancestral sampling), Song et al. 2021 (deterministic sampling in fewer steps).

    Args:
        num_inference_steps: DDIM steps.
        num_train_timesteps: T.
        schedule: MONAI's name of the noise schedule, with `beta_start` and `beta_end`.
        prediction_type: "epsilon" or "v_prediction".
        clip_sample: whether what is denoised lies in [-1, 1], as images do and latents do not.

    Raises:
        UserError: for a number of steps by which DDIM would step back less far than its times lie apart.
    """

    name = "ddpm"  # in checkpoints, so that no model is sampled by the other process

    def __init__(
        self,
        num_inference_steps: int = 50,
        num_train_timesteps: int = 1000,
        schedule: str = "scaled_linear_beta",
        beta_start: float = 0.0015,
        beta_end: float = 0.0195,
        prediction_type: str = "epsilon",
        clip_sample: bool = False,
    ) -> None:
        if prediction_type not in ("epsilon", "v_prediction"):
            raise ValueError(f"prediction_type must be 'epsilon' or 'v_prediction', got {prediction_type!r}")
        if num_inference_steps < 1:
            raise UserError(f"num_inference_steps {num_inference_steps}: must be from 1 to {num_train_timesteps}")
        step = num_train_timesteps / num_inference_steps
        if step >= 1 and step - num_train_timesteps // num_inference_steps > 0.05 * step:
            near = [n for n in (num_train_timesteps // (int(step) + 1), num_train_timesteps // int(step)) if n]
            raise UserError(
                f"num_inference_steps {num_inference_steps}: MONAI's DDIM leaves noise where it does not divide the "
                f"{num_train_timesteps} steps of the training; take {' or '.join(map(str, near))}"
            )
        noise = {"schedule": schedule, "clip_sample": clip_sample}
        if schedule != "cosine":
            noise |= {"beta_start": beta_start, "beta_end": beta_end}
        self.training = DDPMScheduler(num_train_timesteps, prediction_type=prediction_type, **noise)
        self.sampling = DDIMScheduler(num_train_timesteps, prediction_type=prediction_type, **noise)
        self.num_inference_steps, self.prediction_type = num_inference_steps, prediction_type

    def sample_timesteps(self, num: int, generator: torch.Generator | None = None) -> Tensor:
        """Whole timesteps [num] in 0 .. T - 1."""
        return torch.randint(0, self.training.num_train_timesteps, (num,), generator=generator)

    def noisy_and_target(self, latent: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """The noisy latent at `timesteps` [B] and what the network shall answer, both like `latent`."""
        noisy = self.training.add_noise(original_samples=latent, noise=noise, timesteps=timesteps)
        if self.prediction_type == "epsilon":
            return noisy, noise
        return noisy, self.training.get_velocity(sample=latent, noise=noise, timesteps=timesteps)

    @torch.no_grad()
    def sample(self, network: Callable, noise: Tensor, generators: Sequence[torch.Generator] | None = None) -> Tensor:
        """Denoise `noise` [B, C, x, y, z] to a latent by deterministic DDIM.

        With a generator for each case and all of the training's steps by ancestral sampling, which adds noise in each.
        """
        if generators is not None and self.num_inference_steps >= self.training.num_train_timesteps:
            return self.ancestral(network, noise, generators)
        if self.num_inference_steps > (most := self.training.num_train_timesteps):
            raise UserError(f"num_inference_steps {self.num_inference_steps}: must be from 1 to {most}")
        self.sampling.set_timesteps(self.num_inference_steps, device=noise.device)
        latent = noise.float()
        for timestep in self.sampling.timesteps.tolist():
            output = network(latent, torch.full((len(latent),), timestep, device=latent.device)).float()
            latent, _ = self.sampling.step(output, timestep, latent)
        return latent

    def ancestral(self, network: Callable, noise: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Ho et al. 2020, algorithm 2; the noise of each case by its own generator, on the device of the noise."""
        latent = noise.float()
        for timestep in reversed(range(self.training.num_train_timesteps)):
            output = network(latent, torch.full((len(latent),), timestep, device=latent.device)).float()
            cases = zip(output.split(1), latent.split(1), generators, strict=True)
            latent = torch.cat([self.training.step(o, timestep, x, generator)[0] for o, x, generator in cases])
        return latent
