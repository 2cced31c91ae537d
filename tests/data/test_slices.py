"""A volume cut into slices and stack_slices is itself; a data set of slices holds those that show something."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, ToTensord

from lldm3d.data.slices import SliceDataset, check_classes, chosen_slices, labelled_cases, slices_of, stack_slices
from lldm3d.errors import UserError

KEYS = ["image", "label"]
READ = Compose([LoadImaged(KEYS), EnsureChannelFirstd(KEYS, channel_dim="no_channel"), ToTensord(KEYS)])


def test_a_volume_cut_and_stacked_is_itself():
    volume = torch.rand(2, 3, 4, 5, 6)
    slices = slices_of(volume)
    assert slices.shape == (12, 3, 4, 5) and torch.equal(slices[7], volume[1, :, :, :, 1])
    assert torch.equal(stack_slices(slices, 6), volume)


@pytest.mark.parametrize("classes", [2, 9])
def test_slices_with_a_hundredth_of_labelled_voxels_are_taken_and_a_tenth_of_the_others(classes):
    label = torch.zeros(1, 10, 10, 25, dtype=torch.uint8)
    label[0, :1, :1, 4] = classes - 1  # one voxel of a hundred
    assert chosen_slices(label) == [0, 4, 11, 21]


@pytest.fixture
def data(tmp_path) -> list[dict]:
    cases = []
    for number in range(2):
        label = np.zeros((4, 5, 6), np.uint8)
        label[1:3, 1:3, 2:5] = number + 1
        arrays, case = {"image": label + 10 * np.arange(6, dtype=np.float32), "label": label}, {}
        for key, array in arrays.items():
            case[key] = str(tmp_path / f"{key}_{number}.nii.gz")
            nib.save(nib.Nifti1Image(array, np.eye(4)), case[key])
        cases.append(case)
    return cases


def test_an_item_is_a_slice_of_a_case_with_a_number_of_its_own(data, tmp_path):
    found = SliceDataset(data, READ, tmp_path / "cache")
    assert len(found) == 8 and found.places[4:] == [(1, 0), (1, 2), (1, 3), (1, 4)]
    item = found[5]
    assert item["index"] == 5 and item["image"].shape == item["label"].shape == (1, 4, 5)
    assert item["label"].max() == 2 and item["image"].max() == 22


def test_classes_that_are_not_there_or_not_known_are_named(data, tmp_path):
    cases = SliceDataset(data, READ, tmp_path / "cache").cases
    check_classes(cases, ["background", "a", "b"])
    with pytest.raises(UserError, match="no training case has c: .*lldm3d prepare"):
        check_classes(cases, ["background", "a", "b", "c"])
    with pytest.raises(UserError, match=r"hold the values \[2\]; allowed are 0 background, 1 a"):
        check_classes(cases, ["background", "a"])


def test_cases_without_a_label_are_left_out():
    assert labelled_cases([{"image": "a"}, {"image": "b", "label": "c"}], "training") == [{"image": "b", "label": "c"}]
    with pytest.raises(UserError, match="no validation case has a label"):
        labelled_cases([{"image": "a"}], "validation")
