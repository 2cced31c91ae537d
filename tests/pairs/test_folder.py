"""Pairs that were drawn by several calls become one data set."""

import json
import shutil
from pathlib import Path

import pytest
from tests.conftest import write_dataset

from lldm3d.data.dataset import load_cases
from lldm3d.data.regimes import regime_cases
from lldm3d.errors import UserError
from lldm3d.files import read_json, write_json
from lldm3d.pairs.folder import claim, join, write_dataset_json


@pytest.fixture
def parts(tmp_path) -> Path:
    """Three folders of two pairs each."""
    for number in range(3):
        folder = tmp_path / f"pairs/part_{number}"
        folder.mkdir(parents=True)
        write_dataset(folder, {"training": 2, "validation": 0, "test": 0}, prefix=f"synthetic_{number}")
        cases = [{"name": f"synthetic_{number}_{case:02d}", "seed": 0} for case in range(2)]
        manifest = {
            "lldm3d": "0.9.0",
            "method": "lldm",
            "seed": 0,
            "checkpoints": {"controlnet/model.pt": "ab"},
            "cases": cases,
        }
        write_json(folder / "manifest.json", manifest)
    return tmp_path / "pairs"


def test_all_that_reads_pairs_reads_those_of_all_parts(parts, tmp_path, tiny_dataset):
    join(f"{parts}/part_*", str(tmp_path / "all"))
    cases = load_cases(tmp_path / "all", "training")
    assert [case.patient for case in cases] == [f"synthetic_{i}_{j:02d}" for i in range(3) for j in range(2)]
    assert len(regime_cases(tiny_dataset, tmp_path / "all", "R+1.5S", seed=0)[0]) == 4 + 6
    manifest = json.loads((tmp_path / "all/manifest.json").read_text())
    assert [case["name"] for case in manifest["cases"]] == [case.patient for case in cases]
    assert json.loads((tmp_path / "all/dataset.json").read_text())["training"][0]["image"].startswith(
        "../pairs/part_0/"
    )


def test_a_folder_inside_the_pattern_is_joined_again_without_itself(parts):
    for _ in range(2):
        join(f"{parts}/*", str(parts / "all"), overwrite=True)
    assert len(load_cases(parts / "all", "training")) == 6


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda part: (part / "dataset.json").unlink(), r"\['part_1'\] are not finished"),
        (
            lambda part: write_json(part / "manifest.json", {**read_json(part / "manifest.json"), "seed": 1}),
            "another seed than .*part_0",
        ),
        (lambda part: shutil.copytree(part, part.with_name("part_3")), r"hold the cases \['synthetic_1_00.nii.gz'"),
        (lambda part: shutil.rmtree(part.parent), "no such folder"),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts, tmp_path, harm, message):
    harm(parts / "part_1")
    with pytest.raises(UserError, match=message):
        join(f"{parts}/part_*", str(tmp_path / "all"))
    assert not (tmp_path / "all").exists()


def test_a_manifest_of_another_program_is_not_replaced(parts, tmp_path):
    (tmp_path / "all").mkdir()
    (tmp_path / "all/manifest.json").write_text('{"mine": 1}')
    for overwrite in (False, True):
        with pytest.raises(UserError, match="holds a manifest.json already; choose another --output_dir, as no pairs"):
            join(f"{parts}/part_*", str(tmp_path / "all"), overwrite)
    assert (tmp_path / "all/manifest.json").read_text() == '{"mine": 1}'


def test_a_manifest_of_another_program_is_no_leave_to_delete_scans(tmp_path, tiny_dataset):
    """`--overwrite` into a folder of scans that has a manifest.json and a dataset.json of its own."""
    shutil.copytree(tiny_dataset, tmp_path / "mine")
    write_json(tmp_path / "mine/manifest.json", {"cases": [{"name": "case_00"}], "modality": "MR"})
    before = {path: path.read_bytes() for path in (tmp_path / "mine").rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="holds something else than `lldm3d generate` made"):
        claim(tmp_path / "mine", {"lldm3d": "0.9.0", "method": "lldm", "cases": []}, overwrite=True)
    with pytest.raises(UserError, match="holds a dataset.json already.*no pairs were joined or drawn there"):
        join(f"{tmp_path}/none*", str(tmp_path / "mine"), overwrite=True)
    assert before == {path: path.read_bytes() for path in before}


@pytest.mark.parametrize("cases", [[{"name": "../../mine"}], [{"name": "/mine"}], [{}], ["mine"], None])
def test_a_manifest_that_names_files_elsewhere_is_no_leave_to_delete_them(tmp_path, cases):
    target = tmp_path / "got"
    (target / "imagesTr").mkdir(parents=True)
    (target / "imagesTr/a.nii.gz").touch()
    (tmp_path / "mine.nii.gz").write_text("mine")
    manifest = {"lldm3d": "0.9.0", "method": "lldm"}
    write_json(target / "manifest.json", manifest | {"cases": cases})
    with pytest.raises(UserError, match="holds something else than"):
        claim(target, manifest | {"seed": 1, "cases": []}, overwrite=True)
    with pytest.raises(UserError, match="got: is not finished|are not finished|has no manifest.json of"):
        join(str(target), str(tmp_path / "all"))
    assert (tmp_path / "mine.nii.gz").read_text() == "mine" and (target / "imagesTr/a.nii.gz").exists()


def test_of_pairs_that_are_drawn_anew_only_the_drawn_files_go(parts):
    target, manifest = parts / "part_0", {"lldm3d": "0.9.0", "method": "lldm", "seed": 1, "cases": []}
    (target / "imagesTr/measurements.xlsx").write_text("mine")
    claim(target, manifest, overwrite=True)
    assert [path.name for path in (target / "imagesTr").iterdir()] == ["measurements.xlsx"]
    assert not list((target / "labelsTr").iterdir())


def test_clearing_that_was_killed_goes_on(parts, monkeypatch):
    target, manifest = parts / "part_0", {"lldm3d": "0.9.0", "method": "lldm", "seed": 1, "cases": []}
    with monkeypatch.context() as killed:
        killed.setattr("lldm3d.pairs.folder.product", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            claim(target, manifest, overwrite=True)
    claim(target, manifest, overwrite=True)
    assert not list((target / "labelsTr").iterdir()) and read_json(target / "manifest.json")["seed"] == 1


def test_what_a_killed_process_left_half_written_goes_once_the_pairs_are_whole(parts, tiny_dataset):
    target, names = parts / "part_0", ["synthetic_0_00", "synthetic_0_01"]
    half, own = target / "imagesTr/.partial-ab.nii.gz", target / "imagesTr/notes.txt"
    half.touch()
    own.touch()
    with pytest.raises(UserError, match="lacks"):
        write_dataset_json(target, tiny_dataset, "pairs", [*names, "missing"], [*names, "missing"])
    assert half.exists()
    write_dataset_json(target, tiny_dataset, "pairs", names, names)
    assert not half.exists() and own.exists()


def test_pairs_that_a_shorter_call_does_not_name_stay_in_the_manifest_and_are_compared_and_cleared(parts):
    target = parts / "part_0"
    manifest = read_json(target / "manifest.json")
    first, second = manifest["cases"]
    claim(target, manifest | {"cases": [first]}, overwrite=False)
    assert read_json(target / "manifest.json")["cases"] == [first, second]
    with pytest.raises(UserError, match="differ from these in labels"):
        claim(target, manifest | {"cases": [first, second | {"label_sha256": "of another"}]}, overwrite=False)
    claim(target, manifest | {"seed": 1}, overwrite=True)
    assert not list(target.glob("*Tr/*.nii.gz")), "none of another seed is left under the new manifest"
