"""Text from data is never an expression of MONAI's configs."""

import pytest
import yaml
from monai.bundle import ConfigParser

from lldm3d.bundle import bundle_names, bundle_path, literal, misfits, read_literal, undefined
from lldm3d.errors import UserError

PAYLOAD = "$__import__('pathlib').Path('{mark}').write_text('x')"


@pytest.mark.parametrize(
    "text",
    [
        PAYLOAD,
        "@seed",
        "%other.yaml#seed",
        "a#b",
        "$@seed",
        "a $1 @seed %x #y",
        """it's "q" {a: 1} \\ $""",
        "ä $1",
        "plain",
    ],  # fmt: skip
)
def test_what_data_says_reaches_a_config_as_it_is(tmp_path, text):
    text = text.format(mark=tmp_path / "mark") if "{mark}" in text else text
    given = {"name": text, "names": ["background", text], "by": {"key": [text, 1]}}
    overrides = tmp_path / "overrides.yaml"
    overrides.write_text(yaml.safe_dump({"seed": 3, **{key: literal(value) for key, value in given.items()}}))
    parser = ConfigParser()
    parser.read_config(str(overrides))
    parser.parse()
    assert {key: parser.get_parsed_content(key) for key in given} == given
    assert {key: read_literal(literal(value)) for key, value in given.items()} == given
    assert not (tmp_path / "mark").exists()


def test_an_unknown_bundle_is_answered_with_those_that_there_are():
    with pytest.raises(UserError, match="no bundle 'autoencodr'.*autoencoder.*seg_unet"):
        bundle_path("autoencodr")
    assert {"autoencoder", "baselines/ddpm", "seg_unet"} <= set(bundle_names())


def test_values_of_another_kind_than_in_the_config_are_named_at_once():
    wrong = {"epochs": "many", "channels": 3, "learning_rate": "1e-4", "autocast": 1, "batch_size": True}
    right = {"epoch_length": "$5 * 2", "seed": "@rank", "ema_momentum": 1, "train#trainer#max_epochs": 3}
    faults = misfits("section", {**wrong, **right}, "label_ldm", ["configs/train.yaml"])
    assert [fault.split(" must be ")[0] for fault in faults] == [f"section#{key}" for key in wrong]
    assert "a number" in faults[0] and "got 'many'" in faults[0] and "write 1.0e-4" in faults[2]


def test_all_ids_that_a_bundle_does_not_define_are_named_at_once_with_the_nearest():
    faults = undefined("section", ["epochs", "epoch", "train#trainr"], "label_ldm", ["configs/train.yaml"])
    assert len(faults) == 2
    assert "section#epoch is defined by no config" in faults[0] and "did you mean epochs?" in faults[0]
    assert "did you mean train#trainer?" in faults[1]
