import pytest
import torch

from lldm3d.diffusion.batches import DiffusionBatch, EncodedBatch, ReconstructionBatch
from lldm3d.diffusion.noise import DDPM, RectifiedFlow
from lldm3d.training.inferers import AutocastInferer, ReconstructionInferer


@pytest.fixture
def batch():
    mean, sigma = torch.randn(4, 2, 3, 3, 3), torch.full((4, 2, 3, 3, 3), 0.5)
    label = torch.randint(0, 3, (4, 1, 12, 12, 12))
    return {
        "image_mean": mean, "image_sigma": sigma, "label_mean": mean + 9, "label_sigma": sigma,
        "label": label, "index": torch.arange(4),
    }  # fmt: skip


def test_latents_are_drawn_afresh_in_training_and_alike_in_validation(batch):
    train = DiffusionBatch(RectifiedFlow(), "image")
    assert not torch.equal(train(batch)[0], train(batch)[0])
    validate = DiffusionBatch(RectifiedFlow(), "image", seed=0)
    assert torch.equal(validate(batch)[0], validate(batch)[0])


def test_a_seed_makes_the_draws_of_a_case_its_own_whatever_its_batch(batch):
    validate = DiffusionBatch(RectifiedFlow(), "image", seed=3)
    single = {key: value[2:3] for key, value in batch.items()}
    assert torch.equal(validate(batch)[0][2:3], validate(single)[0])
    assert torch.equal(validate(batch)[3]["timesteps"][2:3], validate(single)[3]["timesteps"])


def test_encoded_cases_have_noise_and_times_of_their_own_whatever_their_batch():
    validate, images = EncodedBatch(DDPM(), lambda image: image, seed=0), torch.zeros(8, 1, 2, 2, 2)
    noise, _, _, arguments = validate({"image": images, "index": torch.arange(8)})
    assert len(set(arguments["timesteps"].tolist())) > 4
    alone, _, _, of_alone = validate({"image": images[:1], "index": torch.tensor([5])})
    assert torch.equal(alone, noise[5:6]) and torch.equal(of_alone["timesteps"], arguments["timesteps"][5:6])


def test_target_is_latent_minus_noise(batch):
    batch["image_sigma"] = torch.zeros_like(batch["image_sigma"])
    noisy, target, _, arguments = DiffusionBatch(RectifiedFlow(), "image")(batch)
    time = (arguments["timesteps"] / 1000).view(-1, 1, 1, 1, 1)
    torch.testing.assert_close(noisy + time * target, batch["image_mean"])


def test_a_latent_is_drawn_with_its_cached_deviation(batch):
    noisy, target, _, arguments = DiffusionBatch(RectifiedFlow(), "image", seed=0)(batch)
    time = (arguments["timesteps"] / 1000).view(-1, 1, 1, 1, 1)
    assert (noisy + time * target - batch["image_mean"]).std() == pytest.approx(0.5, rel=0.2)


def test_the_condition_is_the_whole_label(batch):
    condition = DiffusionBatch(RectifiedFlow(), "image", num_classes=3)(batch)[3]["condition"]
    assert condition.shape == (4, 3, 12, 12, 12)
    assert torch.equal(condition.argmax(1, keepdim=True), batch["label"])


def test_labels_are_dropped_in_training_alone(batch):
    dropped = DiffusionBatch(RectifiedFlow(), "image", num_classes=3, label_dropout=1.0)(batch)[3]["condition"]
    assert not dropped.any()
    kept = DiffusionBatch(RectifiedFlow(), "image", num_classes=3, label_dropout=1.0, seed=0)(batch)[3]["condition"]
    assert kept.any()


@pytest.mark.parametrize("condition", ["label", "label_latent"])
@pytest.mark.parametrize("seed", [None, 0])
def test_the_condition_of_a_case_without_a_label_is_zero(batch, condition, seed):
    batch["labelled"] = torch.tensor([True, False, False, True])
    prepare = DiffusionBatch(RectifiedFlow(), "image", num_classes=3, condition=condition, seed=seed)
    condition = prepare(batch)[3]["condition"]
    assert condition.flatten(1).any(1).tolist() == [True, False, False, True]


def test_the_papers_condition_is_the_label_latent(batch):
    batch["label_sigma"] = torch.zeros_like(batch["label_sigma"])
    condition = DiffusionBatch(RectifiedFlow(), "image", num_classes=3, condition="label_latent")(batch)[3]["condition"]
    torch.testing.assert_close(condition, batch["label_mean"])


def test_an_unknown_condition_is_named():
    with pytest.raises(ValueError, match="edges"):
        DiffusionBatch(RectifiedFlow(), "image", condition="edges")


def test_labels_become_one_hot_and_values_outside_are_named(batch):
    one_hot, target = ReconstructionBatch("label", num_classes=3)(batch)
    assert one_hot is target and one_hot.shape == (4, 3, 12, 12, 12)
    assert (one_hot.sum(1) == 1).all()
    with pytest.raises(ValueError, match=r"0\.\.1.*0\.\.2"):
        ReconstructionBatch("label", num_classes=2)(batch)


@pytest.mark.parametrize("able, expected", [({"avx512_bf16": True}, torch.bfloat16), ({"avx2": True}, torch.float32)])
def test_autocast_computes_in_bfloat16_where_the_cpu_has_it_and_returns_float32(able, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    seen = []

    class Network(torch.nn.Linear):
        def forward(self, x):
            seen.append(super().forward(x).dtype)
            return super().forward(x), x

        reconstruct = forward

    for inferer in (AutocastInferer("cpu"), ReconstructionInferer("cpu")):
        output, _ = inferer(torch.randn(2, 3), Network(3, 3))
        assert output.dtype == torch.float32
    assert seen == [expected] * 2
