"""Diffusion with a learned variance beside what its formulas say, and the networks that are guided by a label."""

from types import SimpleNamespace

import pytest
import torch
from monai.networks.nets import DiffusionModelUNet

from lldm3d.data.labels import one_hot
from lldm3d.diffusion.batches import LabelledBatch
from lldm3d.diffusion.gaussian import DenoisingLoss, GaussianDiffusion, at_steps, binned_log_likelihood
from lldm3d.diffusion.guidance import guided
from lldm3d.diffusion.networks import ConcatenatedDiffusion, DualEncoderDiffusion, label_edges
from lldm3d.errors import UserError
from lldm3d.methods.sdm import SemanticDiffusion

STD = 0.5  # of the data, a normal distribution
UNET = {"spatial_dims": 2, "channels": [8, 16], "attention_levels": [False, True], "num_res_blocks": 1}
UNET |= {"num_head_channels": 8, "norm_num_groups": 4}


def perfect(process):
    """The answers of a network that knows the data: the mean noise, and the variance of a step as a share."""

    def answer(x, timesteps):
        at = at_steps(process.training, timesteps, x)
        noise = at["noise"] * x / (at["signal"] ** 2 * STD**2 + at["noise"] ** 2)
        if process.variance != "learned":
            return noise
        number = torch.full_like(timesteps, (process.steps == timesteps[0]).nonzero().item())
        at = at_steps(process.sampling, number, x)
        left = 1 / (1 / STD**2 + at["signal"] ** 2 / at["noise"] ** 2)  # of the image, once x is known
        ideal = (at["log_small"].exp() + at["of_image"] ** 2 * left).log()
        span = (at["log_large"] - at["log_small"]).clamp_min(1e-9)
        return torch.cat([noise, (2 * (ideal - at["log_small"]) / span - 1).expand_as(noise)], 1)

    return answer


@pytest.mark.parametrize(
    "variance, expected",
    [
        ("small", {1000: 0.496, 250: 0.486, 50: 0.443}),
        ("large", {1000: 0.501, 250: 0.503, 50: 0.518}),
        ("learned", {1000: 0.500, 250: 0.500, 50: 0.500}),
    ],
)
def test_fewer_steps_draw_the_spread_that_the_formulas_say(variance, expected):
    torch.manual_seed(0)
    for steps, spread in expected.items():
        process = GaussianDiffusion(steps, variance=variance, clip=lambda image: image)
        drawn = process.sample(perfect(process), torch.randn(2, 1, 120, 120))
        assert drawn.std().item() == pytest.approx(spread, abs=0.007), steps


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_a_right_answer_means_the_image_and_costs_nothing(prediction_type):
    process = GaussianDiffusion(prediction_type=prediction_type, variance="small")
    image, noise, times = torch.rand(3, 1, 4, 4) * 2 - 1, torch.randn(3, 1, 4, 4), torch.tensor([0, 400, 900])
    noisy, target = process.noisy_and_target(image, noise, times)
    answer = process.target(target)
    assert DenoisingLoss(process)(answer, target) == 0
    torch.testing.assert_close(
        process.denoised(answer, noisy, at_steps(process.training, times, noisy)), image, atol=1e-3, rtol=0
    )


def test_the_learned_variance_goes_from_that_of_the_posterior_to_beta():
    process, x = GaussianDiffusion(), torch.zeros(4, 1, 2, 2)
    at = at_steps(process.training, torch.tensor([1, 10, 500, 999]), x)
    for raw, name in ((-1.0, "log_small"), (1.0, "log_large")):
        torch.testing.assert_close(process.log_variance(torch.full_like(x, raw), at), at[name].expand_as(x))
    middle = process.log_variance(torch.zeros_like(x), at)[0, 0, 0, 0].exp()
    betas = torch.linspace(1e-4, 0.02, 1000).double()
    small = betas[1] * betas[0] / (1 - (1 - betas[0]) * (1 - betas[1]))
    assert middle.item() == pytest.approx((betas[1] * small).sqrt().item(), rel=1e-4)  # logs are mixed, not variances


@pytest.mark.parametrize("raw", [-3.0, 3.0])
def test_answers_beyond_both_are_numbers_and_the_bound_trains_the_variance_alone(raw):
    process = GaussianDiffusion()
    image, times = torch.rand(4, 1, 8, 8) * 2 - 1, torch.tensor([0, 1, 500, 999])
    noisy, target = process.noisy_and_target(image, torch.randn_like(image), times)
    answer = process.target(target).clone().requires_grad_()
    variance = torch.full_like(image, raw, requires_grad=True)
    loss = DenoisingLoss(process)(torch.cat([answer, variance], 1), target)
    loss.backward()
    assert loss.isfinite() and variance.grad.abs().max() > 0
    assert answer.grad.abs().max() == 0  # the mean is right, and the bound, which is not 0, does not move it


def test_the_variance_that_the_bound_likes_best_is_the_ideal_one():
    torch.manual_seed(0)
    process, image = GaussianDiffusion(variance="learned"), STD * torch.randn(1, 1, 300, 300)
    _, target = process.noisy_and_target(image, torch.randn_like(image), torch.tensor([20]))
    ideal = perfect(process)(target["noisy"], torch.tensor([20]))
    losses = [
        DenoisingLoss(process)(torch.cat([ideal[:, :1], ideal[:, 1:] + shift], 1), target) for shift in (-0.5, 0, 0.5)
    ]
    assert losses[1] < losses[0] and losses[1] < losses[2]


def test_the_likelihoods_of_all_grey_values_add_up_to_one():
    values = torch.linspace(-1, 1, 256)
    shares = binned_log_likelihood(values, torch.tensor(0.9), torch.tensor(-2.0)).exp()
    assert shares.sum().item() == pytest.approx(1, abs=1e-3) and shares[-1] > 10 * shares[-2]


def test_ddim_is_not_random_and_steps_that_are_not_there_are_refused():
    process = GaussianDiffusion(50, variance="small", sampler="ddim", clip=lambda image: image)
    noise = torch.randn(1, 1, 100, 100)
    first, again = (process.sample(perfect(process), noise) for _ in range(2))
    # the deterministic recursion of Song et al. 2021, eq. 12, gives 0.4719 for these steps; 0.445 is that with eta 1
    assert torch.equal(first, again) and first.std().item() == pytest.approx(0.472 * noise.std().item(), abs=0.002)
    with pytest.raises(UserError, match="num_inference_steps 1001: must be from 1 to 1000"):
        GaussianDiffusion(1001)
    assert GaussianDiffusion(1).steps.tolist() == [999], "from noise, not from what is nearly the image"


def test_the_ends_of_the_schedule_are_those_that_are_given():
    signal = GaussianDiffusion(schedule="scaled_linear_beta", betas=(0.00085, 0.012)).training["signal"] ** 2
    assert [signal[0].item(), signal[-1].item()] == pytest.approx([0.99915, 0.00466], rel=1e-2)


def test_the_noise_of_a_case_is_that_of_its_generator():
    process = GaussianDiffusion(5, variance="small")
    noise = torch.randn(1, 1, 6, 6).expand(3, -1, -1, -1)
    drawn = process.sample(perfect(process), noise, [torch.Generator().manual_seed(seed) for seed in (1, 2, 1)])
    assert torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[1])


def test_guidance_moves_the_answer_and_leaves_the_variance():
    def network(x, timesteps, condition):
        return torch.cat([condition.mean(1, keepdim=True), 10 * condition.mean(1, keepdim=True)], 1)

    x, condition = torch.zeros(2, 1, 4, 4), torch.ones(2, 3, 4, 4)
    answer = guided(network, condition, 1.5)(x, torch.zeros(2))
    assert (answer[:, 0] == 1.5).all() and (answer[:, 1] == 10).all()


def test_a_share_of_the_labels_is_left_out_in_training_alone():
    batch = {
        "image": torch.rand(64, 1, 4, 4),
        "label": torch.ones(64, 1, 4, 4, dtype=torch.uint8),
        "index": torch.arange(64),
    }
    process = GaussianDiffusion()
    trained, held = (LabelledBatch(process, 2, 0.5, seed)(batch)[3]["condition"] for seed in (None, 0))
    assert 10 < (trained.sum((1, 2, 3)) == 0).sum() < 54 and (held.sum(1) == 1).all()


def filled(network):
    """Random weights everywhere, as the last convolutions of blocks are zero at first."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return network.eval()


def label_and_noise(size=(16, 16)):
    label = torch.zeros(2, 1, *size, dtype=torch.uint8)
    label[:, :, 4:12, 4:12], label[:, :, 6:8, 6:8] = 1, 2
    return one_hot(label, 3), torch.randn(2, 1, *size), torch.tensor([3, 700])


@pytest.mark.parametrize("guide", ["mask", "edge"])
def test_the_second_encoder_begins_as_if_it_were_not_there_and_is_heard_after_a_step(guide):
    hot, x, times = label_and_noise()
    network = DualEncoderDiffusion(3, guide, out_channels=2, **UNET)
    plain = filled(DiffusionModelUNet(in_channels=1 if guide == "mask" else 4, out_channels=2, **UNET))
    found = network.unet.load_state_dict(plain.state_dict(), strict=False)
    assert not found.missing_keys and all("downsampler" in key for key in found.unexpected_keys)
    for ours, theirs in zip(network.downsamplers, plain.down_blocks, strict=True):
        if theirs.downsampler is not None:
            ours.load_state_dict(theirs.downsampler.state_dict())
    seen = x if guide == "mask" else torch.cat([x, hot], 1)
    torch.testing.assert_close(network(x, times, hot), plain(seen, times))
    other = hot.roll(3, 2)
    if guide == "mask":
        assert torch.equal(network(x, times, hot), network(x, times, other))
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    network(x, times, hot).square().mean().backward()
    optimizer.step()
    moved = [
        layer.weight[:, layer.weight.shape[0] :].abs().max() for layer in [*network.joints_down, *network.joints_up]
    ]
    assert min(moved) > 0
    assert (network(x, times, hot) - network(x, times, other)).abs().max() > 1e-6


def test_edges_are_the_voxels_beside_another_class():
    label = torch.zeros(1, 1, 5, 5, dtype=torch.uint8)
    label[0, 0, 2, 2] = 1
    cross = torch.zeros(5, 5)
    cross[2, 1:4] = cross[1:4, 2] = 1
    assert torch.equal(label_edges(one_hot(label, 2))[0, 0], cross)
    assert label_edges(torch.zeros(1, 3, 4, 4, 4)).sum() == 0


@pytest.mark.parametrize("dims", [2, 3])
def test_the_semantic_network_answers_mean_and_variance_and_sees_label_and_time(dims):
    size = (16, 16, 8)[:dims]
    hot, x, times = label_and_noise(size)
    network = filled(SemanticDiffusion(3, dims, [8, 16], [False, True], 1, 8, 4, hidden_channels=8))
    answer = network(x, times, hot)
    assert answer.shape == (2, 2, *size)
    assert (answer - network(x, times, hot.roll(3, 2))).abs().max() > 1e-4
    assert (answer - network(x, times.flip(0), hot)).abs().max() > 1e-4
    assert network.down[0][0].label_channels == 0 < network.middle[0].label_channels


@pytest.mark.parametrize("dims", [2, 3])
def test_a_label_beside_the_voxels_is_seen_in_slices_too(dims):
    size = (16, 16, 8)[:dims]
    hot, x, times = label_and_noise(size)
    network = filled(ConcatenatedDiffusion(1, 3, out_channels=2, **{**UNET, "spatial_dims": dims}))
    answer = network(x, times, hot)
    assert answer.shape == (2, 2, *size) and (answer - network(x, times, hot.roll(3, 2))).abs().max() > 1e-4


def test_the_batch_of_a_validation_is_the_same_each_time():
    batch = {"image": torch.rand(2, 1, 4, 4), "label": torch.zeros(2, 1, 4, 4), "index": torch.tensor([3, 9])}
    prepare = LabelledBatch(GaussianDiffusion(), 2, seed=0)
    first, again = prepare(batch), prepare(batch)
    assert torch.equal(first[0], again[0]) and torch.equal(first[3]["timesteps"], again[3]["timesteps"])
    assert SimpleNamespace(**first[1]).noisy is first[0]
