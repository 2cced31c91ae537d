"""The paper's diffusion: DDPM in training, DDIM in sampling."""

from collections.abc import Callable

import torch
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler

from lldm3d.errors import UserError


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

    def draw_timesteps(self, num: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """Whole timesteps [num] in 0 .. T - 1."""
        return torch.randint(0, self.training.num_train_timesteps, (num,), generator=generator)

    def corrupt(
        self, latent: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The noisy latent at `timesteps` [B] and what the network shall answer, both like `latent`."""
        noisy = self.training.add_noise(original_samples=latent, noise=noise, timesteps=timesteps)
        if self.prediction_type == "epsilon":
            return noisy, noise
        return noisy, self.training.get_velocity(sample=latent, noise=noise, timesteps=timesteps)

    @torch.no_grad()
    def sample(
        self, network: Callable, noise: torch.Tensor, generators: list[torch.Generator] | None = None
    ) -> torch.Tensor:
        """Denoise `noise` [B, C, x, y, z] to a latent by deterministic DDIM.

        With a generator for each case and all of the training's steps by ancestral sampling, which adds noise in each.
        """
        if generators is not None and self.num_inference_steps >= self.training.num_train_timesteps:
            return self.ancestral(network, noise, generators)
        self.sampling.set_timesteps(self.num_inference_steps, device=noise.device)
        latent = noise.float()
        for timestep in self.sampling.timesteps.tolist():
            output = network(latent, torch.full((len(latent),), timestep, device=latent.device)).float()
            latent, _ = self.sampling.step(output, timestep, latent)
        return latent

    def ancestral(self, network: Callable, noise: torch.Tensor, generators: list[torch.Generator]) -> torch.Tensor:
        """Ho et al. 2020, algorithm 2; the noise of each case by its own generator, on the device of the noise."""
        latent = noise.float()
        for timestep in reversed(range(self.training.num_train_timesteps)):
            output = network(latent, torch.full((len(latent),), timestep, device=latent.device)).float()
            cases = zip(output.split(1), latent.split(1), generators, strict=True)
            latent = torch.cat([self.training.step(o, timestep, x, generator)[0] for o, x, generator in cases])
        return latent
