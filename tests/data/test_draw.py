"""Crops for a training: drawn as MONAI's RandCropByPosNegLabeld draws them."""

from collections import Counter

import pytest
import torch
from monai.transforms import RandCropByPosNegLabeld

from lldm3d.data.augmentation import ForegroundIndicesd, PosNegCropd

KEYS = ["image", "label"]
SIZE = (3, 4, 5)


def volumes(foreground: slice | None) -> dict:
    """An image whose values say where they are, and a label of one row."""
    label = torch.zeros(1, 4, 6, 7, dtype=torch.uint8)
    if foreground is not None:
        label[0, 1, foreground, 2] = 2
    return ForegroundIndicesd("label")({"image": torch.arange(168.0).view(1, 4, 6, 7), "label": label})


def places(crop, data: dict, draws: int = 1000) -> Counter:
    """How often a crop began at each place."""
    crop.set_random_state(0)
    found = []
    for _ in range(draws):
        item = crop({key: data[key] for key in data})
        found.append(int((item[0] if isinstance(item, list) else item)["image"].flatten()[0]))
    return Counter(found)


def test_crops_lie_where_monais_do_as_often():
    data = volumes(slice(3, 5))
    ours = places(PosNegCropd(KEYS, SIZE), data)
    theirs = places(RandCropByPosNegLabeld(KEYS, "label", SIZE, pos=1, neg=1, num_samples=1), data)
    assert set(ours) == set(theirs)
    assert all(abs(ours[place] - theirs[place]) < 80 for place in theirs)  # of 1000: 4 standard deviations at most


@pytest.mark.parametrize("value", [0, 1])
def test_a_label_without_background_or_foreground_is_cropped_too(value):
    label = torch.full((1, 4, 6, 7), value, dtype=torch.uint8)
    data = ForegroundIndicesd("label")({"image": label.float(), "label": label})
    assert PosNegCropd(KEYS, SIZE)(data)["label"].shape == (1, *SIZE)


def test_image_and_label_are_cropped_alike():
    data = volumes(slice(0, 6))
    data["label"] = (data["image"] % 2).to(torch.uint8)
    crop = PosNegCropd(KEYS, SIZE).set_random_state(0)
    for item in (crop(data) for _ in range(20)):
        assert torch.equal(item["label"], (item["image"] % 2).to(torch.uint8))
