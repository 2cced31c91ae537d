"""DDPM: which numbers of steps it takes, and that each of them ends at the data."""

import pytest
import torch

from lldm3d.diffusion.noise import DDPM
from lldm3d.errors import UserError

STD = 0.3  # of the data, for which the network that answers exactly is known


def exact(process: DDPM):
    """The noise that Gaussian data of this deviation hold on average."""

    def network(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        kept = process.training.alphas_cumprod[timesteps.long()].view(-1, 1, 1, 1, 1)
        return x * (1 - kept).sqrt() / (kept * STD**2 + 1 - kept)

    return network


@pytest.mark.parametrize("steps", [50, 100, 250, 1000])
def test_what_is_drawn_has_the_deviation_of_the_data(steps):
    process = DDPM(steps)
    noise = torch.randn(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    assert process.sample(exact(process), noise).std() == pytest.approx(STD, rel=0.15)
    assert process.sample(exact(process), noise, generators).std() == pytest.approx(STD, rel=0.15)


def test_ancestral_noise_is_that_of_the_case():
    process = DDPM(1000)
    noise = torch.randn(2, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    both = process.sample(exact(process), noise, [torch.Generator().manual_seed(seed) for seed in (1, 2)])
    alone = process.sample(exact(process), noise[1:], [torch.Generator().manual_seed(2)])
    torch.testing.assert_close(both[1:], alone)


def test_steps_that_would_leave_noise_are_refused_with_those_that_do_not():
    with pytest.raises(UserError, match="num_inference_steps 600: .* take 500 or 1000"):
        DDPM(600)


def test_clipping_keeps_images_in_their_range():
    process = DDPM(50, clip_sample=True)
    drawn = process.sample(lambda x, t: torch.zeros_like(x), 10 * torch.ones(1, 1, 2, 2, 2))
    assert drawn.abs().max() <= 1
