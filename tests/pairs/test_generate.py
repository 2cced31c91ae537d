"""`lldm3d generate` with small untrained networks, in this process but for one test."""

import re
import shutil
from contextlib import nullcontext
from functools import partial

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.networks.nets import AutoencoderKL, ControlNet, DiffusionModelUNet
from tests.conftest import restored
from tests.in_process import bundles_run_here

from lldm3d.bundle import bundle_path
from lldm3d.codec.codec import save_codec
from lldm3d.data.dataset import load_schema
from lldm3d.diffusion.noise import DDPM
from lldm3d.errors import ChildError, UserError
from lldm3d.files import read_json, sha256, write_json
from lldm3d.locks import locked
from lldm3d.methods.registry import load_method, method_names
from lldm3d.pairs.drawing import check_settings
from lldm3d.pairs.generate import generate
from lldm3d.training.checkpoints import save_network

NAMES = ["background", "liver", "portal vein"]
SIZES = {
    "spatial_dims": 3, "in_channels": 2, "channels": [16], "attention_levels": [False], "num_res_blocks": 1,
    "num_head_channels": 16, "norm_num_groups": 8,
}  # fmt: skip


MODELS = "methods/lldm/seed_0"


@pytest.fixture(scope="module")
def workdir(tiny_dataset, tmp_path_factory):
    work = tmp_path_factory.mktemp("work")
    shutil.copytree(tiny_dataset, work / "dataset")
    with restored():
        write_models(work / MODELS)
    return work


def write_models(models):
    """Networks of random weights, as the trainings of 3D-LLDM leave them."""
    torch.manual_seed(0)
    for kind, channels in (("image", 1), ("label", 3)):
        build = partial(
            AutoencoderKL, spatial_dims=3, in_channels=channels, out_channels=channels, channels=[8, 8],
            num_res_blocks=1, attention_levels=[False] * 2, latent_channels=2, norm_num_groups=4,
            with_encoder_nonlocal_attn=False, with_decoder_nonlocal_attn=False,
        )  # fmt: skip
        volume = torch.rand(1, 1, 16, 16, 16) if kind == "image" else torch.randint(0, 3, (1, 1, 16, 16, 16))
        save_codec(str(models / f"autoencoder_{kind}/codec.pt"), build(), build, kind, NAMES, [volume], "cpu")
    codecs = {kind: sha256(models / f"autoencoder_{kind}/codec.pt") for kind in ("image", "label")}
    shape = {"image": [2, 8, 8, 8], "label": [2, 8, 8, 8]}
    latents = {"class_names": NAMES, "codecs": codecs, "latent_shape": shape, "roi_size": [16] * 3}
    write_json(models / "latents/encoded/latents.json", {**latents, "spacing": [1.0, 1.0, 2.0]})
    unet = partial(DiffusionModelUNet, out_channels=2, **SIZES)
    embedding = {"conditioning_embedding_in_channels": 3, "conditioning_embedding_num_channels": [4, 8]}
    builders = {"label_ldm": unet, "image_ldm": unet, "controlnet": partial(ControlNet, **embedding, **SIZES)}
    for training, build in builders.items():
        network = build()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        further = {"condition": "label"} if training == "controlnet" else {}
        path, encoded = str(models / training / "model.pt"), str(models / "latents/encoded")
        save_network(path, network, build, encoded, noise_scheduler="rectified_flow", **further)


def draw(workdir, folder, n, **options):
    with bundles_run_here() if options.get("processes", 1) == 1 else nullcontext():
        generate(str(workdir), str(folder), n=n, num_inference_steps=2, **options)
    return {
        path.name: nib.load(path).get_fdata() for path in sorted(folder.glob("*/*.nii.gz")) if "imagesTr" in str(path)
    }


def test_a_case_is_the_same_whatever_the_number_the_batch_or_a_restart(workdir, tmp_path):
    three = draw(workdir, tmp_path / "three", 3, batch_size=3)
    content = read_json(tmp_path / "three/dataset.json")
    assert len(content["training"]) == 3 and content["labels"]["2"] == "portal vein"
    manifest = read_json(tmp_path / "three/manifest.json")
    assert manifest["settings"] == {"num_inference_steps": 2, "batch_size": 3} and manifest["seed"] == 0
    label = nib.load(tmp_path / "three/labelsTr/synthetic_00000.nii.gz")
    assert label.get_data_dtype() == np.uint8 and label.header.get_zooms() == (1.0, 1.0, 2.0)
    one = draw(workdir, tmp_path / "one", 1, batch_size=1)
    np.testing.assert_allclose(one["synthetic_00000.nii.gz"], three["synthetic_00000.nii.gz"], atol=2e-2)
    time = (tmp_path / "one/imagesTr/synthetic_00000.nii.gz").stat().st_mtime_ns
    grown = draw(workdir, tmp_path / "one", 2, batch_size=1)
    assert (tmp_path / "one/imagesTr/synthetic_00000.nii.gz").stat().st_mtime_ns == time  # kept, not drawn again
    np.testing.assert_allclose(grown["synthetic_00001.nii.gz"], three["synthetic_00001.nii.gz"], atol=2e-2)
    assert not np.allclose(three["synthetic_00000.nii.gz"], three["synthetic_00001.nii.gz"], atol=2e-2)
    with pytest.raises(UserError, match="differ from these in seed.*--overwrite"):
        draw(workdir, tmp_path / "one", 1, seed=1)
    other = draw(workdir, tmp_path / "other", 1, seed=1)
    assert not np.allclose(other["synthetic_00000.nii.gz"], three["synthetic_00000.nii.gz"], atol=2e-2)


def volumes(folder):
    return {str(path.relative_to(folder)): nib.load(path).get_fdata() for path in folder.glob("*/*.nii.gz")}


def test_two_processes_draw_the_pairs_of_one_and_go_on_in_its_folder(workdir, tmp_path):
    draw(workdir, tmp_path / "one", 3, batch_size=1)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    for name in ("dataset.json", "labelsTr/synthetic_00001.nii.gz", "imagesTr/synthetic_00001.nii.gz"):
        (tmp_path / "two" / name).unlink()
    (tmp_path / "two/imagesTr/synthetic_00002.nii.gz").unlink()
    kept = (tmp_path / "two/imagesTr/synthetic_00000.nii.gz").stat().st_mtime_ns
    draw(workdir, tmp_path / "two", 3, batch_size=1, processes=2)
    one, two = volumes(tmp_path / "one"), volumes(tmp_path / "two")
    assert len(one) == 6 and one.keys() == two.keys()
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert read_json(tmp_path / "one/dataset.json") == read_json(tmp_path / "two/dataset.json")
    assert (tmp_path / "two/imagesTr/synthetic_00000.nii.gz").stat().st_mtime_ns == kept


def test_a_later_range_holds_the_same_cases(workdir, tmp_path):
    three, two = (
        draw(workdir, tmp_path / "three", 3, batch_size=1),
        draw(workdir, tmp_path / "two", 2, batch_size=1, first=1),
    )
    assert list(two) == ["synthetic_00001.nii.gz", "synthetic_00002.nii.gz"]
    assert all(np.array_equal(two[name], three[name]) for name in two)
    with pytest.raises(UserError, match="--first must be a whole number of at least 0, got -1"):
        draw(workdir, tmp_path / "none", 1, first=-1)


def test_an_image_for_a_label_of_the_users_own_lies_where_it_lies_along_the_axes_of_the_data_set(workdir, tmp_path):
    affine = np.array([[0, -1.0, 0, 20], [1.0, 0, 0, -5], [0, 0, -2.0, 7], [0, 0, 0, 1]])  # not RAS
    volume = np.zeros((16, 20, 8), np.uint8)
    volume[4:12, 3:12, 2:6] = 1
    nib.save(nib.Nifti1Image(volume, affine), tmp_path / "mine.nii.gz")
    draw(workdir, tmp_path / "out", 1, label=str(tmp_path / "mine.nii.gz"))
    image, label = (nib.load(tmp_path / f"out/{folder}/mine.nii.gz") for folder in ("imagesTr", "labelsTr"))
    ras = nib.as_closest_canonical(nib.Nifti1Image(volume, affine))
    np.testing.assert_allclose(image.affine, ras.affine, atol=1e-5)
    np.testing.assert_array_equal(label.get_fdata(), ras.get_fdata())
    assert image.shape == (20, 16, 8) and 0 <= image.get_fdata().min() <= image.get_fdata().max() <= 1
    assert load_schema(tmp_path / "out").roi_size == (20, 16, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": 7}, r"mine\.nii\.gz.*\[7.*0 background, 1 liver, 2 portal vein"),
        ({"value": 0}, "empty"),
        ({"spacing": 3.0}, r"3\.0.*1\.0"),
        ({"shape": (15, 16, 16)}, "multiple of 2"),
        ({"shape": (16, 16)}, "3D is needed"),
    ],
)
def test_a_label_that_does_not_fit_is_refused(workdir, tmp_path, change, message):
    from lldm3d.pairs.cases import CaseDataset

    volume = np.zeros(change.get("shape", (16, 16, 16)), np.uint8)
    volume[2:4, 2:4] = change.get("value", 1)
    spacing = change.get("spacing", 1.0)
    nib.save(nib.Nifti1Image(volume, np.diag([spacing, 1, 2, 1])), tmp_path / "mine.nii.gz")
    with pytest.raises(UserError, match=message):
        CaseDataset(1, str(tmp_path), NAMES, [1, 1, 2], 2, label_paths=[str(tmp_path / "mine.nii.gz")])


def test_a_method_that_is_not_trained_and_a_strange_folder_are_refused(workdir, tmp_path):
    with pytest.raises(UserError, match="methods/lldm: holds no trained lldm; train it with `lldm3d run --workdir"):
        generate(str(tmp_path), str(tmp_path / "out"))
    (tmp_path / "run.yaml").write_text("methods: [haar_ldm, lldm]")
    with pytest.raises(UserError, match="holds no trained haar_ldm; train it"):
        generate(str(tmp_path), str(tmp_path / "out"))
    models = tmp_path / "methods/haar_ldm/seed_0"
    write_json(models / "diffusion/model.pt", {})
    with pytest.raises(UserError, match="draws images alone, as label_ldm was not trained; give --source training"):
        generate(str(tmp_path), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="holds no trained lldm of seed 7"):
        generate(str(workdir), str(tmp_path / "out"), model_seed=7)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="something else"):
        generate(str(workdir), str(tmp_path / "full"), overwrite=True)
    assert (tmp_path / "full/thesis.txt").read_text() == "mine"


def test_two_calls_at_once_do_not_share_a_folder(workdir, tmp_path):
    with locked(tmp_path / ".out.lock", "it"), pytest.raises(UserError, match="the folder of the pairs is in use by"):
        generate(str(workdir), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_labels_of_one_name_and_more_pairs_than_labels_are_refused(workdir, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(workdir / "dataset/labelsTr/case_00.nii.gz", tmp_path / folder / "mine.nii.gz")
    with pytest.raises(UserError, match="several labels are named 'mine'"):
        generate(str(workdir), str(tmp_path / "out"), label=f"{tmp_path}/a/mine.nii.gz,{tmp_path}/b/mine.nii.gz")
    with pytest.raises(UserError, match="3 pairs are wanted, but the source test has 2 labels"):
        generate(str(workdir), str(tmp_path / "out"), source="test", n=3)
    with pytest.raises(UserError, match="gone.nii.gz: no such file; give a NIfTI label map"):
        generate(str(workdir), str(tmp_path / "out"), label=f"{tmp_path}/gone.nii.gz")


def test_of_other_models_the_pairs_are_drawn_anew_only_when_asked(workdir, tmp_path):
    work = tmp_path / "work"
    shutil.copytree(workdir, work)
    first = draw(work, tmp_path / "pairs", 1)
    model = torch.load(work / MODELS / "image_ldm/model.pt", weights_only=True)
    model["model"] = {name: value * 1.5 for name, value in model["model"].items()}
    torch.save(model, work / MODELS / "image_ldm/model.pt")
    with pytest.raises(UserError, match="in checkpoints.*--overwrite"):
        draw(work, tmp_path / "pairs", 1)
    again = draw(work, tmp_path / "pairs", 1, overwrite=True)
    assert not np.allclose(first["synthetic_00000.nii.gz"], again["synthetic_00000.nii.gz"], atol=1e-3)


def test_a_model_of_other_latents_is_refused(workdir, tmp_path):
    from lldm3d.pairs.sampling import load_system

    models = workdir / MODELS
    image = torch.load(models / "autoencoder_image/codec.pt", weights_only=True)
    image["latent_mean"] += 1
    torch.save(image, tmp_path / "codec.pt")
    networks = {"image_ldm": str(models / "image_ldm/model.pt")}
    with pytest.raises(UserError, match="image_ldm/model.pt.*another image codec.*train 'image_ldm' again"):
        load_system("cpu", "rectified_flow", {"image": str(tmp_path / "codec.pt")}, networks)
    with pytest.raises(UserError, match="'rectified_flow'.*'ddpm'"):
        load_system("cpu", "ddpm", {"image": str(models / "autoencoder_image/codec.pt")}, networks)


def test_a_budget_is_told_of_and_leaves_the_pairs_the_same(workdir, tmp_path, capfd):
    plain = draw(workdir, tmp_path / "plain", 3, batch_size=2)
    capfd.readouterr()
    small = draw(workdir, tmp_path / "small", 3, batch_size=2, memory_gb=0.112)
    assert re.search(
        r"lldm3d: \d+ cases at once, decoded (whole|in slabs): about 0.1\d of 0.11 GB", capfd.readouterr().out
    )
    for name, image in plain.items():
        np.testing.assert_allclose(small[name], image, atol=2e-2)
    with pytest.raises(ChildError, match="one case of .* takes about .* raise it"):
        draw(workdir, tmp_path / "none", 3, batch_size=1, memory_gb=0.01)


def test_options_of_the_sampler_are_checked_first(workdir, tmp_path):
    for option, message in [
        ({"solver": "rk4"}, "'euler' or 'heun', got 'rk4'"),
        ({"time_shift": 0}, "above 0, got 0"),
        ({"memory_gb": "much"}, "above 0, got 'much'"),
        ({"solver": "heun", "overlays": ("ddpm.yaml",)}, "of rectified flow"),
    ]:
        with pytest.raises(UserError, match=message):
            generate(str(workdir), str(tmp_path / "out"), **option)
    assert not (tmp_path / "out").exists()


def test_the_number_of_steps_reaches_the_ddpm_as_well(workdir, tmp_path, monkeypatch):
    given = {}
    monkeypatch.setattr(
        "lldm3d.pairs.drawing.run_bundle", lambda *arguments, **_: given.update(arguments[4] | arguments[5])
    )
    with pytest.raises(UserError, match="lacks"):  # nothing is drawn
        generate(str(workdir), str(tmp_path / "out"), num_inference_steps=7, overlays=("ddpm.yaml",))
    configs = bundle_path("controlnet") / "configs"
    parser = ConfigParser()
    parser.read_config([str(configs / "inference.yaml"), str(configs / "ddpm.yaml")])
    parser.update(given)
    assert isinstance(process := parser.get_parsed_content("noise_scheduler"), DDPM)
    assert process.num_inference_steps == 7


def test_another_solver_is_another_set_of_pairs(workdir, tmp_path):
    euler = draw(workdir, tmp_path / "pairs", 1)
    with pytest.raises(UserError, match="differ from these in settings"):
        draw(workdir, tmp_path / "pairs", 1, solver="heun", time_shift=3)
    heun = draw(workdir, tmp_path / "pairs", 1, solver="heun", time_shift=3, overwrite=True)
    assert not np.allclose(euler["synthetic_00000.nii.gz"], heun["synthetic_00000.nii.gz"], atol=1e-3)


def raw_label(path, *values):
    """A label with a box of 64, then ever smaller ones."""
    volume = np.zeros((16, 16, 8), np.uint16)
    for number, value in enumerate(values):
        volume[2:6, 2:6, 2 * number : 2 * number + 4 - number] = value
    nib.save(nib.Nifti1Image(volume, np.diag([1.0, 1, 2, 1])), path)
    return volume


@pytest.fixture
def renumbered(workdir, tmp_path):
    """A work directory whose raw data had the liver at 5, and the portal vein at 1 and 7."""
    work = tmp_path / "work"
    shutil.copytree(workdir, work)
    content = read_json(work / "dataset/dataset.json")
    write_json(work / "dataset/dataset.json", content | {"source_values": {"liver": [5], "portal vein": [1, 7]}})
    return work


def test_a_label_in_values_of_the_raw_data_is_drawn_in_classes(renumbered, tmp_path, capsys):
    volume = raw_label(tmp_path / "mine.nii.gz", 5, 7)
    draw(renumbered, tmp_path / "out", 1, label=str(tmp_path / "mine.nii.gz"))
    assert "mine: liver 0.064 ml, portal vein 0.096 ml" in capsys.readouterr().out
    drawn = nib.load(tmp_path / "out/labelsTr/mine.nii.gz").get_fdata()
    np.testing.assert_array_equal(drawn, np.where(volume == 5, 1, np.where(volume == 7, 2, 0)))


def test_a_label_that_may_be_in_both_numberings_is_asked_for(renumbered, tmp_path, capsys):
    raw_label(tmp_path / "mine.nii.gz", 1)
    with pytest.raises(UserError, match=r"classes \(liver 0.128 ml\); --label_values source \(portal vein 0.128 ml\)"):
        generate(str(renumbered), str(tmp_path / "out"), label=str(tmp_path / "mine.nii.gz"))
    assert not (tmp_path / "out").exists()
    draw(renumbered, tmp_path / "out", 1, label=str(tmp_path / "mine.nii.gz"), label_values="source")
    assert set(np.unique(nib.load(tmp_path / "out/labelsTr/mine.nii.gz").get_fdata())) == {0, 2}
    raw_label(tmp_path / "other.nii.gz", 5, 9)
    with pytest.raises(UserError, match=r"other.nii.gz: holds the values \[0, 5, 9\]; allowed are classes \(1 liver"):
        generate(str(renumbered), str(tmp_path / "out2"), label=str(tmp_path / "other.nii.gz"))
    with pytest.raises(UserError, match="--label_values 'raw': allowed are classes, source"):
        generate(str(renumbered), str(tmp_path / "out2"), label=str(tmp_path / "other.nii.gz"), label_values="raw")
    draw(renumbered, tmp_path / "out2", 1, label=str(tmp_path / "other.nii.gz"), label_values="source")
    assert "[9] become background" in capsys.readouterr().out


def test_a_label_that_is_refused_leaves_a_folder_for_the_right_one(workdir, tmp_path):
    """One that only the networks refuse: its size."""
    nib.save(nib.Nifti1Image(np.ones((15, 16, 8), np.uint8), np.diag([1.0, 1, 2, 1])), tmp_path / "odd.nii.gz")
    with pytest.raises((UserError, ChildError), match="each must be a multiple of 2: pad or crop"):
        draw(workdir, tmp_path / "out", 1, label=str(tmp_path / "odd.nii.gz"))
    raw_label(tmp_path / "mine.nii.gz", 1)
    assert list(draw(workdir, tmp_path / "out", 1, label=str(tmp_path / "mine.nii.gz"))) == ["mine.nii.gz"]


def test_a_run_s_settings_draw_unless_others_are_given(workdir, tmp_path, capsys):
    """Else pairs that are asked for later would not be those that were judged."""
    work = tmp_path / "work"
    work.mkdir()
    for name in ("dataset", "methods"):
        (work / name).symlink_to(workdir / name)
    inference = {"processes": 1, "solver": "heun", "guidance_scale": 2.0}
    write_json(work / "run.yaml", {"settings": {"methods": {"lldm": {"inference": inference}}}})
    draw(work, tmp_path / "out", 1, guidance_scale=1.5)
    settings = read_json(tmp_path / "out/manifest.json")["settings"]
    assert settings == {"solver": "heun", "guidance_scale": 1.5, "num_inference_steps": 2}
    assert "draws as the run does: solver heun, guidance_scale 2.0" in capsys.readouterr().out


@pytest.mark.parametrize("name", [name for name in method_names() if load_method(name).inference])
def test_settings_are_checked_without_a_trained_network(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    method = load_method(name)
    for given in (False, True):
        if configs := method.configs(given=given):
            check_settings(method, configs, {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "--seed must be a whole number of at least 0.*got -1"),
        ({"first": 2**40}, "--first must be .*at most"),
        ({"source": "training", "strength": float("nan")}, "--strength must be"),
        ({"strength": 0.5}, "--strength changes nothing for the source drawn"),
        ({"source": "training", "first": 3}, "--first changes nothing for the source training"),
        ({"source": "reconstructed", "n": 2, "guidance_scale": 2.0}, "--n, --guidance_scale changes nothing"),
        ({"label": __file__, "n": 2}, "--n 2, but --label names 1"),
        ({"batch_size": 0}, "--batch_size must be at least 1"),
        ({"batch_size": "many"}, "--batch_size must be a whole number, got 'many'"),
        ({"guidance_scale": float("nan")}, "--guidance_scale must be a number"),
        ({"guidance_scale": 0}, "--guidance_scale must be at least 1, which is none, got 0"),
        ({"guidance_scale": 2.0, "num_inference_steps": 0}, "--num_inference_steps: num_inference_steps must be at"),
        ({"memory_gb": True}, "--memory_gb must be"),
        ({"num_cases": 3}, "--num_cases is what this command itself gives"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_before_a_folder_is_begun(options, message, workdir, tmp_path):
    with pytest.raises(UserError, match=message):
        generate(str(workdir), str(tmp_path / "out"), **options)
    assert not any(tmp_path.iterdir())


def test_what_the_drawing_refuses_leaves_no_folder(workdir, tmp_path, monkeypatch):
    def refuse(folder, *_, **__):
        (folder / "log.txt").write_text("a log")
        raise UserError("the size must be a multiple of 2")

    monkeypatch.setattr("lldm3d.pairs.drawing.run_bundle", refuse)
    with pytest.raises(UserError, match="multiple of 2"):
        generate(str(workdir), str(tmp_path / "out"), n=1)
    assert not any(tmp_path.iterdir())


def test_warped_labels_reach_no_folder_that_is_refused(workdir, tmp_path):
    (tmp_path / "out/labels").mkdir(parents=True)
    (tmp_path / "out/labels/labels.json").write_text("mine")
    with pytest.raises(UserError, match="holds something else"):
        generate(str(workdir), str(tmp_path / "out"), source="training", n=1)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "labels", "labels.json"]


def test_a_label_whose_path_has_a_comma_is_one(workdir, tmp_path):
    (tmp_path / "a,b.nii.gz").write_bytes(b"no label")
    with pytest.raises(UserError, match="a,b.nii.gz: cannot be read as NIfTI"):
        generate(str(workdir), str(tmp_path / "out"), label=str(tmp_path / "a,b.nii.gz"))
