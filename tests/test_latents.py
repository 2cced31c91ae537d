import shutil
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from monai.networks.nets import AutoencoderKL

from lldm3d.cli import call_command
from lldm3d.codec.codec import load_codec, save_codec
from lldm3d.codec.haar import HaarTransform
from lldm3d.codec.latents import QUANTILES, LatentDataset, encode, gain_of, read_case
from lldm3d.data.dataset import load_cases, load_schema
from lldm3d.diffusion.noise import RectifiedFlow
from lldm3d.errors import UserError
from lldm3d.files import load_nifti, read_json, save_nifti, sha256, write_json
from lldm3d.pairs.sampling import LatentSampler

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
    sizes = [(item["label"] == value).sum() ** (1 / 3) for value in range(1, len(schema.class_names))]
    found = LatentDataset(str(latents), "test", ["sizes"])[1]["sizes"]
    torch.testing.assert_close(found[: len(sizes)], torch.stack(sizes).float())
    kinds = read_json(latents / "latents.json")["size_kinds"]
    assert len(found) == len(kinds) and [kind for _, kind in kinds[len(sizes) :]] == ["length"] * len(schema.tubular)


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


@pytest.fixture
def scans(tiny_dataset, tmp_path) -> SimpleNamespace:
    """A data set whose scans differ in gain, and a codec of their Haar bands."""
    dataset, images = tmp_path / "dataset", []
    shutil.copytree(tiny_dataset, dataset)
    for case, gain in zip(load_cases(dataset, "training"), (0.3, 0.5, 0.8, 1.0), strict=True):
        image, affine = load_nifti(case.image)
        save_nifti(case.image, image * np.float32(gain / 2), affine)
        images.append(read_case(case, load_schema(dataset))["image"][None])
    build = partial(HaarTransform, channels=1)
    save_codec(str(tmp_path / "haar.pt"), build(), build, "image", NAMES, images, "cpu")
    return SimpleNamespace(dataset=dataset, codec=str(tmp_path / "haar.pt"), images=images)


def test_scans_of_one_gain_are_learnt_and_their_gains_are_kept(scans, tmp_path):
    encode(str(scans.dataset), scans.codec, str(tmp_path / "evened"), even_gains=True)
    latents, codec = (
        LatentDataset(str(tmp_path / "evened"), "training", ["image_mean"]),
        load_codec(scans.codec, "image"),
    )
    decoded = [codec.decode(item["image_mean"][None]) for item in latents]
    gains = np.array([gain_of(image) for image in scans.images])
    assert [gain_of(image) for image in decoded] == pytest.approx([gains.mean()] * 4, rel=1e-3)
    for image, own, gain in zip(decoded, scans.images, gains, strict=True):
        torch.testing.assert_close(image * gain / gains.mean(), own, atol=1e-4, rtol=0), "nothing else has changed"
    assert len(latents.gains) == QUANTILES
    assert latents.gains[0::20] == pytest.approx([gains.min() / gains.mean(), gains.max() / gains.mean()])


def test_grey_values_with_a_unit_keep_it(scans, tmp_path):
    description = read_json(scans.dataset / "dataset.json") | {"intensity": "window"}
    write_json(scans.dataset / "dataset.json", description)
    for name, even in (("plain", False), ("asked", True)):
        encode(str(scans.dataset), scans.codec, str(tmp_path / name), even_gains=even)
    plain, asked = (LatentDataset(str(tmp_path / name), "training", ["image_mean"]) for name in ("plain", "asked"))
    assert plain.gains is asked.gains is None
    assert all(torch.equal(one["image_mean"], other["image_mean"]) for one, other in zip(plain, asked, strict=True))


def test_drawn_scans_get_gains_as_the_training_scans_have_them(scans):
    codec = load_codec(scans.codec, "image")
    samplers = [
        LatentSampler(codec, torch.nn.Identity(), RectifiedFlow(2), [8, 1, 1, 1], seed, autocast=False, gains=gains)
        for seed, gains in ((0, [0.5, 1.0, 4.0]), (1, [0.5, 1.0, 4.0]), (0, None))
    ]
    cases = list(range(200))
    gains, other, none = (sampler.draw_gains(cases) for sampler in samplers)
    assert none is None and other != gains
    assert samplers[0].draw_gains([7]) == gains[7:8], "whatever else is in the batch"
    assert 0.9 < np.median(gains) < 1.15 and min(gains) == pytest.approx(0.5, abs=0.05) and 3.5 < max(gains) <= 4
    bright = codec.encode(scans.images[3] * 3)[0]  # of a dark scan that was brought to the mean gain
    assert scans.images[3].max() * 3 > 1
    decoded = samplers[0].decode(torch.cat([bright, bright]), gains=[1 / 3, 4.0])
    torch.testing.assert_close(decoded[:1], scans.images[3], atol=1e-4, rtol=0)
    assert decoded.max() == 1, "as in every prepared scan"
    halved = LatentSampler(codec, torch.nn.Identity(), RectifiedFlow(2), [8, 1, 1, 1], gains=None)
    halved.inferer.enabled = True  # on whatever machine
    again = halved.decode(codec.encode(scans.images[3])[0])
    torch.testing.assert_close(again, scans.images[3], atol=1e-5, rtol=0)


def test_what_is_as_good_as_empty_is_not_made_bright(scans, tmp_path):
    case = load_cases(scans.dataset, "training")[0]
    image, affine = load_nifti(case.image)
    save_nifti(case.image, image * np.float32(1e-4), affine)
    encode(str(scans.dataset), scans.codec, str(tmp_path / "evened"), even_gains=True)
    latents = LatentDataset(str(tmp_path / "evened"), "training", ["image_mean"])
    decoded = load_codec(scans.codec, "image").decode(latents[0]["image_mean"][None])
    assert latents.gains[0] > 0.4 and decoded.max() < 1e-3


def test_an_autoencoder_is_given_no_scans_brighter_than_it_knows(tiny_dataset, codecs, tmp_path):
    with pytest.raises(UserError, match="image.pt: loses what is brighter than it has learnt; leave out even_gains"):
        encode(str(tiny_dataset), codecs[0], str(tmp_path / "latents"), even_gains=True)
    assert not (tmp_path / "latents").exists()


@pytest.mark.parametrize("options", [{"views": 0}, {"seed": -1}, {"strength": float("nan")}])
def test_an_encoding_that_cannot_be_is_refused_before_anything_is_read(options, tmp_path):
    with pytest.raises(UserError, match="--views .* must be 1 or more, --seed .* and --strength .* 0 or more"):
        encode("none", "none", str(tmp_path / "latents"), **options)
