import pytest
import torch

from lldm3d.diffusion.guidance import guided
from lldm3d.diffusion.noise import DDPM, RectifiedFlow


@pytest.mark.parametrize("steps", [1, 3, 20, 30, 1000])
def test_step_sizes_sum_to_one(steps):
    sizes = -RectifiedFlow(steps).times().diff()
    assert sizes.dtype == torch.float32
    assert float(sizes.double().sum()) == pytest.approx(1, abs=1e-6)
    assert (sizes > 0).all()


def test_noise_joins_the_latent():
    latent, noise = torch.randn(2, 3, 4, 4, 4), torch.randn(2, 3, 4, 4, 4)
    flow = RectifiedFlow()
    clean, velocity = flow.noisy_and_target(latent, noise, torch.tensor([0.0, 0.0]))
    torch.testing.assert_close(clean, latent)
    pure, _ = flow.noisy_and_target(latent, noise, torch.tensor([1000.0, 1000.0]))
    torch.testing.assert_close(pure, noise)
    torch.testing.assert_close(noise + velocity, latent)  # one step of size 1 along the velocity


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_sampling_with_the_true_velocity_gives_the_latent(solver):
    latent, noise = torch.randn(2, 3, 4, 4, 4), torch.randn(2, 3, 4, 4, 4)
    sampled = RectifiedFlow(7, solver).sample(lambda x, t: latent - noise, noise)
    torch.testing.assert_close(sampled, latent, atol=1e-5, rtol=1e-5)


def test_heun_is_more_exact_than_euler_on_a_curved_flow():
    def network(x, timesteps):  # dx/ds = x with s = 1 - t: the exact end is e times the noise
        return x

    noise = torch.ones(1, 1, 2, 2, 2)
    errors = {s: float((RectifiedFlow(8, s).sample(network, noise) - torch.e).abs().max()) for s in ("euler", "heun")}
    assert errors["heun"] < errors["euler"] / 5


def test_sampling_learns_a_gaussian():
    """The exact velocity of N(3, 0.5²) turns noise into that Gaussian."""
    mean, std = 3.0, 0.5

    def network(x, timesteps):
        t = (timesteps / 1000).view(-1, 1, 1, 1, 1)
        variance = (1 - t) ** 2 * std**2 + t**2
        residual = x - (1 - t) * mean
        latent = mean + (1 - t) * std**2 / variance * residual
        noise = t / variance * residual
        return latent - noise

    noise = torch.randn(64, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    sampled = RectifiedFlow(50).sample(network, noise)
    assert float(sampled.mean()) == pytest.approx(mean, abs=0.03)
    assert float(sampled.std()) == pytest.approx(std, rel=0.05)


def gaussian_velocity(x, t, of_data):
    """The exact velocity at `t` where data are Gaussian with mean 0 and this variance."""
    return ((1 - t) * of_data - t) / ((1 - t) ** 2 * of_data + t**2) * x


@pytest.mark.parametrize("variance", [0.05, 0.3, 1.0, 3.0, 10.0])
def test_few_steps_of_heun_on_a_cosine_grid_keep_what_varies(variance):
    """16 calls of the network; by Euler's steps 8 to 14 % of the standard deviation go, and with it texture."""

    def drawn(*arguments, **options):
        flow = RectifiedFlow(*arguments, **options)
        sampled = flow.sample(
            lambda x, times: gaussian_velocity(x, times[0] / 1000, variance), torch.ones(1, 1, 1, 1, 1)
        )
        return float(sampled) / variance**0.5

    assert drawn(8, "heun", time_grid="cosine") == pytest.approx(1, abs=0.05)
    assert drawn(16) < 0.93


def test_timesteps_of_a_batch_cover_the_path():
    timesteps = RectifiedFlow().sample_timesteps(10, torch.Generator().manual_seed(0))
    assert sorted((timesteps // 100).int().tolist()) == list(range(10))


def test_logit_normal_times_lie_in_the_middle_and_still_cover_the_path():
    """Their logits are those of a normal distribution (Esser et al. 2024)."""
    times = RectifiedFlow(times="logit_normal").sample_timesteps(4096, torch.Generator().manual_seed(0)) / 1000
    logits = torch.logit(times.double())
    assert float(logits.mean()) == pytest.approx(0, abs=0.02) and float(logits.std()) == pytest.approx(1, abs=0.02)
    batch = RectifiedFlow(times="logit_normal").sample_timesteps(4).sort().values / 1000
    quarters = torch.sigmoid(torch.tensor([-0.6745, 0.0, 0.6745]))
    assert torch.equal(torch.bucketize(batch, quarters), torch.arange(4)), "one of each quarter"


def test_a_time_shift_takes_shorter_steps_near_the_noise():
    plain, shifted = RectifiedFlow(8).times(), RectifiedFlow(8, time_shift=3).times()
    assert shifted[0] == 1 and shifted[-1] == 0
    assert shifted[4] == pytest.approx(0.75)  # 3 · 0.5 / (1 + 2 · 0.5)
    assert -shifted.diff()[0] < -plain.diff()[0] < -shifted.diff()[-1]
    latent, noise = torch.randn(1, 2, 4, 4, 4), torch.randn(1, 2, 4, 4, 4)
    sampled = RectifiedFlow(8, "heun", 3).sample(lambda x, t: latent - noise, noise)
    torch.testing.assert_close(sampled, latent, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "arguments",
    [{"solver": "rk4"}, {"num_inference_steps": 0}, {"time_shift": 0}, {"time_grid": "log"}],
)
def test_bad_arguments_are_named(arguments):
    with pytest.raises(ValueError, match=str(next(iter(arguments.values())))):
        RectifiedFlow(**arguments)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_ddim_with_the_true_answer_gives_the_latent(prediction_type):
    """A network that knows the latent (beyond [-1, 1], so nothing may be clipped) leads DDIM back to it."""
    process = DDPM(20, prediction_type=prediction_type)
    latent = 3 * torch.randn(1, 2, 4, 4, 4)

    def network(x, timesteps):
        alpha = process.training.alphas_cumprod[timesteps.long()].view(-1, 1, 1, 1, 1)
        noise = (x - alpha.sqrt() * latent) / (1 - alpha).sqrt()
        return noise if prediction_type == "epsilon" else alpha.sqrt() * noise - (1 - alpha).sqrt() * latent

    sampled = process.sample(network, torch.randn(latent.shape))
    torch.testing.assert_close(sampled, latent, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("process", [RectifiedFlow(2), DDPM(20)], ids=lambda process: process.name)
def test_processes_are_called_alike_and_need_no_generator_where_nothing_is_random(process):
    noise, generators = torch.randn(2, 1, 4, 4, 4), [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    drawn = process.sample(lambda x, t: 0.1 * x, noise, generators)
    torch.testing.assert_close(drawn, process.sample(lambda x, t: 0.1 * x, noise))


def test_ddpm_adds_noise():
    process, latent, noise = DDPM(), torch.randn(1, 2, 4, 4, 4), torch.randn(1, 2, 4, 4, 4)
    noisy, target = process.noisy_and_target(latent, noise, torch.tensor([999]))
    torch.testing.assert_close(target, noise)
    assert torch.corrcoef(torch.stack([noisy.flatten(), noise.flatten()]))[0, 1] > 0.99


def test_guidance_moves_away_from_the_unconditional_answer():
    def network(x, timesteps, condition):
        return condition.mean((1, 2, 3, 4), keepdim=True).expand_as(x)

    x, condition = torch.zeros(2, 1, 2, 2, 2), torch.ones(2, 3, 2, 2, 2)
    timesteps = torch.zeros(2)
    assert float(guided(network, condition, 1)(x, timesteps).mean()) == 1
    assert float(guided(network, condition, 2.5)(x, timesteps).mean()) == 2.5
