import pytest
import torch

from lldm3d.diffusion.networks import ConcatenatedDiffusion, LabelDiffusion

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


def test_a_preconditioned_label_network_begins_with_that_of_each_channel_s_own_deviation():
    """In a channel that hardly varies nearly all that is seen is noise, which the velocity takes away."""
    network = LabelDiffusion(preconditioned=True, in_channels=2, out_channels=2, **SIZES).eval()
    generator, time = torch.Generator().manual_seed(0), 0.6
    deviations = torch.tensor([1.0, 0.05]).view(2, 1, 1, 1)
    latent, noise = (torch.randn(4, 2, 8, 8, 8, generator=generator) for _ in range(2))
    latent = latent * deviations
    network.measure([{"label_mean": case} for case in latent], "label")
    torch.testing.assert_close(network.deviation, deviations.flatten(), rtol=0.05, atol=0)
    seen, wanted = (1 - time) * latent + time * noise, latent - noise
    with torch.no_grad():
        found = network(seen, torch.full((4,), 1000 * time))
    left = ((wanted - found) ** 2).mean((0, 2, 3, 4))
    exact = deviations.flatten() ** 2 / ((1 - time) ** 2 * deviations.flatten() ** 2 + time**2)
    torch.testing.assert_close(left, exact, rtol=0.05, atol=0)
    again = LabelDiffusion(preconditioned=True, in_channels=2, out_channels=2, **SIZES).eval()
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(seen, torch.full((4,), 1000 * time)), found), "the deviations lie with the weights"


def test_a_label_network_begins_as_if_it_were_told_no_sizes_and_then_follows_them():
    network = LabelDiffusion(sizes=2, in_channels=2, out_channels=2, **SIZES).eval()
    told = torch.tensor([[4.0, 10.0], [6.0, 30.0]])
    network.measure([{"label_mean": torch.randn(2, 8, 8, 8), "sizes": row} for row in told], "label")
    torch.testing.assert_close(network.usual_size, torch.tensor([5.0, 20.0]))
    torch.testing.assert_close(network.size_deviation, torch.tensor([1.0, 10.0]))
    seen, time = torch.randn(1, 2, 8, 8, 8).expand(2, -1, -1, -1, -1), torch.full((2,), 500.0)
    assert not network.class_embedding[-1].weight.any() and not network.class_embedding[-1].bias.any()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.1)
        small, large = network(seen, time, told)
    assert not torch.allclose(small, large)
