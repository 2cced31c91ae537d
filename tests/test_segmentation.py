"""The table of case metrics."""

import csv

import pytest

from lldm3d.errors import UserError
from lldm3d.segmentation import write_case_metrics

DICE = "filename,class0,class1,mean\n/d/b.nii.gz,0.9,nan,0.9\n/d/a.nii.gz,0.8,0.7,0.75\n"
HD95 = "filename,class0,class1,mean\n/d/b.nii.gz,1.5,nan,1.5\n/d/a.nii.gz,2.0,inf,inf\n"


@pytest.fixture
def evaluation(tmp_path):
    (tmp_path / "val_mean_dice_raw.csv").write_text(DICE)
    (tmp_path / "val_hd95_raw.csv").write_text(HD95)
    return tmp_path


def test_one_row_for_each_case_and_class_and_undefined_values_are_empty(evaluation, tmp_path):
    write_case_metrics(evaluation, ["background", "liver", "vein"], tmp_path / "metrics.csv")
    with open(tmp_path / "metrics.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["case", "class", "dice", "hd95"],
        ["a", "liver", "0.8", "2.0"],
        ["a", "vein", "0.7", ""],
        ["b", "liver", "0.9", "1.5"],
        ["b", "vein", "", ""],
    ]


def test_other_classes_than_the_data_set_s_are_refused_and_nothing_is_left(evaluation, tmp_path):
    with pytest.raises(UserError, match="has 2 classes, but the data set has 1 .liver"):
        write_case_metrics(evaluation, ["background", "liver"], tmp_path / "out" / "metrics.csv")
    assert not (tmp_path / "out").exists()


def test_a_missing_file_is_named_with_its_mend(tmp_path):
    with pytest.raises(UserError, match="val_mean_dice_raw.csv: no such file; run .*evaluate.yaml"):
        write_case_metrics(tmp_path, ["background", "liver"], tmp_path / "metrics.csv")
