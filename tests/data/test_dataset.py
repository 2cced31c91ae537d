import json

import pytest

from lldm3d.data.dataset import load_cases, load_schema
from lldm3d.errors import UserError


def test_the_schema_and_the_cases_are_read(tiny_dataset):
    schema = load_schema(tiny_dataset)
    assert schema.class_names == ("background", "liver", "portal vein")
    assert schema.tubular == ("portal vein",) and schema.inside == {"portal vein": "liver"}
    assert [len(load_cases(tiny_dataset, split)) for split in ("training", "validation", "test")] == [4, 2, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"roi_size": None}, "is broken"),
        ({"labels": {"0": "background", "2": "liver"}}, "without a gap"),
        ({"tubular": ["aorta"]}, "aorta"),
        ({"spacing": [1, 1]}, "three entries"),
        ({"orientation": "LPS"}, "orientation is 'LPS', allowed are ras, stored"),
        ({"source_values": {"liver": "one"}}, "is broken"),
        ({"labels": {"0": "background", "1": "liver", "2": "liver"}}, "needs a name of its own"),
    ],
)
def test_a_broken_dataset_json_is_told(tiny_dataset, tmp_path, change, message):
    content = json.loads((tiny_dataset / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps(content | change))
    with pytest.raises(UserError, match=message):
        load_schema(tmp_path)


def test_missing_files_and_unknown_splits_are_told(tiny_dataset, tmp_path):
    (tmp_path / "dataset.json").write_text((tiny_dataset / "dataset.json").read_text())
    with pytest.raises(UserError, match="no such file"):
        load_cases(tmp_path, "training")
    with pytest.raises(UserError, match="training, validation, test"):
        load_cases(tiny_dataset, "train")


@pytest.mark.parametrize("entry", ["./imagesTs/x.nii.gz", None, {"label": "x.nii.gz"}, {"image": ["a", "b"]}])
def test_an_entry_that_is_no_case_is_told(tiny_dataset, tmp_path, entry):
    content = json.loads((tiny_dataset / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps(content | {"test": [entry], "validation": None}))
    assert load_cases(tmp_path, "validation") == []
    with pytest.raises(UserError, match='in test: a case needs an "image", one file'):
        load_cases(tmp_path, "test")


@pytest.mark.parametrize("split", ["training", "test"])
def test_a_case_is_listed_once_and_in_one_split(tiny_dataset, tmp_path, split):
    content = json.loads((tiny_dataset / "dataset.json").read_text())
    content[split].append(content["training"][0])
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="lists the case 'case_00' more than once; a case belongs to one split"):
        load_cases(tmp_path, split)


def test_a_case_keeps_its_name_where_its_file_is_a_link(tiny_dataset, tmp_path):
    content = json.loads((tiny_dataset / "dataset.json").read_text())
    entry = {"image": "./imagesTr/p.nii.gz", "patient": None}
    (tmp_path / "dataset.json").write_text(json.dumps(content | {"training": [entry]}))
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "blob").write_bytes(b"")
    (tmp_path / "imagesTr/p.nii.gz").symlink_to(tmp_path / "blob")
    (case,) = load_cases(tmp_path, "training")
    assert (case.name, case.patient, case.image) == ("p", "p.nii.gz", str(tmp_path / "imagesTr/p.nii.gz"))
