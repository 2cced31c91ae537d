"""Masked resampling: its steps, what stays, and that what is drawn fits it."""

from itertools import pairwise

import pytest
import torch

from lldm3d.diffusion.gaussian import GaussianDiffusion, at_steps
from lldm3d.diffusion.noise import RectifiedFlow
from lldm3d.diffusion.repaint import repaint, repaint_flow, resampling_path

STD = 0.5


def process(steps: int = 20) -> GaussianDiffusion:
    return GaussianDiffusion(steps, num_train_timesteps=100, variance="small", clip=lambda image: image)


def together(found: GaussianDiffusion):
    """The answers of a network that knows the data: all voxels of an image are equal, normal with deviation STD."""

    def answer(x, timesteps):
        at, number = at_steps(found.training, timesteps, x), x[0].numel()
        mean = x.flatten(1).mean(1).view(-1, *[1] * (x.ndim - 1))
        image = at["signal"] * STD**2 * mean / (at["signal"] ** 2 * STD**2 + at["noise"] ** 2 / number)
        return (x - at["signal"] * image) / at["noise"]

    return answer


def generators(number: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(number)]


@pytest.mark.parametrize(
    ("steps", "jump", "resample", "calls"),
    [(250, 10, 10, 2410), (300, 5, 5, 1480), (300, 10, 10, 2910), (300, 2, 2, 598)],
)
def test_the_network_is_called_as_often_as_published(steps, jump, resample, calls):
    path = list(resampling_path(steps, jump, resample))
    assert sum(there < here for here, there in pairwise(path)) == calls
    assert path[0] == steps - 1 and path[-1] == -1 and all(abs(a - b) == 1 for a, b in pairwise(path))


def test_an_image_that_is_kept_stays_bit_by_bit():
    found, image = process(), torch.rand(2, 1, 4, 4) * 2 - 1
    drawn = repaint(found, together(found), torch.randn_like(image), image, torch.ones(1, dtype=torch.bool), 5, 3)
    assert torch.equal(drawn, image)
    half = torch.arange(4) < 2
    drawn = repaint(found, together(found), torch.randn_like(image), image, half, 5, 3)
    assert torch.equal(drawn[..., :2], image[..., :2])


def test_where_nothing_is_kept_it_is_plain_sampling():
    found, noise = process(), torch.randn(3, 1, 4, 4)
    plain = found.sample(together(found), noise, generators(3))
    nothing = torch.zeros(1, dtype=torch.bool)
    drawn = repaint(found, together(found), noise, torch.rand_like(noise), nothing, 5, 1, generators(3))
    assert torch.equal(drawn, plain)


def test_what_is_drawn_fits_what_is_kept_the_better_the_more_often_it_is_drawn_anew():
    """All voxels of an image of this data are equal, so that half of one tells the other half."""
    torch.manual_seed(0)
    found, value = process(), torch.linspace(-0.8, 0.8, 64).view(-1, 1, 1, 1)
    image, half = value.expand(64, 1, 4, 4), torch.arange(4) < 2
    errors = []
    for resample in (1, 8):
        drawn = repaint(found, together(found), torch.randn(64, 1, 4, 4), image, half, 4, resample)
        errors.append((drawn[..., 2:] - value).abs().mean())
    assert errors[1] < 0.7 * errors[0] and errors[1] < 0.1


def test_a_flow_keeps_what_is_kept_and_draws_the_rest():
    image, wanted, noise = (torch.rand(2, 1, 4, 4, 4) for _ in range(3))
    half = torch.arange(4).view(4, 1, 1) < 2
    process = RectifiedFlow(6, time_grid="cosine")

    def network(x, timesteps):  # the exact velocity towards one image
        return (wanted - x) / (timesteps / 1000).view(-1, 1, 1, 1, 1)

    for resample in (1, 3):
        drawn = repaint_flow(process, network, noise, image, half, resample, generators(2))
        assert torch.equal(drawn[..., :2, :, :], image[..., :2, :, :])
        torch.testing.assert_close(drawn[..., 2:, :, :], wanted[..., 2:, :, :])
    plain = repaint_flow(process, network, noise, image, torch.zeros(1, dtype=torch.bool), 1, generators(2))
    torch.testing.assert_close(plain, process.sample(network, noise))
