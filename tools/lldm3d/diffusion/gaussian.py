"""DDPM with a learned variance, and ancestral sampling by any number of steps.

Ho et al. 2020 (DDPM) and Nichol & Dhariwal 2021 (improved DDPM, arXiv:2102.09672), of images in [-1, 1].
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from monai.networks.schedulers import DDPMScheduler
from torch import Tensor
from torch.nn.functional import l1_loss, mse_loss

from lldm3d.diffusion.noise import noise_like
from lldm3d.errors import UserError

BIN = 1 / 255  # half of what one of 256 grey values takes of [-1, 1]
Chain = dict[str, Tensor]


def clip_to_image(image: Tensor) -> Tensor:
    """What an image can be."""
    return image.clamp(-1, 1)


class GaussianDiffusion:
    """Noise in T steps; what the network answers may say the variance of a step, as well as its mean.

    MONAI's `DDPMScheduler` is right with all T steps alone: with fewer it steps to t - 1 instead of the next step that
    is taken: for data of std 0.5 it draws 0.747 with 250 steps and 0.936 with 50, not 0.486 and 0.443. "learned_range"
    mixes variances instead of their logarithms, is NaN for answers below -1, and no loss of it exists.

    Args:
        num_inference_steps: of sampling, T at most, evenly spaced.
        num_train_timesteps: T.
        schedule: MONAI's name of the noise schedule.
        prediction_type: what the network answers: "epsilon", "sample" (the image) or "v_prediction".
        variance: of a step: "small" (of the posterior), "large" (beta), or "learned" between both, by C more channels.
        sampler: "ancestral", or "ddim" (Song et al. 2021), in which nothing is random.
        clip: what is made of each estimate of the image; of latents nothing, by `torch.nn.Identity()`.
        betas: the first and last of the schedule; a cosine has its own.

    Raises:
        UserError: for more steps than there are.
    """

    name = "gaussian"  # in checkpoints

    def __init__(
        self,
        num_inference_steps: int = 1000,
        num_train_timesteps: int = 1000,
        schedule: str = "linear_beta",
        prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon",
        variance: Literal["small", "large", "learned"] = "learned",
        sampler: Literal["ancestral", "ddim"] = "ancestral",
        clip: Callable[[Tensor], Tensor] = clip_to_image,
        betas: tuple[float, float] = (1e-4, 0.02),
    ) -> None:
        allowed = {"prediction_type": ("epsilon", "sample", "v_prediction"), "variance": ("small", "large", "learned")}
        for name, values in {**allowed, "sampler": ("ancestral", "ddim")}.items():
            if (given := locals()[name]) not in values:
                raise ValueError(f"{name} must be one of {values}, got {given!r}")
        if not 1 <= num_inference_steps <= num_train_timesteps:
            raise UserError(f"num_inference_steps {num_inference_steps}: must be from 1 to {num_train_timesteps}")
        self.prediction_type, self.variance, self.sampler, self.clip = prediction_type, variance, sampler, clip
        self.num_inference_steps, self.num_train_timesteps = num_inference_steps, num_train_timesteps
        ends = {} if schedule == "cosine" else dict(zip(("beta_start", "beta_end"), betas, strict=True))
        signal = (1 - DDPMScheduler(num_train_timesteps, schedule=schedule, **ends).betas.double()).cumprod(0)
        self.training = chain(signal)
        steps = torch.linspace(0, num_train_timesteps - 1, num_inference_steps)
        self.steps = (steps if num_inference_steps > 1 else steps + num_train_timesteps - 1).round().long()
        self.sampling = chain(signal[self.steps])

    def sample_timesteps(self, num: int, generator: torch.Generator | None = None) -> Tensor:
        """Whole timesteps [num] in 0 .. T - 1."""
        return torch.randint(0, self.num_train_timesteps, (num,), generator=generator)

    def noisy_and_target(self, latent: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The noisy image at `timesteps` [B] or [B, Z], and all that `DenoisingLoss` has to know."""
        at = at_steps(self.training, timesteps, latent)
        noisy = at["signal"] * latent + at["noise"] * noise
        return noisy, {"latent": latent, "noise": noise, "noisy": noisy, "timesteps": timesteps}

    def target(self, target: dict[str, Tensor]) -> Tensor:
        """What the network shall answer."""
        if self.prediction_type == "v_prediction":
            at = at_steps(self.training, target["timesteps"], target["latent"])
            return at["signal"] * target["noise"] - at["noise"] * target["latent"]
        return target["noise" if self.prediction_type == "epsilon" else "latent"]

    def denoised(self, answer: Tensor, noisy: Tensor, at: Chain) -> Tensor:
        """The image that an answer of the network [B, C, ...] means."""
        if self.prediction_type == "sample":
            return answer
        if self.prediction_type == "v_prediction":
            return at["signal"] * noisy - at["noise"] * answer
        return (noisy - at["noise"] * answer) / at["signal"]

    def log_variance(self, raw: Tensor | None, at: Chain) -> Tensor:
        """Of a step, from the raw channels: v log(beta) + (1 - v) log(beta~), v = (raw + 1) / 2 (eq. 15)."""
        if self.variance == "learned":
            share = (raw + 1) / 2
            return share * at["log_large"] + (1 - share) * at["log_small"]
        return at[f"log_{self.variance}"]

    def split(self, output: Tensor, channels: int) -> tuple[Tensor, Tensor | None]:
        """The answer, and the raw variance where it is learned."""
        return output[:, :channels], output[:, channels:] if self.variance == "learned" else None

    @torch.no_grad()
    def sample(self, network: Callable, noise: Tensor, generators: Sequence[torch.Generator] | None = None) -> Tensor:
        """An image from `noise` [B, C, ...]; `network(x, timesteps [B])` answers as in training.

        The noise of each step comes from the generator of each case; without any from torch's own.
        """
        latent = noise.float()
        for number in reversed(range(self.num_inference_steps)):
            latent = self.step(network, latent, number, generators)
        return latent

    def at(self, number: int, like: Tensor) -> Chain:
        """The entries of the sampling chain at a step for all cases of a tensor [B, C, ...]."""
        return at_steps(self.sampling, torch.full((len(like),), number), like)

    def step(
        self, network: Callable, latent: Tensor, number: int, generators: Sequence[torch.Generator] | None = None
    ) -> Tensor:
        """What is less noisy by the step `number` of sampling than `latent` [B, C, ...]."""
        timesteps = torch.full((len(latent),), int(self.steps[number]), device=latent.device)
        at = self.at(number, latent)
        answer, raw = self.split(network(latent, timesteps).float(), latent.shape[1])
        image = self.clip(self.denoised(answer, latent, at))
        if self.sampler == "ddim":
            direction = (latent - at["signal"] * image) / at["noise"]
            return at["signal_before"] * image + at["noise_before"] * direction
        mean = at["of_image"] * image + at["of_noisy"] * latent
        deviation = (0.5 * self.log_variance(raw, at)).exp() if number else 0.0
        return mean + deviation * noise_like(latent, generators)


def chain(signal: Tensor) -> Chain:
    """What a step of a chain needs, by its number, from the shares of signal abar [n] (Ho et al. 2020, eq. 6 and 7)."""
    before = torch.cat([signal.new_ones(1), signal[:-1]])
    beta = 1 - signal / before
    small = beta * (1 - before) / (1 - signal)
    small[0] = small[1] if len(small) > 1 else beta[0]  # it is 0, and has no logarithm
    return {
        "signal": signal.sqrt(),
        "noise": (1 - signal).sqrt(),
        "signal_before": before.sqrt(),
        "noise_before": (1 - before).sqrt(),
        "of_image": before.sqrt() * beta / (1 - signal),
        "of_noisy": (signal / before).sqrt() * (1 - before) / (1 - signal),
        "log_small": small.log(),
        "log_large": beta.log(),
    }


def at_steps(found: Chain, numbers: Tensor, like: Tensor) -> Chain:
    """The entries of a chain at its steps `numbers`, to multiply a tensor [B, C, ...] with.

    The numbers are of each case, [B], or of each of its slices along the last axis, [B, Z].
    """
    of_slices = numbers.shape[1:]
    shape = [len(numbers), *[1] * (like.ndim - 1 - len(of_slices)), *of_slices]
    return {key: value[numbers.cpu()].to(like.device, torch.float32).view(shape) for key, value in found.items()}


@dataclass(eq=False)
class DenoisingLoss:
    """The error of the network's answer; with a learned variance and its bound, by which the variance alone learns.

    Nichol & Dhariwal 2021, eq. 16, as their code has it: the mean is detached, the bound is in bits, times T / 1000.
    """

    process: GaussianDiffusion
    error: Literal["l1", "l2"] = "l2"

    def __call__(self, output: Tensor, target: dict[str, Tensor]) -> Tensor:
        wanted = self.process.target(target)
        answer, raw = self.process.split(output, wanted.shape[1])
        loss = (l1_loss if self.error == "l1" else mse_loss)(answer, wanted)
        if self.process.variance != "learned":
            return loss
        bound = variational_bound(self.process, answer.detach(), raw, target).mean()
        return loss + bound * self.process.num_train_timesteps / 1000


def variational_bound(process: GaussianDiffusion, answer: Tensor, raw: Tensor | None, target: dict) -> Tensor:
    """The term of each case [B] in bits a voxel: a divergence of Gaussians, at t = 0 the likelihood of 8-bit values."""
    noisy, latent, timesteps = target["noisy"], target["latent"], target["timesteps"]
    at = at_steps(process.training, timesteps, noisy)
    mean = at["of_image"] * process.denoised(answer, noisy, at) + at["of_noisy"] * noisy
    true_mean = at["of_image"] * latent + at["of_noisy"] * noisy
    log_variance = process.log_variance(raw, at).expand_as(mean)
    divergence = normal_divergence(true_mean, at["log_small"], mean, log_variance)
    likelihood = -binned_log_likelihood(latent, mean, log_variance)
    first = (timesteps == 0).view(-1, *[1] * (noisy.ndim - 1)).to(noisy.device)
    return torch.where(first, likelihood, divergence).flatten(1).mean(1) / math.log(2)


def normal_divergence(mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log_variance: Tensor) -> Tensor:
    """Kullback-Leibler divergence of a normal distribution from another, in nats."""
    difference = log_variance - other_log_variance
    return 0.5 * (-1 - difference + difference.exp() + (mean - other_mean) ** 2 * (-other_log_variance).exp())


def binned_log_likelihood(image: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Of 8-bit values in [-1, 1] under a normal distribution, the outermost with all beyond them."""
    scale = (-0.5 * log_variance).exp()
    above = torch.special.ndtr((image - mean + BIN) * scale)
    below = torch.special.ndtr((image - mean - BIN) * scale)
    share = torch.where(image < -0.999, above, torch.where(image > 0.999, 1 - below, above - below))
    return share.clamp_min(1e-12).log()
