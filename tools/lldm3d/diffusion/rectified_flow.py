"""Rectified flow: a straight path from noise to latent."""

from collections.abc import Callable

import torch

# Networks embed times on DDPM's scale of 0 to 1000.
TIME_SCALE = 1000.0


class RectifiedFlow:
    """Straight paths x_t = (1 - t) x_0 + t x_1 from latent x_0 to noise x_1; the network learns x_0 - x_1.

    Liu et al., *Flow Straight and Fast* (2023), eq. 1. MONAI's `RFlowScheduler` keeps times in float16, its step sizes
    sum to 1.0102 over 30 steps, and its `transform_scale` does nothing; these steps are float32 and sum to 1.

    Args:
        num_inference_steps: steps from noise to latent.
        solver: "euler" (one call of the network a step) or "heun" (two, second order).
        time_shift: above 1 steps are shorter near the noise and longer near the latent, 1 makes all alike (Esser et al.
            2024, *Scaling Rectified Flow Transformers*, eq. 23).
    """

    name = "rectified_flow"  # in checkpoints, so that no model is sampled by the other process

    def __init__(self, num_inference_steps: int = 20, solver: str = "euler", time_shift: float = 1.0) -> None:
        if solver not in ("euler", "heun"):
            raise ValueError(f"solver must be 'euler' or 'heun', got {solver!r}")
        if num_inference_steps < 1:
            raise ValueError(f"num_inference_steps must be at least 1, got {num_inference_steps}")
        if not time_shift > 0:
            raise ValueError(f"time_shift must be above 0, got {time_shift}")
        self.num_inference_steps, self.solver, self.time_shift = num_inference_steps, solver, time_shift

    def draw_timesteps(self, num: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """Times [num] in [0, 1000), one in each of `num` equal parts, so that a batch covers the path evenly."""
        offsets = torch.rand(num, generator=generator)
        parts = torch.randperm(num, generator=generator)
        return (parts + offsets) / num * TIME_SCALE

    def corrupt(
        self, latent: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The noisy latent at `timesteps` [B] and the velocity that the network shall answer, both like `latent`."""
        time = (timesteps / TIME_SCALE).view(-1, *[1] * (latent.ndim - 1))
        return (1 - time) * latent + time * noise, latent - noise

    def times(self) -> torch.Tensor:
        """The `num_inference_steps` + 1 times from 1 (noise) to 0 (latent), float32."""
        times = torch.linspace(1, 0, self.num_inference_steps + 1, dtype=torch.float32)
        return self.time_shift * times / (1 + (self.time_shift - 1) * times)

    @torch.no_grad()
    def sample(self, network: Callable, noise: torch.Tensor) -> torch.Tensor:
        """Follow the flow from `noise` [B, C, x, y, z] to a latent; `network(x, timesteps [B])` gives the velocity."""
        latent, times = noise.float(), self.times()
        for start, end in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
            velocity = self.velocity(network, latent, start)
            step = latent + (start - end) * velocity
            if self.solver == "heun" and end > 0:
                step = latent + (start - end) * 0.5 * (velocity + self.velocity(network, step, end))
            latent = step
        return latent

    @staticmethod
    def velocity(network: Callable, latent: torch.Tensor, time: float) -> torch.Tensor:
        timesteps = torch.full((len(latent),), time * TIME_SCALE, device=latent.device)
        return network(latent, timesteps).float()
