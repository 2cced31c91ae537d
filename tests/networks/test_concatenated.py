import pytest
import torch

from lldm3d.diffusion.networks import ConcatenatedDiffusion

SIZES = {"spatial_dims": 3, "channels": [8], "attention_levels": [False], "num_res_blocks": 1, "norm_num_groups": 4}


@pytest.mark.parametrize("time", [0.0, 0.3, 0.5, 1.0])
def test_a_preconditioned_network_begins_with_the_best_linear_answer(time):
    """Of many pairs of data and noise with variance 1, the regression of the velocity on what is seen at that time."""
    network = ConcatenatedDiffusion(2, 3, 2, preconditioned=True, **SIZES).eval()
    generator = torch.Generator().manual_seed(0)
    latent, noise = (torch.randn(4, 2, 8, 8, 8, generator=generator) for _ in range(2))
    seen, velocity = (1 - time) * latent + time * noise, latent - noise
    with torch.no_grad():
        found = network(seen, torch.full((4,), 1000 * time), torch.zeros(4, 3, 16, 16, 16))
    slope = (velocity * seen).sum() / (seen * seen).sum()
    assert torch.allclose(found, slope * seen, atol=0.2)
    left = ((velocity - found) ** 2).mean()
    assert left == pytest.approx(1 / ((1 - time) ** 2 + time**2), rel=0.05), "which the network's scale of answer is"
