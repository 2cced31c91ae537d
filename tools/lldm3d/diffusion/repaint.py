"""Masked resampling: a part of an image is drawn so that it fits the rest, which stays.

Lugmayr et al. 2022, *RePaint*, arXiv:2201.09865.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from lldm3d.diffusion.gaussian import GaussianDiffusion
from lldm3d.diffusion.noise import RectifiedFlow, noise_like


def resampling_path(steps: int, jump: int, resample: int) -> Iterator[int]:
    """The numbers of the sampling steps at which the image is one after the other; -1 is the image without noise.

    At each `jump`-th step it goes back up by `jump` steps, `resample` - 1 times.
    """
    left = dict.fromkeys(range(0, steps - jump, jump), resample - 1)
    number = steps
    while number >= 1:
        number -= 1
        yield number
        if left.get(number, 0):
            left[number] -= 1
            yield from range(number + 1, number + jump + 1)
            number += jump
    yield -1


@torch.no_grad()
def repaint(
    process: GaussianDiffusion,
    network: Callable,
    noise: Tensor,
    image: Tensor,
    kept: Tensor,
    jump: int = 10,
    resample: int = 10,
    generators: Sequence[torch.Generator] | None = None,
) -> Tensor:
    """Draw what of an image [B, C, ...] is not `kept` (bool, broadcast to it), from `noise` like it.

    After each step the kept part is the image at the noise that the rest then has: the paper's line (eq. 8a) lacks a
    root and is off by one. After the last one it is the image itself, bit by bit.

    Args:
        network: called with (x, timesteps [B]).
        jump, resample: see `resampling_path`; 1 for resample goes straight.
        generators: of each case, for the steps; the noise of what is kept has its own that follow from their seeds, so
            that where nothing is kept this is plain sampling.
    """
    latent = noise.float()
    beside = [torch.Generator(item.device).manual_seed(item.initial_seed() ^ 1) for item in generators or ()] or None
    for here, there in pairwise(resampling_path(process.num_inference_steps, jump, resample)):
        if there > here:
            at = process.at(there, latent)
            share = at["signal"] / at["signal_before"]
            latent = share * latent + (1 - share**2).sqrt() * noise_like(latent, generators)
        else:
            at, latent = process.at(here, latent), process.step(network, latent, here, generators)
            known = at["signal_before"] * image + at["noise_before"] * noise_like(image, beside)
            latent = torch.where(kept, known if there >= 0 else image, latent)
    return latent


@torch.no_grad()
def repaint_flow(
    process: RectifiedFlow,
    network: Callable,
    noise: Tensor,
    image: Tensor,
    kept: Tensor,
    resample: int = 2,
    generators: Sequence[torch.Generator] | None = None,
) -> Tensor:
    """As `repaint`, along a rectified flow by Euler's steps, each drawn `resample` times from where it began.

    What is at time s goes back up to t by a = (1 - t) / (1 - s) times itself and √(t² - a² s²) times new noise.
    """
    latent, times = noise.float(), process.times().tolist()
    for start, end in pairwise(times):
        for again in range(resample):
            if again:
                share = (1 - start) / (1 - end)
                fresh = (start**2 - (share * end) ** 2) ** 0.5
                latent = share * latent + fresh * noise_like(latent, generators)
            latent = latent + (start - end) * process.velocity(network, latent, start)
            known = (1 - end) * image + end * noise_like(image, generators)
            latent = torch.where(kept, known, latent)
            if end == 0:
                break  # from the image itself nothing leads back
    return latent
