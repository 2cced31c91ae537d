"""The BIDS export: valid by the official validator, and read back as it was."""

import csv
import json
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from tests.conftest import CLASS_NAMES, write_dataset

from lldm3d.data.sources import open_source
from lldm3d.errors import UserError
from lldm3d.export.write import export
from lldm3d.files import read_json, write_json

VALIDATOR = shutil.which("bids-validator-deno") or shutil.which("bids-validator")


@pytest.fixture(scope="module")
def exported(tiny_dataset, tmp_path_factory) -> Path:
    """Real and synthetic cases; the pairs bear labels of real patients, and are subjects of their own."""
    pairs, folder = tmp_path_factory.mktemp("pairs"), tmp_path_factory.mktemp("bids") / "bids"
    write_dataset(pairs, {"training": 4, "validation": 0, "test": 0}, prefix="case_00_warp", seed=100)
    content = read_json(pairs / "dataset.json")
    patients = [case["patient"] for case in read_json(tiny_dataset / "dataset.json")["training"]]
    cases = [case | {"patient": patient} for case, patient in zip(content["training"], patients, strict=True)]
    write_json(pairs / "dataset.json", content | {"training": cases})
    export(str(tiny_dataset), str(folder), str(pairs), "R+S", format="bids")
    return folder


def participants(folder: Path) -> dict[str, dict]:
    with open(folder / "participants.tsv", newline="") as file:
        return {row["participant_id"]: row for row in csv.DictReader(file, delimiter="\t")}


@pytest.mark.skipif(VALIDATOR is None, reason="no bids-validator; pip install bids-validator-deno, or npm")
def test_the_official_validator_finds_no_error(exported):
    done = subprocess.run([VALIDATOR, str(exported), "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert json.loads(done.stdout)["issues"]


def test_it_says_who_is_synthetic_and_what_for(exported):
    rows = participants(exported)
    assert len(rows) == 12 and {path.name for path in exported.glob("sub-*")} == set(rows)
    made = {name for name, row in rows.items() if row["synthetic"] == "yes"}
    assert made == {f"sub-case00warp0{number}" for number in range(4)}
    assert {rows[name]["split"] for name in made} == {"training"}
    assert [row["split"] for row in rows.values()].count("test") == 2


@pytest.mark.parametrize("synthetic", [True, False])
def test_pairs_that_only_list_images_of_another_folder_are_subjects_of_their_own(tiny_dataset, tmp_path, synthetic):
    """As `lldm3d join` and `filter` list them; real scans, warped, are not synthetic."""
    (tmp_path / "pairs").mkdir()
    write_dataset(tmp_path / "pairs", {"training": 4, "validation": 0, "test": 0}, prefix="made", seed=100)
    content = read_json(tmp_path / "pairs/dataset.json")
    cases = [{key: f"../pairs/{case[key]}" for key in ("image", "label")} for case in content["training"]]
    write_json(tmp_path / "joined/dataset.json", content | {"training": cases, "synthetic": synthetic})
    export(str(tiny_dataset), str(tmp_path / "bids"), str(tmp_path / "joined"), "S", format="bids")
    rows = {name: row for name, row in participants(tmp_path / "bids").items() if row["split"] == "training"}
    assert [name.startswith("sub-made") for name in rows] == [True] * 4
    assert {row["synthetic"] for row in rows.values()} == {"yes" if synthetic else "no"}


def test_what_was_written_is_read_back(exported, tiny_dataset):
    source = open_source(exported)
    assert len(source.cases) == 12 and source.about["labels"] == dict(enumerate_names())
    case = next(case for case in source.cases if case.patient == "sub-case00")
    for kind, path in (("images", case.image), ("labels", case.label)):
        ours, theirs = nib.load(path), nib.load(tiny_dataset / f"{kind}Tr/case_00.nii.gz")
        assert np.array_equal(ours.get_fdata(), theirs.get_fdata()) and np.array_equal(ours.affine, theirs.affine)


def enumerate_names():
    return ((str(value), name) for value, name in enumerate(CLASS_NAMES))


def changed(tiny_dataset: Path, folder: Path, change) -> str:
    """A copy of the data set whose description `change` altered."""
    shutil.copytree(tiny_dataset, folder)
    content = read_json(folder / "dataset.json")
    change(content)
    write_json(folder / "dataset.json", content)
    return str(folder)


def test_several_scans_of_a_patient_are_runs(tiny_dataset, tmp_path):
    def merge(content):
        content["training"][1]["patient"] = content["training"][0]["patient"]

    export(changed(tiny_dataset, tmp_path / "real", merge), str(tmp_path / "bids"), format="bids")
    names = {path.name for path in (tmp_path / "bids/sub-case00/anat").iterdir()}
    assert names == {"sub-case00_run-1_T1w.nii.gz", "sub-case00_run-2_T1w.nii.gz"}
    assert sum(case.patient == "sub-case00" for case in open_source(tmp_path / "bids").cases) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content.update(modality={"0": "CT"}), "BIDS has names for images of MR alone"),
        (lambda content: content["test"][0].update(patient="case-00"), "letters and digits of 'case_00'"),
    ],
)
def test_what_bids_has_no_name_for_is_refused_and_nothing_written(tiny_dataset, tmp_path, change, words):
    real = changed(tiny_dataset, tmp_path / "real", change)
    with pytest.raises(UserError, match=words):
        export(real, str(tmp_path / "bids"), format="bids")
    assert not (tmp_path / "bids").exists()
