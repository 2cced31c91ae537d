import shutil
from functools import partial

import numpy as np
import pytest
import torch
from monai.networks.nets import AutoencoderKL

from lldm3d.cli import call_command
from lldm3d.codec.codec import load_codec, save_codec
from lldm3d.codec.latents import LatentDataset, encode, read_case
from lldm3d.data.dataset import load_cases, load_schema
from lldm3d.errors import UserError
from lldm3d.files import read_json, sha256, write_json

NAMES = ["background", "liver", "portal vein"]  # of tiny_dataset


@pytest.fixture(scope="module")
def codecs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("codecs")
    torch.manual_seed(0)
    for kind, channels in (("image", 1), ("label", 3)):
        build = partial(
            AutoencoderKL, spatial_dims=3, in_channels=channels, out_channels=channels, channels=(8, 8),
            num_res_blocks=1, attention_levels=(False, False), latent_channels=2, norm_num_groups=4,
            with_encoder_nonlocal_attn=False, with_decoder_nonlocal_attn=False,
        )  # fmt: skip
        volume = torch.rand(1, 1, 16, 16, 16) if kind == "image" else torch.randint(0, 3, (1, 1, 16, 16, 16))
        save_codec(str(folder / f"{kind}.pt"), build(), build, kind, NAMES, [volume], "cpu")
    return str(folder / "image.pt"), str(folder / "label.pt")


@pytest.fixture(scope="module")
def latents(tiny_dataset, codecs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("work") / "latents"
    encode(str(tiny_dataset), codecs[0], str(folder), codecs[1], views=2)
    return folder


def test_every_case_has_mean_sigma_and_its_whole_label(latents):
    item = LatentDataset(str(latents), "test")[1]
    assert item["image_mean"].shape == item["label_sigma"].shape == (2, 8, 8, 8)
    assert item["label"].shape == (1, 16, 16, 16) and item["label"].dtype == torch.uint8
    assert (item["image_sigma"] > 0).all() and item["index"] == 1


def test_latents_are_those_of_the_case(latents, tiny_dataset, codecs):
    case, schema = load_cases(str(tiny_dataset), "test")[1], load_schema(tiny_dataset)
    mean, sigma = load_codec(codecs[0], "image").encode(read_case(case, schema)["image"][None])
    item = LatentDataset(str(latents), "test")[1]
    assert torch.equal(item["image_mean"], mean[0]) and torch.equal(item["image_sigma"], sigma[0])
    assert torch.equal(item["label"], read_case(case, schema)["label"].to(torch.uint8))


def test_nothing_is_read_that_is_not_asked_for(latents):
    """Without the labels at full size, a label LDM's entry is 16 times smaller here; files are mapped, not loaded."""
    data = LatentDataset(str(latents), "training", ["label_mean", "label_sigma"])
    assert set(data[0]) == {"label_mean", "label_sigma", "index"}
    assert all(isinstance(array, np.memmap) for array in data.arrays.values())


def test_an_item_can_be_changed_and_the_file_stays(latents):
    data = LatentDataset(str(latents), "training")
    before = data[0]["label_mean"].clone()
    data[0]["label_mean"].zero_()
    assert torch.equal(LatentDataset(str(latents), "training")[0]["label_mean"], before)


def test_latents_of_an_earlier_version_are_told_from_missing_ones(latents, tmp_path):
    (tmp_path / "training").mkdir()
    (tmp_path / "training/case_00_0.pt").touch()
    shutil.copy(latents / "latents.json", tmp_path)
    with pytest.raises(UserError, match=r"earlier version.*lldm3d encode.*delete .*latents\.json"):
        LatentDataset(str(tmp_path), "training")


def test_views_are_of_training_cases_alone_and_differ(latents):
    training = LatentDataset(str(latents), "training")
    assert len(training) == 8 and len(LatentDataset(str(latents), "validation")) == 2
    whole, view = training[0], training[1]
    assert not torch.equal(whole["image_mean"], view["image_mean"])
    assert set(view["label"].unique().tolist()) <= {0, 1, 2}
    overlap = ((whole["label"] > 0) & (view["label"] > 0)).sum() / (whole["label"] > 0).sum()
    assert 0.6 < overlap < 1  # moved a little


def test_the_folder_says_what_it_was_made_with(latents, codecs):
    content = read_json(latents / "latents.json")
    assert content["class_names"] == NAMES
    assert content["codecs"] == {"image": sha256(codecs[0]), "label": sha256(codecs[1])}
    assert content["latent_shape"] == {"image": [2, 8, 8, 8], "label": [2, 8, 8, 8]}


def test_the_command_needs_no_label_codec(latents, tiny_dataset, codecs, tmp_path):
    options = ["--dataset_dir", str(tiny_dataset), "--image_codec", codecs[0], "--output_dir", str(tmp_path / "out")]
    call_command(["encode", *options])
    assert read_json(tmp_path / "out/latents.json")["codecs"] == {"image": sha256(codecs[0])}
    item = LatentDataset(str(tmp_path / "out"), "test", ["image_mean", "label"])[0]
    assert torch.equal(item["image_mean"], LatentDataset(str(latents), "test")[0]["image_mean"])


def test_cases_without_a_label_are_encoded_and_can_be_left_out(tiny_dataset, codecs, tmp_path):
    dataset = tmp_path / "dataset"
    shutil.copytree(tiny_dataset, dataset)
    content = read_json(dataset / "dataset.json")
    for entry in content["training"][:2]:
        (dataset / entry.pop("label")).unlink()
    write_json(dataset / "dataset.json", content)
    encode(str(dataset), codecs[0], str(tmp_path / "latents"), codecs[1], views=2)
    data = LatentDataset(str(tmp_path / "latents"), "training")
    assert [item["labelled"] for item in data] == data.labelled.tolist() == [False] * 4 + [True] * 4
    assert data[1]["image_mean"].any() and not data[1]["label"].any() and data[4]["label"].any()
    labelled = LatentDataset(str(tmp_path / "latents"), "training", labelled_only=True)
    assert len(labelled) == 4 and torch.equal(labelled[0]["label"], data[4]["label"]) and "labelled" not in labelled[0]
    assert [item["index"] for item in labelled] == [0, 1, 2, 3]


def test_existing_latents_are_kept_without_overwrite(latents, tiny_dataset, codecs):
    with pytest.raises(UserError, match="--overwrite"):
        encode(str(tiny_dataset), codecs[0], str(latents), codecs[1])


def test_a_codec_of_other_classes_is_refused_before_anything_is_written(tiny_dataset, codecs, tmp_path):
    dataset = tmp_path / "dataset"
    shutil.copytree(tiny_dataset, dataset)
    path = dataset / "dataset.json"
    path.write_text(path.read_text().replace("portal vein", "artery"))
    with pytest.raises(UserError, match=r"image\.pt.*portal vein.*artery"):
        encode(str(dataset), codecs[0], str(tmp_path / "latents"), codecs[1])
    assert not (tmp_path / "latents").exists() and not list(tmp_path.glob(".partial-*"))


def test_a_missing_split_is_named(latents, tmp_path):
    with pytest.raises(UserError, match="latents.json"):
        LatentDataset(str(tmp_path), "training")
    with pytest.raises(UserError, match="'held out'"):
        LatentDataset(str(latents), "held out")


@pytest.mark.parametrize("options", [{"views": 0}, {"seed": -1}, {"strength": float("nan")}])
def test_an_encoding_that_cannot_be_is_refused_before_anything_is_read(options, tmp_path):
    with pytest.raises(UserError, match="--views .* must be 1 or more, --seed .* and --strength .* 0 or more"):
        encode("none", "none", str(tmp_path / "latents"), **options)
