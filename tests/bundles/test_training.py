"""What the options of the generative stages' trainings promise, with each stage's own trainer on tiny data."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from monai.utils import set_determinism

from lldm3d.methods.conversion import convert
from lldm3d.training import inferers

from .small import workflow
from .test_processes import BY_CASE

STAGES = list(BY_CASE)
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def train(stage: str, work: Path, folder: Path, overlays: tuple[str, ...] = (), **overrides) -> tuple[dict, dict]:
    """The weights that a training in `folder` leaves, and its metrics."""
    workflow(stage, "train", work, folder, overlays, **overrides).run()
    checkpoint = torch.load(folder / ("codec.pt" if stage == "autoencoder" else "model.pt"), weights_only=True)
    weights = checkpoint["autoencoder" if stage == "autoencoder" else "model"]
    return weights, json.loads((folder / "metrics.json").read_text())


def assert_same_weights(one: dict, other: dict, **tolerance) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], msg=lambda text, name=name: f"{name}: {text}", **tolerance)


def built(*arguments, **overrides) -> ConfigWorkflow:
    """A workflow whose networks begin as in every other one, although they are built before it runs."""
    set_determinism(0)
    return workflow(*arguments, **overrides)


def gradients(stage: str, work: Path, folder: Path, overlays: tuple[str, ...] = (), **overrides) -> tuple:
    """All gradients of the first step as one vector, and the losses of four steps."""
    settings = {"epochs": 4, "epoch_length": 1, **overrides}
    flow = built(stage, "train", work, folder, overlays, **settings)
    optimizer, found = flow.parser.get_parsed_content("optimizer"), []

    def keep(*_) -> None:
        found.append(torch.cat([weight.grad.flatten() for weight in optimizer.param_groups[0]["params"]]))

    optimizer.register_step_pre_hook(keep)
    flow.run()
    return found[0], torch.tensor(json.loads((folder / "metrics.json").read_text())["loss"])


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
@pytest.mark.parametrize(
    "stage, overlays", [*((stage, ()) for stage in STAGES), ("autoencoder", ("label",)), ("label_ldm", ("ddpm",))]
)
def test_bfloat16_trains_as_float32_does(stage, overlays, device, work, tmp_path, monkeypatch):
    """Losses within 2 %, and gradients that point the same way (cosine 0.99)."""
    monkeypatch.setattr(inferers, "has_bfloat16", lambda _: True)  # a CPU without it emulates it
    # on 16 voxels the discriminator comes down to 2, where torch's bfloat16 gradients are random on a CPU
    settings = {"adversarial_weight": 0} if stage == "autoencoder" else {}
    settings["device"] = f"$torch.device('{device}')"
    exact, losses = gradients(stage, work, tmp_path / "float32", overlays, autocast=False, **settings)
    rounded, rounded_losses = gradients(stage, work, tmp_path / "bfloat16", overlays, autocast=True, **settings)
    assert not torch.equal(exact, rounded)
    assert torch.cosine_similarity(exact, rounded, dim=0) > 0.99
    torch.testing.assert_close(rounded_losses, losses, rtol=0.02, atol=0)


@pytest.mark.parametrize("stage", STAGES)
def test_two_mini_batches_of_one_are_a_step_of_two(stage, work, tmp_path):
    settings = {"epochs": 2, "epoch_length": 2, "autocast": False, **BY_CASE[stage]}
    whole, metrics = train(stage, work, tmp_path / "whole", batch_size=2, **settings)
    parts, metrics_of_parts = train(stage, work, tmp_path / "parts", batch_size=1, accumulation=2, **settings)
    assert_same_weights(whole, parts, rtol=1e-3, atol=1e-5)
    assert metrics["epoch"] == metrics_of_parts["epoch"]
    assert metrics["loss"] == pytest.approx(metrics_of_parts["loss"], rel=1e-4)


@pytest.mark.parametrize("stage", ["autoencoder", "label_ldm", "controlnet"])
def test_a_training_that_learns_nothing_stops_early_and_stays_stopped(stage, work, tmp_path):
    settings = {"epochs": 5, "patience": 2, "learning_rate": 0.0, "autocast": False}
    _, metrics = train(stage, work, tmp_path, **settings)
    assert metrics["epoch"] == [1, 2, 3]
    _, metrics = train(stage, work, tmp_path, **settings)
    assert metrics["epoch"] == [1, 2, 3]


SOURCES = {
    "autoencoder": "autoencoder_image/codec.pt",
    "label_ldm": "image_ldm/model.pt",
    "controlnet": "controlnet/model.pt",
}


@pytest.mark.parametrize("stage, source", SOURCES.items())
def test_a_training_begins_from_the_given_weights(stage, source, work, tmp_path):
    # not in bfloat16, whose gradients of latents of two voxels torch 2.13 leaves to chance: now and then NaN
    weights, _ = train(stage, work, tmp_path, init_path=str(work / source), learning_rate=0.0, autocast=False)
    given = torch.load(work / source, weights_only=True)
    assert_same_weights(given["autoencoder" if stage == "autoencoder" else "model"], weights, rtol=0, atol=0)


@pytest.mark.slow
def test_a_training_begins_from_converted_weights(work, tmp_path, capsys):
    nets = pytest.importorskip("generative.networks.nets", reason="monai-generative is of the extra [generative]")
    settings = {"spatial_dims": 3, "in_channels": 2, "out_channels": 2, "num_channels": [8, 16], "num_res_blocks": 1}
    settings |= {"attention_levels": [False, True], "num_head_channels": 8, "norm_num_groups": 8}
    original = nets.DiffusionModelUNet(**settings)
    for parameter in original.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    torch.save(original.state_dict(), tmp_path / "theirs.pt")
    (tmp_path / "theirs.json").write_text(json.dumps({"_target_": "generative.DiffusionModelUNet", **settings}))
    convert(str(tmp_path / "theirs.pt"), str(tmp_path / "theirs.json"), str(tmp_path / "ours"))
    section = yaml.safe_load(capsys.readouterr().out.split("\n", 1)[1])
    weights, _ = train("image_ldm", work, tmp_path / "trained", **section, learning_rate=0.0)
    given = torch.load(tmp_path / "ours/model.pt", weights_only=True)["model"]
    assert_same_weights(given, weights, rtol=0, atol=0)
    assert torch.equal(weights["conv_in.conv.weight"], original.conv_in.conv.weight)


@pytest.mark.parametrize("stage", ["label_ldm", "controlnet"])
def test_the_average_of_a_killed_training_is_that_of_one_that_was_not(stage, work, tmp_path):
    settings = {"epochs": 4, "epoch_length": 3}
    whole, metrics = train(stage, work, tmp_path / "whole", **settings)
    flow = built(stage, "train", work, tmp_path / "killed", **settings)

    def kill(engine) -> None:
        raise KeyboardInterrupt

    flow.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=8), kill)  # in the middle of the third epoch
    with pytest.raises(KeyboardInterrupt):
        flow.run()
    resumed, metrics_of_resumed = train(stage, work, tmp_path / "killed", **settings)
    assert_same_weights(whole, resumed, rtol=0, atol=0)
    del metrics["seconds"], metrics_of_resumed["seconds"]
    assert metrics == metrics_of_resumed


@pytest.mark.parametrize("overlays", [(), ("label",)], ids=["image", "label"])
def test_the_last_epochs_of_an_autoencoder_see_whole_volumes(overlays, work, tmp_path):
    settings = {"epochs": 3, "whole_epochs": 1, "epoch_length": 1, "roi_size": [12, 12, 12], "autocast": False}
    flow, sizes = workflow("autoencoder", "train", work, tmp_path, overlays, **settings), []
    flow.trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: sizes.append(list(engine.state.output["image"].shape[2:]))
    )
    flow.run()
    assert sizes == [[12, 12, 12], [12, 12, 12], [16, 16, 16]]


@pytest.mark.parametrize("stage", STAGES)
def test_activations_that_are_not_kept_change_no_gradient(stage, work, tmp_path):
    kept, losses = gradients(stage, work, tmp_path / "kept", autocast=False)
    settings = {"autocast": False, "activation_checkpointing": True}
    again, losses_again = gradients(stage, work, tmp_path / "again", **settings)
    torch.testing.assert_close(again, kept, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(losses_again, losses, rtol=1e-4, atol=0)
