import inspect

import pytest
import yaml

from lldm3d.errors import UserError
from lldm3d.pipeline.profile import BUILT_IN, HERE, load_profile

from .conftest import write_profile


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_profiles_fit_the_schema_and_the_bundles(name):
    assert load_profile(name)["segment"]["networks"]


def test_a_profile_says_only_what_differs_from_its_base(tmp_path):
    write_profile(tmp_path / "mine.yaml", label_ldm={"epochs": 7}, segment={"overrides": {"epochs": 3}})
    path = tmp_path / "theirs.yaml"
    path.write_text("{base: mine.yaml, image_ldm: {epochs: 8}}")
    mine, demo = load_profile(str(path)), load_profile("demo")
    assert (mine["label_ldm"]["epochs"], mine["image_ldm"]["epochs"]) == (7, 8)
    assert mine["label_ldm"]["channels"] == demo["label_ldm"]["channels"]
    assert mine["segment"] == {**demo["segment"], "overrides": {**demo["segment"]["overrides"], "epochs": 3}}


def test_all_faults_of_the_schema_are_told_at_once(tmp_path):
    sections = {"controlnett": {}, "generate": {"n": 0}, "gates": {"image_psn": 3}, "segment": {"seeds": []}}
    path = write_profile(tmp_path / "mine.yaml", **sections)
    with pytest.raises(UserError) as error:
        load_profile(str(path))
    message = str(error.value)
    assert "controlnett is unknown, did you mean controlnet?" in message
    assert "gates#image_psn is unknown, did you mean image_psnr?" in message
    assert "generate#n: 0 is less than the minimum of 1" in message
    assert "segment#seeds" in message and str(path) in message


def test_all_keys_that_no_config_defines_are_told_with_the_nearest_name(tmp_path):
    sections = {"label_ldm": {"epoch": 3}, "autoencoder_label": {"train#trainr": 1}, "segment": {"networks": ["unet"]}}
    with pytest.raises(UserError) as error:
        load_profile(str(write_profile(tmp_path / "mine.yaml", **sections)))
    message = str(error.value)
    assert "label_ldm#epoch is defined by no config of the bundle label_ldm" in message
    assert "did you mean epochs?" in message and "did you mean train#trainer?" in message
    assert "'unet'" in message and "seg_unet" in message


def test_names_that_are_no_regime_are_told(tmp_path):
    path = write_profile(tmp_path / "mine.yaml", segment={"regimes": ["R", "R+T", "1R"]})
    with pytest.raises(UserError, match="no regime 'R.T'.*write the regime '1R' as 'R'"):
        load_profile(str(path))


def test_nested_ids_can_be_overridden(tmp_path):
    load_profile(str(write_profile(tmp_path / "mine.yaml", label_ldm={"optimizer#weight_decay": 0.1})))


def test_a_missing_profile_names_the_built_in_ones():
    with pytest.raises(UserError, match="demo, small, full"):
        load_profile("huge")


@pytest.mark.parametrize(
    ("section", "module", "function"),
    [("phantom", "lldm3d.phantom", "write"), ("prepare", "lldm3d.data.prepare", "prepare")],
)
def test_a_section_may_say_what_its_module_takes(section, module, function):
    schema = yaml.safe_load((HERE / "profile.schema.yaml").read_text())
    target = getattr(__import__(module, fromlist=[function]), function)
    files = {"output_dir", "data", "images", "labels", "label_map", "overwrite"}
    assert set(schema["properties"][section]["properties"]) == set(inspect.signature(target).parameters) - files


def test_an_embedding_that_does_not_fit_the_autoencoder_is_told_before_anything_runs(tmp_path):
    path = write_profile(tmp_path / "mine.yaml", controlnet={"conditioning_channels": [8, 8, 8, 8]})
    with pytest.raises(UserError, match="conditioning_channels has 4 entries, but needs the 2"):
        load_profile(str(path))
