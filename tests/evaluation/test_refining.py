"""Labels of pairs that most real networks contradict are mended; `study --pairs` reads them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.evaluation.toys import CLASSES, write_dataset, write_segmenter

from lldm3d.data.dataset import LEFT_OUT_VALUE, load_cases, load_schema
from lldm3d.data.regimes import regime_cases
from lldm3d.data.scans import read_pair
from lldm3d.errors import UserError
from lldm3d.evaluation.evaluate import evaluate
from lldm3d.evaluation.features import load_segmenter
from lldm3d.evaluation.filtering import keep_agreeing
from lldm3d.evaluation.refining import by_majority, pseudo_label, refine, without_contradicted
from lldm3d.files import load_nifti, read_json, save_nifti, write_json
from lldm3d.study.scores import data_list


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """Three equal networks of regime R, and two pairs; the second has just the label that they see."""
    work = tmp_path_factory.mktemp("refining")
    stages = [work / f"segment/steps/seg_resunet/multi/R/real/seed_{seed}" for seed in range(3)]
    write_segmenter(stages[0])
    for stage in stages[1:]:
        shutil.copytree(stages[0], stage)
    pairs = write_dataset(work / "pairs", {"training": [0, 1]})
    shutil.copytree(pairs, work / "dataset")
    seen = predicted(work, load_cases(pairs, "training")[1])
    save_nifti(pairs / "labelsTr/training_01.nii.gz", seen, load_nifti(pairs / "labelsTr/training_01.nii.gz")[1])
    return work


def predicted(work: Path, case) -> np.ndarray:
    network = load_segmenter(work / "segment/steps/seg_resunet/multi/R/real/seed_0", CLASSES)
    return network(read_pair(case, load_schema(work / "pairs")).image)[1]


def test_labels_become_what_most_networks_see_and_images_stay(work, tmp_path, capsys):
    refine(str(work), str(work / "pairs"), str(tmp_path / "refined"))
    before, after = (load_cases(folder, "training") for folder in (work / "pairs", tmp_path / "refined"))
    assert [Path(case.image).resolve() for case in after] == [Path(case.image).resolve() for case in before]
    for case in after:
        label, affine = load_nifti(case.label)
        assert label.dtype == np.uint8 and (label == predicted(work, case)).all()
        assert np.allclose(affine, load_nifti(case.image)[1])
    rows, share = read_json(tmp_path / "refined/manifest.json")["cases"], load_nifti(before[0].label)[0]
    share = (share != predicted(work, before[0])).mean()
    assert [row["refined"] for row in rows] == pytest.approx([share, 0], abs=1e-5) and share > 0
    assert f"3 networks gave {share / 2:.2%} of the voxels of 2 pairs another class" in capsys.readouterr().out
    real = write_dataset(tmp_path / "real", {"training": [7, 8], "validation": [9], "test": [10]})
    (phase,) = regime_cases(real, tmp_path / "refined", "S", 0)
    assert {case.label for case in phase} == {case.label for case in after}


def test_a_class_needs_more_than_half_of_the_votes():
    label = np.zeros((1, 1, 3), np.uint8)
    votes = np.array([[1, 1, 0], [1, 2, 2], [0, 0, 2]], np.uint8)[:, None, None]
    assert by_majority(votes, label).tolist() == [[[1, 0, 2]]]
    assert by_majority(votes[:2], label + 3).tolist() == [[[1, 3, 3]]]
    assert without_contradicted(votes, label).tolist() == [[[255, 255, 255]]], "for other classes, not for one"
    assert without_contradicted(votes[:2], label + 1).tolist() == [[[1, 1, 255]]]


def test_contradicted_voxels_are_left_out_and_declared_and_segmentations_alone_take_such_pairs(work, tmp_path, capsys):
    left = tmp_path / "left"
    refine(str(work), str(work / "pairs"), str(left), contradicted="left_out")
    before, after = (load_cases(folder, "training") for folder in (work / "pairs", left))
    for old, new in zip(before, after, strict=True):
        label, seen = load_nifti(old.label)[0], predicted(work, old)
        found = load_nifti(new.label)[0]
        assert found.dtype == np.uint8 and (found == np.where(label == seen, label, LEFT_OUT_VALUE)).all()
    assert read_json(left / "dataset.json")["left_out"] == LEFT_OUT_VALUE
    assert "3 networks left" in capsys.readouterr().out
    (phase,) = regime_cases(work / "dataset", left, "S", 0)
    assert {case.label for case in phase} == {case.label for case in after}
    assert data_list(work / "dataset", left, "S", 0)["left_out"] == LEFT_OUT_VALUE
    assert "left_out" not in data_list(work / "dataset", left, "R", 0)
    for reader in (
        lambda: evaluate(work / "dataset", left, tmp_path / "out"),
        lambda: keep_agreeing(str(work), str(left), str(tmp_path / "out")),
        lambda: refine(str(work), str(left), str(tmp_path / "out")),
    ):
        with pytest.raises(UserError, match="labels leave voxels out .value 255.*give the pairs it was made from"):
            reader()
    assert not (tmp_path / "out").exists()


def test_an_unknown_way_and_labels_that_leave_voxels_out_unsaid_are_refused(work, tmp_path):
    with pytest.raises(UserError, match="--contradicted 'dropped': give refined or left_out"):
        refine(str(work), str(work / "pairs"), str(tmp_path / "out"), contradicted="dropped")
    refine(str(work), str(work / "pairs"), str(tmp_path / "left"), contradicted="left_out")
    content = read_json(tmp_path / "left/dataset.json")
    content.pop("left_out")
    write_json(tmp_path / "left/dataset.json", content)
    with pytest.raises(UserError, match=r"training_00.nii.gz: holds the values .*255\], allowed are 0..3"):
        refine(str(work), str(tmp_path / "left"), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_pairs_of_another_data_set_are_refused(work, tmp_path):
    shutil.copytree(work / "pairs", tmp_path / "pairs")
    content = read_json(tmp_path / "pairs/dataset.json")
    write_json(tmp_path / "pairs/dataset.json", content | {"spacing": [9, 9, 9]})
    with pytest.raises(UserError, match=r"spacing \(9.0, 9.0, 9.0\) differ from .* make the pairs from this data set"):
        refine(str(work), str(tmp_path / "pairs"), str(tmp_path / "refined"))
    assert not (tmp_path / "refined").exists()


def test_too_few_networks_and_a_folder_of_others_are_refused(work, tmp_path):
    with pytest.raises(UserError, match="holds 0 segmentations of all classes in regime 0.1R, and 2 or more"):
        refine(str(work), str(work / "pairs"), str(tmp_path / "refined"), regime="0.1R")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(UserError, match="mine"):
        refine(str(work), str(work / "pairs"), str(tmp_path / "mine"), overwrite=True)
    assert (tmp_path / "mine/notes.txt").read_text() == "mine"


def test_scans_without_labels_get_those_that_most_networks_see(work, tmp_path, capsys):
    few = tmp_path / "few"
    shutil.copytree(work, few)
    content = read_json(few / "dataset/dataset.json")
    del content["training"][1]["label"]
    write_json(few / "dataset/dataset.json", content)
    pseudo_label(str(few), str(tmp_path / "voted"))
    (case,) = load_cases(tmp_path / "voted", "training")
    assert Path(case.image).resolve() == Path(load_cases(few / "dataset", "training")[1].image).resolve()
    label, affine = load_nifti(case.label)
    assert label.dtype == np.uint8 and (label == predicted(work, case)).all()
    assert np.allclose(affine, load_nifti(case.image)[1])
    assert "3 networks gave labels to 1 scans" in capsys.readouterr().out
    saw = read_json(tmp_path / "voted/manifest.json")["saw"]
    assert (saw["labelled_patients"], saw["unlabelled_patients"]) == (1, 1)
    with pytest.raises(UserError, match="all training scans have labels"):
        pseudo_label(str(work), str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_images_drawn_without_labels_become_pairs(work, tmp_path):
    images, voted = tmp_path / "images", tmp_path / "voted"
    shutil.copytree(work / "pairs", images)
    content = read_json(images / "dataset.json")
    for case in content["training"]:
        del case["label"]
    write_json(images / "dataset.json", content)
    rows = [{"name": f"training_0{number}", "seed": number} for number in (0, 1)]
    write_json(images / "manifest.json", {"lldm3d": "0", "method": "ddpm", "cases": rows})
    pseudo_label(str(work), str(voted), pairs=str(images))
    for case in load_cases(voted, "training"):
        assert Path(case.image).resolve().parent == (images / "imagesTr").resolve()
        assert (load_nifti(case.label)[0] == predicted(work, case)).all()
    manifest = read_json(voted / "manifest.json")
    assert manifest["method"] == "ddpm" and len(manifest["pseudo_labelled"]["networks"]) == 3
    assert manifest["cases"] == [row | {"pseudo_labelled": True} for row in rows]
    real = write_dataset(tmp_path / "real", {"training": [7, 8], "validation": [9], "test": [10]})
    (phase,) = regime_cases(real, voted, "S", 0)
    assert len(phase) == 2
    with pytest.raises(UserError, match="all training scans have labels; mend them by `lldm3d refine`"):
        pseudo_label(str(work), str(tmp_path / "none"), pairs=str(work / "pairs"))
    write_json(images / "dataset.json", content | {"spacing": [9, 9, 9]})
    with pytest.raises(UserError, match="make the pairs from this data set"):
        pseudo_label(str(work), str(tmp_path / "none"), pairs=str(images))
    assert not (tmp_path / "none").exists()
