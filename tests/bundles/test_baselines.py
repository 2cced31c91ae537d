"""What a user of the baselines would notice: they learn, go on where they stopped, and draw the same case anywhere."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.networks.nets import VQVAE

from lldm3d.bundle import bundle_path
from lldm3d.codec.training import DEAD, revive
from lldm3d.errors import UserError
from lldm3d.files import load_checkpoint, save_checkpoint
from lldm3d.methods.ha_gan import Encoder, Generator
from lldm3d.training.state import TrainingState

from .small import BASELINES

CONFIGS = {"gan": "train", "diffusion": "train", "autoencoder": "train_autoencoder"}
TRAININGS = [(bundle, training) for bundle, found in BASELINES.items() for training in found]


def config(bundle: str, name: str, work: Path, dataset: Path, **ids: object) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(str(bundle_path(bundle) / f"configs/{name}.yaml"))
    common = {"dataset_dir": str(dataset), "method_dir": str(work), "device": torch.device("cpu"), "roi_size": [16] * 3}
    parser.update({**common, **ids})
    return parser


def train(bundle: str, training: str, work: Path, dataset: Path, **ids: object) -> tuple[dict, dict]:
    """The weights and curves that a training of 2 epochs of 3 steps leaves, unless `ids` say others."""
    length = {"epochs": 2, "epoch_length": 3, "val_interval": 1, "batch_size": 2, "learning_rate": 0.002}
    cache = {f"{split}#dataset#cache_dir": str(work / "cache") for split in ("train", "validate")}
    parser = config(
        bundle, CONFIGS[training], work, dataset, **{**length, **cache, **BASELINES[bundle][training], **ids}
    )
    parser.get_parsed_content("training")
    folder = Path(parser.get_parsed_content("output_dir"))
    return load_checkpoint(folder / "model.pt", training)["model"], json.loads((folder / "metrics.json").read_text())


@pytest.fixture(scope="session")
def works(work) -> dict[str, Path]:
    """The folder of each baseline, with all of its trainings in it."""
    return {bundle: work / bundle for bundle in BASELINES}


def draw(bundle: str, work: Path, dataset: Path, output: Path, **ids: object) -> list[np.ndarray]:
    """The images of three cases."""
    steps = {} if bundle.endswith("ha_gan") else {"num_inference_steps": 3}
    parser = config(bundle, "inference", work, dataset, output_dir=str(output), num_cases=3, **{**steps, **ids})
    parser.get_parsed_content("inferring")
    return [nib.load(path).get_fdata() for path in sorted(output.glob("imagesTr/*.nii.gz"))]


class Killed(Exception):
    pass


@contextmanager
def killed_in_the_second_epoch() -> Iterator[None]:
    """A training of the block is killed when its second epoch begins."""
    start_epoch = TrainingState.start_epoch

    def kill(self, engine) -> None:
        if engine.state.epoch == 2:
            raise Killed
        start_epoch(self, engine)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Exception, match="Killed|evaluate"):
        patch.setattr(TrainingState, "start_epoch", kill)
        yield


@pytest.mark.parametrize("bundle, training", TRAININGS)
def test_a_killed_training_ends_with_the_weights_of_one_that_was_not(bundle, training, works, tiny_dataset, tmp_path):
    whole, curves = train(bundle, training, works[bundle], tiny_dataset, output_dir=str(tmp_path / "whole"))
    with killed_in_the_second_epoch():
        train(bundle, training, works[bundle], tiny_dataset, output_dir=str(tmp_path / "parts"))
    assert (tmp_path / "parts/state.pt").is_file()
    resumed, again = train(bundle, training, works[bundle], tiny_dataset, output_dir=str(tmp_path / "parts"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert again["loss"] == curves["loss"]


@pytest.mark.parametrize("bundle", BASELINES)
def test_a_case_is_the_same_in_any_batch_and_cases_differ(bundle, works, tiny_dataset, tmp_path):
    alone = draw(bundle, works[bundle], tiny_dataset, tmp_path / "one", batch_size=1, autocast=False)
    together = draw(bundle, works[bundle], tiny_dataset, tmp_path / "three", batch_size=3, autocast=False)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3)
    assert np.abs(alone[0] - alone[1]).max() > 1e-3
    assert alone[0].shape == (16, 16, 16) and 0 <= alone[0].min() and alone[0].max() <= 1
    cost = json.loads((tmp_path / "one/cost.json").read_text())
    assert cost["volumes"] == 3 and cost["parameters"] > 1000


def test_ancestral_sampling_is_chosen_by_the_number_of_steps(works, tiny_dataset, tmp_path):
    """All steps of the training add noise of the case; a resumed call draws it again."""
    common = {"batch_size": 3, "autocast": False, "noise_scheduler#num_train_timesteps": 3}
    first = draw("baselines/ddpm", works["baselines/ddpm"], tiny_dataset, tmp_path / "a", **common)
    (tmp_path / "a/imagesTr/synthetic_00001.nii.gz").unlink()
    again = draw("baselines/ddpm", works["baselines/ddpm"], tiny_dataset, tmp_path / "a", **{**common, "batch_size": 1})
    np.testing.assert_allclose(first[1], again[1], atol=2e-3)


def test_what_ddpm_learnt_to_answer_is_what_it_is_drawn_by(tiny_dataset, tmp_path):
    train("baselines/ddpm", "diffusion", tmp_path, tiny_dataset, prediction_type="v_prediction")
    parser = config("baselines/ddpm", "inference", tmp_path, tiny_dataset, num_inference_steps=50)
    assert parser.get_parsed_content("noise_scheduler").prediction_type == "v_prediction"


@pytest.mark.parametrize("bundle, training", TRAININGS)
def test_it_learns(bundle, training, works, tiny_dataset, tmp_path):
    """On held-out cases, within 60 steps."""
    measure = {"gan": "val_l1", "autoencoder": "val_psnr", "diffusion": "val_loss"}[training]
    ids = {"output_dir": str(tmp_path), "epoch_length": 30, "autocast": False, "ema_momentum": 0.1}
    if training == "diffusion":
        ids["learning_rate"] = 0.0005  # by the default one of `ldm_vae`, 2e-5, 60 steps change too little to tell
    content = config(bundle, CONFIGS[training], works[bundle], tiny_dataset)
    _, curves = train(bundle, training, works[bundle], tiny_dataset, **{k: v for k, v in ids.items() if k in content})
    first, last = curves[measure]
    assert last > first if measure == "val_psnr" else last < first


# what does not fit volumes of 16x16x16 voxels, and what is told
MISFITS = [
    ("ddpm", "diffusion", {"channels": [32] * 6}, "multiples of 32.*channels fewer"),
    ("ddpm", "diffusion", {"roi_size": [32, 16, 16]}, r"\[16, 16, 16\] voxels; give that roi_size"),
    ("ldm_vae", "diffusion", {"channels": [32] * 5}, "multiples of 32.*channels fewer"),
    ("ldm_vqvae", "diffusion", {"channels": [32] * 5}, "multiples of 32"),
    ("ldm_vqvae", "autoencoder", {"channels": [4] * 5}, "roi_size.*multiples of 32.*channels fewer"),
    ("ldm_vae", "autoencoder", {"crop_size": [16, 15, 16]}, "crop_size.*multiples of 2, got .15.; give another"),
    ("ldm_vae", "autoencoder", {"discriminator_layers": 3}, "at least 24 voxels.*lower discriminator_layers"),
    (
        "ha_gan",
        "gan",
        {"discriminator_channels": {"high": [4], "low": [4] * 3}},
        "least 32 .*discriminator_channels#low",
    ),
    ("ha_gan", "gan", {"discriminator_channels": {"high": [4] * 4, "low": [4]}}, "slab .*least 16 .*channels#high"),
    ("ha_gan", "gan", {"slab": 6}, "slab .*multiples of 4"),
]


@pytest.mark.parametrize("bundle, training, ids, message", MISFITS)
def test_sizes_that_do_not_fit_are_refused_before_data_are_read(
    bundle, training, ids, message, works, tiny_dataset, tmp_path
):
    bundle = f"baselines/{bundle}"
    ids = {**ids, "output_dir": str(tmp_path / "out"), "train#dataset#cache_dir": str(tmp_path / "cache")}
    with pytest.raises(RuntimeError) as raised:
        train(bundle, training, works[bundle], tiny_dataset, **ids)
    assert re.search(message, str(cause(raised.value)))
    assert not list(tmp_path.iterdir())


def test_ha_gan_takes_multiples_of_16_and_says_so():
    for size in ([32, 48, 32], [160, 160, 64]):
        assert Generator(size, latent_size=4, channels=4, groups=1).grid == [length // 16 for length in size]
    with pytest.raises(UserError, match=r"multiples of 16, got \[40\]; .* \[48, 32, 16\]"):
        Generator([40, 32, 16])


def test_ha_gan_learns_of_a_slab_as_it_draws_the_whole():
    """The high resolution of a slab of the features is that of the whole volume, away from the cuts."""
    torch.manual_seed(0)
    generator = Generator([64, 16, 16], latent_size=4, channels=8, groups=1).eval()
    for module in generator.modules():  # a slab has other statistics
        if isinstance(module, torch.nn.GroupNorm):
            module.forward = lambda volume: volume
    features = generator.features(torch.randn(1, 4))
    whole, slab = generator.high(features), generator.high(features[:, :, 4:12])
    torch.testing.assert_close(slab[:, :, 8:-8], whole[:, :, 24:40])


def test_ha_gan_encodes_slab_after_slab_without_keeping_activations():
    encoder = Encoder([64, 16, 16], latent_size=4, channels=8, groups=1)
    features = encoder.features(torch.rand(2, 1, 64, 16, 16), 16)
    assert features.shape == (2, 8, 16, 4, 4) and not features.requires_grad
    assert encoder.whole(features).shape == (2, 4)


def test_dead_codes_are_put_where_encodings_lie():
    network = VQVAE(3, 1, 1, (4,), 1, (4,), ((2, 4, 1, 1),), ((2, 4, 1, 1, 0),), num_embeddings=8, embedding_dim=2)
    quantizer, encoded = network.quantizer.quantizer, torch.full((5, 2), 7.0)
    quantizer.ema_cluster_size[:3] = 10 * DEAD
    before = quantizer.embedding.weight.clone()
    revive(quantizer, quantizer.ema_cluster_size < DEAD, encoded)
    assert torch.equal(quantizer.embedding.weight[:3], before[:3]) and (quantizer.embedding.weight[3:] == 7).all()
    assert (quantizer.ema_cluster_size >= DEAD).all()


def test_codes_that_were_never_used_do_not_set_the_scale(tiny_dataset, tmp_path):
    """An epoch alone revives none; MONAI's moving average has then thrown them far out."""
    train("baselines/ldm_vqvae", "autoencoder", tmp_path, tiny_dataset, epochs=1, num_embeddings=64)
    parser = config("baselines/ldm_vqvae", "train", tmp_path, tiny_dataset)
    codes = parser.get_parsed_content("autoencoder").quantizer.quantizer.embedding.weight
    assert codes.abs().max() > 1000
    assert -10 < parser.get_parsed_content("low") < parser.get_parsed_content("high") < 10


def test_the_use_of_the_codebook_is_logged(works, tiny_dataset, tmp_path):
    ids = {"output_dir": str(tmp_path)}
    _, curves = train("baselines/ldm_vqvae", "autoencoder", works["baselines/ldm_vqvae"], tiny_dataset, **ids)
    assert len(curves["codebook_usage"]) == len(curves["perplexity"]) == 2
    assert 0 < curves["codebook_usage"][-1] <= 1 <= curves["perplexity"][-1] <= 16


def test_the_scale_of_the_training_travels_and_decodes(works, tiny_dataset):
    work = works["baselines/ldm_vae"]
    checkpoint = load_checkpoint(work / "diffusion/model.pt", "diffusion")
    parser = config("baselines/ldm_vae", "inference", work, tiny_dataset, output_dir=str(work / "drawn"))
    latent = torch.randn(1, 2, 8, 8, 8)
    autoencoder = parser.get_parsed_content("autoencoder")
    expected = autoencoder.decode(latent / checkpoint["scale_factor"])
    torch.testing.assert_close(parser.get_parsed_content("draw").decode(latent), expected)
    assert checkpoint["scale_factor"] != 1


@pytest.mark.parametrize("bundle", ["baselines/ldm_vae", "baselines/ldm_vqvae"])
def test_a_diffusion_draws_and_goes_on_with_its_own_autoencoder_alone(bundle, works, tiny_dataset, tmp_path):
    shutil.copytree(works[bundle], tmp_path / "work")
    path = tmp_path / "work/autoencoder/model.pt"
    other = load_checkpoint(path, "autoencoder")
    next(iter(other["model"].values())).add_(0.1)
    save_checkpoint(path, other)
    with pytest.raises(RuntimeError) as drawing:
        draw(bundle, tmp_path / "work", tiny_dataset, tmp_path / "drawn")
    assert re.search("diffusion/model.pt: .* another autoencoder.*train it again", str(cause(drawing.value)))
    with pytest.raises(RuntimeError) as training:
        train(bundle, "diffusion", tmp_path / "work", tiny_dataset, epochs=3)
    assert re.search("state.pt: .* another autoencoder.*; delete it", str(cause(training.value)))


def cause(error: BaseException) -> UserError:
    """The user's mistake that lies beneath what MONAI raises."""
    while not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error
