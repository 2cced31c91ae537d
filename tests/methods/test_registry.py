"""Methods are found by their files; a mistake in one is named."""

import inspect
from pydoc import locate

import pytest
import yaml

from lldm3d.bundle import MULTI_GPU_INFERENCE, bundle_path, load_configs
from lldm3d.errors import UserError
from lldm3d.methods import registry
from lldm3d.methods.registry import load_method, method_names

TRAINING = {"share": 1}
CONTENT = {
    "title": "A method",
    "source": "a paper",
    "needs": ["image"],
    "makes": ["image"],
    "trainings": {"gan": TRAINING},
}


@pytest.mark.parametrize("name", method_names())
def test_every_method_has_the_configs_that_it_names(name):
    method = load_method(name)
    for training, entry in method.trainings.items():
        assert all((bundle_path(method.bundle_of(training)) / config).is_file() for config in entry.configs)
    assert all((bundle_path(method.bundle) / config).is_file() for config in method.inference) and method.source
    assert not method.trainings or 0.9 < sum(entry.share for entry in method.trainings.values()) <= 1 + 1e-9


@pytest.mark.parametrize("name", [name for name in method_names() if not load_method(name).edits])
def test_every_method_draws_in_several_processes_by_one_overlay(name):
    """It sets ids that the configs of all have."""
    method, overlay = load_method(name), bundle_path("controlnet") / MULTI_GPU_INFERENCE
    for given in {True, not method.draws_labels}:
        content = load_configs(bundle_path(method.bundle), method.configs(given))
        part = inspect.signature(locate(content["dataset"]["_target_"])).parameters["part"]
        ids = {key.split("#")[0].strip("+") for key in load_configs(overlay.parent, [overlay.name])}
        assert part.default == (0, 1) and ids - {"rank"} <= content.keys()


def test_ours_is_the_first_method_and_one_like_the_others():
    ours = load_method("lldm")
    assert method_names()[0] == "lldm" and ours.draws_labels and ours.takes_labels
    assert ours.sources == load_method("cond_ldm").sources and load_method("ddpm").sources == (
        "drawn",
        "pseudo_labelled",
    )


def test_a_training_reads_the_one_before_it_unless_it_says_others():
    ours = load_method("lldm")
    assert ours.inputs("latents") == ("autoencoder_image", "autoencoder_label")
    assert ours.inputs("autoencoder_label") == () and load_method("cond_ldm").inputs("diffusion") == ("latents",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"needs": ["images"]}, "needs#0: Input should be 'image', 'label' or 'scan', got 'images'"),
        ({"trainings": {"gan": {"shares": 1}}}, "trainings#gan#shares: Extra inputs are not permitted"),
        ({"trainings": {"a": {"share": 0.7}, "b": {"share": 0.7}}}, "shares of the trainings add up to more than 1"),
        (
            {"trainings": {"a": {"after": ["b"]}, "b": TRAINING}},
            r"trainings#a reads \['b'\], but .* before it",
        ),
        ({"trainings": {"a": {"repeats": {"c": ["x"]}}}}, r"trainings#a reads \['c'\]"),
        ({"trainings": {}}, "a method without trainings makes edits, and has `inference: \\[\\]`"),
        ({"makes": None}, "makes: Input should be a valid tuple"),
        ({"needs": [], "titel": "x"}, "needs: .*; titel: Extra inputs"),
    ],
)
def test_all_mistakes_in_a_file_are_named_with_their_place(change, message, tmp_path, monkeypatch):
    file = tmp_path / "baselines/mine" / registry.FILES[0]
    file.parent.mkdir(parents=True)
    file.write_text(yaml.safe_dump(CONTENT | change))
    monkeypatch.setattr(registry, "bundles_dir", lambda: tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        load_method("mine")
    assert str(file) in str(caught.value)


def test_an_unknown_method_is_answered_with_the_nearest_name():
    with pytest.raises(UserError, match="there is no method 'lldn': did you mean lldm"):
        load_method("lldn")
