"""A stage's data list and the table of its scores."""

import csv
import shutil

import nibabel as nib
import numpy as np
import pytest
from monai.data import load_decathlon_datalist

from lldm3d.data.dataset import build_task, load_cases, load_schema
from lldm3d.errors import UserError
from lldm3d.files import read_json, write_json
from lldm3d.study.scores import data_list, read_saw, write_case_metrics, write_data_lists
from lldm3d.study.stages import SegmentStage


@pytest.fixture
def predictions(tiny_dataset, tmp_path):
    """For the two test cases: a perfect prediction, and an empty one, of the task that takes vein and liver as one."""
    for number, case in enumerate(load_cases(tiny_dataset, "test")):
        label = nib.load(case.label)
        found = (label.get_fdata() > 0) * (number == 0)
        nib.save(nib.Nifti1Image(found.astype(np.uint8), label.affine), tmp_path / f"{case.name}_pred.nii.gz")
    return tmp_path


def task(tiny_dataset, **merged):
    return build_task("mine", merged, load_schema(tiny_dataset))


def test_classes_are_merged_and_misses_count_in_all_but_the_distance(tiny_dataset, predictions, tmp_path):
    merged = task(tiny_dataset, organ=["liver", "portal vein"])
    write_case_metrics(tiny_dataset, predictions, merged, tmp_path / "metrics.csv")
    with open(tmp_path / "metrics.csv", newline="") as file:
        good, missed = csv.DictReader(file)
    assert (good["case"], good["patient"], good["class"]) == ("case_06", "case_06", "organ")
    assert (good["dice"], good["hd95"], good["nsd"], good["cldice"]) == ("1.0", "0.0", "1.0", "")
    assert (missed["dice"], missed["hd95"], missed["nsd"]) == ("0.0", "", "0.0")


def test_a_prediction_that_is_missing_or_of_another_task_is_told(tiny_dataset, predictions, tmp_path):
    with pytest.raises(UserError, match="case_06_pred.nii.gz: no such file"):
        write_case_metrics(tiny_dataset, tmp_path / "none", task(tiny_dataset, liver=["liver"]), tmp_path / "m.csv")
    nib.save(nib.Nifti1Image(np.full([16] * 3, 3, np.uint8), np.eye(4)), predictions / "case_06_pred.nii.gz")
    with pytest.raises(UserError, match="values up to 3.*task mine 1 classes"):
        write_case_metrics(tiny_dataset, predictions, task(tiny_dataset, liver=["liver"]), tmp_path / "m.csv")
    assert not (tmp_path / "m.csv").exists()


def test_monai_reads_the_data_list_of_a_stage(tiny_dataset, tiny_synthetic, tmp_path):
    write_data_lists(tiny_dataset, tiny_synthetic, "R+0.5S", 0, tmp_path / "stage")
    lists = {split: load_decathlon_datalist(tmp_path / "stage" / "dataset.json", data_list_key=split)
             for split in ("training", "validation", "test")}  # fmt: skip
    assert {split: len(cases) for split, cases in lists.items()} == {"training": 6, "validation": 2, "test": 2}
    images = [case["image"] for cases in lists.values() for case in cases]
    assert sum(str(tiny_synthetic) in image for image in images) == 2 and len(set(images)) == 10
    assert load_schema(tmp_path / "stage") == load_schema(tiny_dataset)


def test_two_trainings_have_two_data_lists_that_are_validated_and_tested_alike(tiny_dataset, tiny_synthetic, tmp_path):
    write_data_lists(tiny_dataset, tiny_synthetic, "0.5S>R", 0, tmp_path)
    first, last = (read_json(tmp_path / name) for name in ("first/dataset.json", "dataset.json"))
    assert len(first["training"]) == 2 and all(str(tiny_synthetic) in case["image"] for case in first["training"])
    assert len(last["training"]) == 4 and all(str(tiny_dataset) in case["image"] for case in last["training"])
    assert first["validation"] == last["validation"] and first["test"] == last["test"]
    with pytest.raises(UserError, match="0.5S>R has two trainings, and so no single list; take S and R"):
        data_list(tiny_dataset, tiny_synthetic, "0.5S>R", 0)


def test_what_the_generator_saw_is_kept_with_each_segmentation(tiny_dataset, tiny_synthetic, tmp_path):
    saw = {"label_fraction": 0.5, "labelled_only": False, "seed": 0, "labelled_patients": 2, "unlabelled_patients": 2}
    shutil.copytree(tiny_synthetic, tmp_path / "pairs")
    write_json(tmp_path / "pairs/manifest.json", {"saw": saw})
    arms = {"lldm": tmp_path / "pairs", "other": tiny_synthetic, "real": None}  # another program's have no manifest
    stages = {name: SegmentStage("steps", "seg_unet", "multi", "0.5R+0.5S", name, 0) for name in arms}
    stages["real"] = SegmentStage("steps", "seg_unet", "multi", "R", "real", 0)
    for name, stage in stages.items():
        write_data_lists(tiny_dataset, arms[name], stage.regime, 0, tmp_path / stage.path)
        (tmp_path / stage.path / "metrics.csv").touch()
    assert read_saw(tmp_path) == [(stages["lldm"], saw), (stages["other"], None)]
