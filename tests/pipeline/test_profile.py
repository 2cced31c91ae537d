import inspect

import pytest
from tests.in_process import write_profile

from lldm3d.errors import UserError
from lldm3d.pipeline.profile import (
    BUILT_IN,
    EvaluateSettings,
    PhantomSettings,
    PrepareSettings,
    load_profile,
    translated,
)
from lldm3d.pipeline.run import run


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_profiles_fit_the_schema_and_the_bundles(name):
    assert load_profile(name)["segment"]["networks"]


def test_a_profile_says_only_what_differs_from_its_base(tmp_path):
    sections = {"methods": {"lldm": {"label_ldm": {"epochs": 7}}}, "segment": {"overrides": {"epochs": 3}}}
    write_profile(tmp_path / "mine.yaml", **sections)
    path = tmp_path / "theirs.yaml"
    path.write_text("{base: mine.yaml, methods: {lldm: {image_ldm: {epochs: 8}}}}")
    mine, demo = load_profile(str(path)), load_profile("demo")
    ours, theirs = mine["methods"]["lldm"], demo["methods"]["lldm"]
    assert (ours["label_ldm"]["epochs"], ours["image_ldm"]["epochs"]) == (7, 8)
    assert ours["label_ldm"]["channels"] == theirs["label_ldm"]["channels"]
    assert mine["segment"] == {**demo["segment"], "overrides": {**demo["segment"]["overrides"], "epochs": 3}}


def test_all_faults_of_the_schema_are_named_at_once(tmp_path):
    sections = {
        "evaluation": {},
        "methods": {"n": 0, "minutes": 0},
        "prepare": {"crop": 3},
        "segment": {"seeds": [], "until": ["never"]},
    }
    path = write_profile(tmp_path / "mine.yaml", **sections)
    with pytest.raises(UserError) as error:
        load_profile(str(path))
    message = str(error.value)
    assert "evaluation is unknown, did you mean evaluate?" in message
    assert "prepare#crop is unknown, did you mean crops?" in message
    assert "methods#n: Input should be greater than or equal to 1, got 0" in message
    assert "methods#minutes: Input should be greater than 0, got 0" in message
    assert "segment#seeds" in message and "segment#until#0" in message and "got 'never'" in message
    assert str(path) in message and "Correct these in the file" in message


def test_all_names_that_no_method_or_config_defines_are_answered_with_the_nearest_at_once(tmp_path):
    methods = {
        "gan": {},
        "lldm": {"label_ldms": {}, "image_ldm": {"epoch": 3}, "autoencoder_label": {"train#trainr": 1}, "latents": 3},
        "ddpm": {"inference": {"num_caes": 3}},
        "spade": {"gan": {"processes": 2}, "inference": {"processes": 2}},
        "lefusion": {"inference": {"processes": 2}},
    }
    sections = {"methods": methods, "segment": {"networks": ["unet", "autoencoder"]}}
    with pytest.raises(UserError) as error:
        load_profile(str(write_profile(tmp_path / "mine.yaml", **sections)))
    message = str(error.value)
    assert "methods#gan: there is no method 'gan'" in message
    assert "methods#lldm#label_ldms is unknown, did you mean label_ldm?" in message
    assert "methods#lldm#image_ldm#epoch is defined by no config of the bundle image_ldm" in message
    assert "did you mean epochs?" in message and "did you mean train#trainer?" in message
    assert "methods#lldm#latents: must hold `id: value`, holds 3" in message
    assert "methods#spade#gan#processes: the bundle baselines/spade does this in one process" in message
    assert "methods#lefusion#inference#processes" in message and "methods#spade#inference" not in message
    assert "methods#ddpm#inference#num_caes" in message and "did you mean num_cases?" in message
    for network in ("unet", "autoencoder"):
        assert f"segment#networks: {network!r} is no segmentation; there are seg_dynunet, seg_resunet" in message


def test_names_that_are_no_regime_and_no_pairs_are_named(tmp_path):
    segment = {"regimes": ["R", "R+T", "1R"], "pairs": ["lldm", "nowhere/pairs"]}
    with pytest.raises(UserError) as error:
        load_profile(str(write_profile(tmp_path / "mine.yaml", segment=segment)))
    message = str(error.value)
    assert "no regime 'R+T'" in message and "write the regime '1R' as 'R'" in message
    assert "'nowhere/pairs' is neither a folder of pairs nor a method" in message


def test_nested_ids_can_be_overridden(tmp_path):
    methods = {"lldm": {"label_ldm": {"optimizer#weight_decay": 0.1}}}
    load_profile(str(write_profile(tmp_path / "mine.yaml", methods=methods)))


def test_a_missing_profile_names_the_built_in_ones():
    with pytest.raises(UserError, match="demo, small, full"):
        load_profile("huge")


@pytest.mark.parametrize(
    ("model", "place", "given"),
    [
        (PhantomSettings, "lldm3d.phantom.write:write_phantom", ()),
        (PrepareSettings, "lldm3d.data.prepare:prepare", ("data", "images", "labels", "label_map", "unlabelled")),
        (
            EvaluateSettings,
            "lldm3d.evaluation.evaluate:evaluate",
            ("dataset", "pairs", "synthetic", "segmenter", "cache_dir"),
        ),
    ],
)
def test_a_section_may_say_what_its_function_takes(model, place, given):
    module, name = place.split(":")
    function = getattr(__import__(module, fromlist=[name]), name)
    takes = set(inspect.signature(function).parameters) - {"output_dir", "overwrite", *given}
    assert set(model.model_fields) <= takes
    if model is not EvaluateSettings:
        assert set(model.model_fields) == takes


def test_an_embedding_that_does_not_fit_the_autoencoder_is_refused_before_anything_runs(tmp_path):
    methods = {"lldm": {"controlnet": {"conditioning_channels": [8, 8, 8, 8]}}}
    path = write_profile(tmp_path / "mine.yaml", methods=methods)
    with pytest.raises(UserError, match="conditioning_channels has 4 entries, but needs the 2"):
        load_profile(str(path))


@pytest.mark.parametrize(
    ("method", "parts", "remedy"),
    [
        ("lldm", ["image_ldm"], "of image_ldm alone; give it to label_ldm, image_ldm, controlnet, inference"),
        ("haar_ldm", ["label_ldm"], "of label_ldm alone; leave it out, as the inference has none"),
    ],
)
def test_networks_of_two_processes_of_noise_are_refused_before_they_are_trained(tmp_path, method, parts, remedy):
    overlaid = {part: {"overlays": ["ddpm.yaml"]} for part in parts}
    with pytest.raises(UserError, match=remedy):
        load_profile(str(write_profile(tmp_path / "mine.yaml", methods={method: overlaid})))
    whole = ("label_ldm", "image_ldm", "controlnet", "inference")
    profile = write_profile(tmp_path / "all.yaml", methods={"lldm": dict.fromkeys(whole, {"overlays": ["ddpm.yaml"]})})
    assert load_profile(str(profile))["methods"]["lldm"]["controlnet"]["overlays"] == ["ddpm.yaml"]


OLD = {
    "autoencoder_image": {"epochs": 3},
    "controlnet": {"overlays": ["label_latent.yaml"]},
    "generate": {"n": 40, "guidance_scale": 2, "seed": 0},
    "gates": {"image_psnr": 20, "label_dice": 0.7},
    "segment": {"seeds": [5]},
}
NEW = {
    "methods": {
        "n": 40,
        "lldm": {
            "autoencoder_image": {"epochs": 3, "gate": {"psnr": 20}},
            "autoencoder_label": {"gate": {"mean_dice": 0.7}},
            "controlnet": {"overlays": ["label_latent.yaml"]},
            "inference": {"guidance_scale": 2},
        },
    },
    "segment": {"seeds": [5]},
}


def test_a_profile_of_an_earlier_version_reads_as_one_of_today(tmp_path):
    assert translated(OLD) == NEW and translated(NEW) == NEW
    before, today = (
        load_profile(str(write_profile(tmp_path / f"{i}.yaml", **content))) for i, content in enumerate((OLD, NEW))
    )
    assert before == today and today["methods"]["lldm"]["autoencoder_image"]["epochs"] == 3


def test_a_fault_in_a_profile_of_an_earlier_version_is_named_where_it_belongs_today(tmp_path):
    sections = {"label_ldm": {"epoch": 3}, "generate": {"n": 0}, "gates": {"image_psn": 3}}
    with pytest.raises(UserError) as error:
        load_profile(str(write_profile(tmp_path / "mine.yaml", **sections)))
    message = str(error.value)
    assert "methods#n: Input should be greater than or equal to 1" in message
    assert "gates is unknown, allowed are" in message, "a misspelt gate is not forgotten"


@pytest.mark.parametrize("named", [{"radimagenet": "/none/ResNet50.pt"}, {"lpips": ["{real}", "/none/alex.pth"]}])
def test_weights_that_are_not_there_stop_a_run_before_it_begins(tmp_path, named):
    (tmp_path / "trunk.pth").write_text("weights")
    named = {
        key: [path.format(real=tmp_path / "trunk.pth") for path in value] if key == "lpips" else value
        for key, value in named.items()
    }
    profile = write_profile(tmp_path / "mine.yaml", evaluate=named)
    with pytest.raises(UserError, match=f"evaluate#{next(iter(named))}: /none/.* is no file; give the absolute path"):
        run(str(tmp_path / "work"), str(profile))
    assert not (tmp_path / "work").exists()
