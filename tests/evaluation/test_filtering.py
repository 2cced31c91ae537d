"""Pairs are kept by how well real networks agree with their labels; `study --pairs` reads what is kept."""

import shutil
from pathlib import Path

import pytest
from tests.evaluation.toys import CLASSES, write_dataset, write_segmenter

from lldm3d.data.dataset import load_cases, load_schema
from lldm3d.data.regimes import regime_cases
from lldm3d.data.scans import read_pair
from lldm3d.errors import UserError
from lldm3d.evaluation.features import load_segmenter
from lldm3d.evaluation.filtering import keep_agreeing
from lldm3d.evaluation.refining import refine
from lldm3d.files import load_nifti, read_json, save_nifti, write_json


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A network of regime R, and four pairs of which the second and the last have just the labels that it sees."""
    work = tmp_path_factory.mktemp("filtering")
    stage = work / "segment/steps/seg_resunet/multi/R/real/seed_0"
    write_segmenter(stage)
    network, pairs = load_segmenter(stage, CLASSES), write_dataset(work / "pairs", {"training": [0, 1, 2, 3]})
    for case in load_cases(pairs, "training")[1::2]:
        _, seen = network(read_pair(case, load_schema(pairs)).image)
        save_nifti(Path(case.label), seen, load_nifti(case.label)[1])
    cases = [{"name": case.name, "seed": 0, "patient": case.patient} for case in load_cases(pairs, "training")]
    shutil.copytree(pairs, work / "dataset")
    write_json(pairs / "manifest.json", {"lldm3d": "0", "method": "lldm", "cases": cases})
    return work


def test_the_pairs_whose_labels_the_networks_see_are_kept(work, tmp_path, capsys):
    before = load_cases(work / "pairs", "training")
    keep_agreeing(str(work), str(work / "pairs"), str(tmp_path / "kept"), share=0.5)
    kept, manifest = load_cases(tmp_path / "kept", "training"), read_json(tmp_path / "kept/manifest.json")
    assert [Path(case.image).resolve() for case in kept] == [Path(case.image).resolve() for case in before[1::2]]
    assert [(case["name"], case["agreement"]) for case in manifest["cases"]] == [(case.name, 1.0) for case in kept]
    assert manifest["cases"][0]["patient"] == "training1" and manifest["filtered"]["share"] == 0.5
    assert "kept 2 of 4 pairs, with a Dice of 1.000 or more" in capsys.readouterr().out
    real = write_dataset(tmp_path / "real", {"training": [7, 8], "validation": [9], "test": [10]})
    (phase,) = regime_cases(real, tmp_path / "kept", "S", 0)
    assert {case.name for case in phase} == {case.name for case in kept}


def test_what_cannot_be_filtered_is_refused(work, tmp_path):
    pairs = str(work / "pairs")
    for share in (0, 1, "half"):
        with pytest.raises(UserError, match="--share .*: give a share above 0 and below 1"):
            keep_agreeing(str(work), pairs, str(tmp_path / "kept"), share=share)
    with pytest.raises(UserError, match="holds 0 segmentations of all classes in regime R, .*`lldm3d study"):
        keep_agreeing(str(tmp_path), pairs, str(tmp_path / "kept"))
    with pytest.raises(UserError, match="holds the pairs themselves"):
        keep_agreeing(str(work), pairs, pairs, overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something else"):
        keep_agreeing(str(work), pairs, str(tmp_path / "mine"), overwrite=True)
    assert len(load_cases(pairs, "training")) == 4


def test_a_folder_that_cannot_be_written_is_refused_before_any_network_is_loaded(work, tmp_path, monkeypatch):
    monkeypatch.setattr("lldm3d.evaluation.filtering.load_segmenter", None)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file/kept: cannot be written .Not a directory"):
        keep_agreeing(str(work), str(work / "pairs"), str(tmp_path / "file/kept"))


def test_networks_that_saw_more_labels_than_the_generator_do_not_judge_its_pairs(work, tmp_path):
    pairs = shutil.copytree(work / "pairs", tmp_path / "pairs")
    manifest = read_json(pairs / "manifest.json")
    write_json(pairs / "manifest.json", manifest | {"saw": {"label_fraction": 0.1, "seed": 1}})
    for judge in (keep_agreeing, refine):
        with pytest.raises(UserError, match="generator saw the labels of 0.1R; give --regime 0.1R"):
            judge(str(work), str(pairs), str(tmp_path / "kept"))
    shutil.copytree(work / "segment", tmp_path / "work/segment")
    shutil.copytree(work / "dataset", tmp_path / "work/dataset")
    networks = tmp_path / "work/segment/steps/seg_resunet/multi"
    (networks / "R").rename(networks / "0.1R")
    with pytest.raises(UserError, match="0 segmentations of all classes in regime 0.1R of seed 1, .*--seeds 1"):
        keep_agreeing(str(tmp_path / "work"), str(pairs), str(tmp_path / "kept"), regime="0.1R")
    (networks / "0.1R/real/seed_0").rename(networks / "0.1R/real/seed_1")
    keep_agreeing(str(tmp_path / "work"), str(pairs), str(tmp_path / "kept"), regime="0.1R")
    assert len(load_cases(tmp_path / "kept", "training")) == 2
