"""Methods are found by their files; a mistake in one is told."""

import pytest
import yaml

from lldm3d.bundle import bundle_path
from lldm3d.errors import UserError
from lldm3d.methods import registry
from lldm3d.methods.registry import load_method, method_names
from lldm3d.pipeline.configs import BUNDLES

CONTENT = {
    "title": "A method",
    "source": "a paper",
    "needs": ["image"],
    "makes": ["image"],
    "trainings": {"gan": {"config": "configs/train.yaml", "share": 1}},
}


@pytest.mark.parametrize("name", method_names())
def test_every_method_has_the_configs_that_it_names(name):
    method = load_method(name)
    assert all((bundle_path(method.bundle) / config).is_file() for config in method.configs.values())
    assert method.source and 0.9 < sum(method.shares.values()) <= 1


def test_the_chain_itself_is_the_first_method_and_its_trainings_are_stages():
    method = load_method("lldm")
    assert method_names()[0] == "lldm" and method.is_chain and list(method.shares) == list(BUNDLES)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"needs": ["images"]}, "'images' is not one of"),
        ({"trainings": {"gan": {"config": "configs/train.yaml"}}}, "trainings#gan: 'share' is a required property"),
        ({"trainings": {"a": {"config": "a.yaml", "share": 0.5}, "b": {"share": 0.5}}}, "got one for a alone"),
        ({"trainings": {"a": {"config": "a.yaml", "share": 0.7}, "b": {"config": "b", "share": 0.7}}}, "more than 1"),
        ({"makes": None}, "makes: None is not of type 'array'"),
    ],
)
def test_a_mistake_in_a_file_is_told_with_its_place(change, message, tmp_path, monkeypatch):
    file = tmp_path / "baselines/mine" / registry.FILE
    file.parent.mkdir(parents=True)
    file.write_text(yaml.safe_dump(CONTENT | change))
    monkeypatch.setattr(registry, "bundles_dir", lambda: tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        load_method("mine")
    assert str(file) in str(caught.value)


def test_an_unknown_method_is_answered_with_the_nearest_name():
    with pytest.raises(UserError, match="there is no method 'lldn': did you mean lldm"):
        load_method("lldn")
