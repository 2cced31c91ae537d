"""Reading a BIDS data set: which label belongs to which image, who is a patient, what is refused."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from lldm3d.data.checks import check
from lldm3d.data.dataset import load_cases, load_schema
from lldm3d.data.prepare import prepare
from lldm3d.data.sources import open_source
from lldm3d.errors import UserError
from lldm3d.files import save_nifti

LABELS = "derivatives/manual"


def write(folder: Path, name: str, label: bool = False) -> None:
    """An image, or a label with the values 0, 17 and 53."""
    volume = np.random.default_rng(sum(map(ord, name))).normal(size=(16, 16, 16)).astype(np.float32)
    if label:
        volume = np.zeros((16, 16, 16), np.uint8)
        volume[4:12, 4:12, 4:8], volume[4:12, 4:12, 8:12] = 17, 53
    save_nifti(folder / name, volume, np.eye(4))


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three subjects, one with two sessions; labels of a pipeline, with some in another space."""
    folder = tmp_path / "bids"
    for scan in (
        "sub-a/anat/sub-a",
        "sub-b/ses-1/anat/sub-b_ses-1",
        "sub-b/ses-2/anat/sub-b_ses-2",
        "sub-c/anat/sub-c",
    ):
        write(folder, f"{scan}_T1w.nii.gz")
        write(folder, f"{scan}_T2w.nii.gz")
        write(folder, f"{LABELS}/{scan}_desc-manual_dseg.nii.gz", True)
        write(folder, f"{LABELS}/{scan}_space-MNI152NLin2009cAsym_dseg.nii.gz", True)
    write(folder, "sub-d/anat/sub-d_T1w.nii.gz")  # nobody labelled it
    description = {"Name": "Two structures", "BIDSVersion": "1.10.0", "License": "CC0"}
    (folder / "dataset_description.json").write_text(json.dumps(description))
    (folder / LABELS / "dseg.tsv").write_text("index\tname\tcolor\n17\tleft\t#ff0000\n53\tright\t#00ff00\n")
    return folder


def test_a_data_set_is_prepared_from_its_images_and_derivatives(folder, tmp_path, capsys):
    prepare(tmp_path / "dataset", data=folder, roi_size=(16, 16, 16), split=(0.4, 0.3, 0.3))
    schema = load_schema(tmp_path / "dataset")
    assert schema.name == "Two structures" and schema.class_names == ("background", "left", "right")
    splits = ("training", "validation", "test")
    cases = {case.name: case for split in splits for case in load_cases(tmp_path / "dataset", split)}
    patients = {"sub-a": "sub-a", "sub-b_ses-1": "sub-b", "sub-b_ses-2": "sub-b", "sub-c": "sub-c"}
    assert {name: case.patient for name, case in cases.items()} == patients
    assert cases["sub-b_ses-1"].split == cases["sub-b_ses-2"].split
    assert "1 of 5 T1w images have no label" in capsys.readouterr().out


def test_the_one_other_kind_that_is_labelled_is_taken(folder):
    for path in folder.glob("sub-*/**/*_T1w.nii.gz"):
        path.unlink()
    assert all(case.image.endswith("_T2w.nii.gz") for case in open_source(folder).cases)
    write(folder, "sub-a/anat/sub-a_FLAIR.nii.gz")
    with pytest.raises(UserError, match="labelled FLAIR, T2w and no T1w; keep one"):
        open_source(folder)


def test_a_table_beside_the_label_names_the_classes_too(folder):
    (folder / LABELS / "dseg.tsv").rename(folder / LABELS / "sub-a/anat/sub-a_desc-manual_dseg.tsv")
    assert open_source(folder).about["labels"] == {"17": "left", "53": "right"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: [path.unlink() for path in folder.rglob("*_dseg.nii.gz")], "has no labels; of BIDS are read"),
        (lambda folder: (folder / "sub-a/anat/sub-a_T1w.nii.gz").unlink(), "its image sub-a_T1w.nii.gz is missing"),
        (lambda folder: write(folder, "derivatives/other/sub-a/anat/sub-a_dseg.nii.gz", True), "labels of one scan"),
        (lambda folder: (folder / LABELS / "dseg.tsv").unlink(), "no class names found.*dseg.tsv.*--label_map"),
        (lambda folder: (folder / LABELS / "dseg.tsv").write_text("value,name\n"), "needs the columns index and name"),
        (
            lambda folder: (folder / LABELS / "dseg.tsv").write_text("index\tname\n17\tleft\n017\tright\n"),
            "a value stands there twice",
        ),
        (lambda folder: (folder / LABELS / "dseg.tsv").write_bytes(b"index\tname\n1\t\xff\n"), "cannot be read"),
        (lambda folder: (folder / "dataset_description.json").write_text("{"), "not valid JSON"),
        (lambda folder: (folder / "dataset_description.json").unlink(), "holds no dataset.json, dataset_desc"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_told(folder, refusal, change, words):
    change(folder)
    assert re.search(words, refusal(folder))


def test_a_map_of_the_user_s_own_stands_for_the_table(folder, capsys):
    (folder / LABELS / "dseg.tsv").unlink()
    check(folder, label_map={"left": 17})
    assert "4 cases without faults" in capsys.readouterr().out
