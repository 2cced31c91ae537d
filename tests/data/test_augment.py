"""Augmentation of batches: what MONAI's transforms do to single cases."""

import pytest
import torch
from monai.transforms import Affine
from monai.transforms.utils import create_rotate

from lldm3d.data.augmentation import AugmentedBatch, warp

OFF = {"rotation": 0.0, "scaling": 0.0, "factor": 0.0, "offset": 0.0, "noise": 0.0, "prob": 1.0, "noise_prob": 1.0}
SIZE = (9, 12, 10)


def batch(cases: int = 3) -> dict:
    torch.manual_seed(0)
    return {"image": torch.rand(cases, 1, *SIZE), "label": torch.randint(3, (cases, 1, *SIZE), dtype=torch.uint8)}


def test_cases_are_moved_as_monai_moves_them():
    drawn, parameters = batch(2), [([0.1, -0.05, 0.08], [1.1, 0.9, 1.05]), ([-0.1, 0.02, 0.0], [0.95, 1.0, 1.1])]
    for image, label, (angles, scales) in zip(drawn["image"], drawn["label"], parameters, strict=True):
        matrix = create_rotate(3, angles, backend="torch")[:3, :3] * torch.tensor(scales)
        for moved, volume, mode in zip(
            warp(image, label, matrix), (image, label), ("bilinear", "nearest"), strict=True
        ):
            affine = Affine(angles, scale_params=scales, mode=mode, padding_mode="border", image_only=True)
            assert torch.allclose(moved.float(), affine(volume.float()).as_tensor(), atol=1e-5)


def test_without_ranges_nothing_changes():
    image, label = AugmentedBatch(**OFF)(batch())
    assert torch.allclose(image, batch()["image"], atol=1e-6) and torch.equal(label, batch()["label"])
    assert label.dtype == torch.uint8


@pytest.mark.parametrize(
    "name, change",
    [
        ("factor", lambda image, before: image / before - 1),
        ("offset", lambda image, before: image - before),
    ],
)
def test_each_case_has_one_change_of_its_values_within_the_range(name, change):
    augment, found = AugmentedBatch(**OFF | {name: 0.1, "prob": 0.5}), []
    for _ in range(200):
        drawn = batch()
        before = drawn["image"].clone() + 0.01
        torch.seed()
        image, _ = augment({**drawn, "image": before.clone()})
        changes = change(image, before).flatten(1)
        assert torch.allclose(changes, changes[:, :1].expand_as(changes), atol=1e-4)
        found.append(changes[:, 0])
    found = torch.cat(found)
    assert found.abs().max() < 0.1 + 1e-4 and found.max() > 0.08 and found.min() < -0.08
    assert 0.35 < (found.abs() > 1e-4).float().mean() < 0.65  # how often


def test_noise_is_drawn_for_some_cases_up_to_its_standard_deviation():
    augment, found = AugmentedBatch(**OFF | {"noise": 0.1, "noise_prob": 0.2}), []
    torch.manual_seed(1)
    for _ in range(200):
        zeros = {"image": torch.zeros(3, 1, *SIZE), "label": torch.zeros(3, 1, *SIZE, dtype=torch.uint8)}
        found.append(augment(zeros)[0].flatten(1).std(1))
    found = torch.cat(found)
    assert 0.1 < (found > 0).float().mean() < 0.3 and 0.08 < found.max() < 0.11


def test_half_of_the_cases_are_moved_each_in_a_way_of_its_own():
    augment, moved = AugmentedBatch(**OFF | {"rotation": 0.1, "scaling": 0.1, "prob": 0.5}), []
    torch.manual_seed(2)
    for _ in range(100):
        case = torch.rand(1, 1, *SIZE).repeat(2, 1, 1, 1, 1)
        label = (case * 3).to(torch.uint8)
        image, turned = augment({"image": case.clone(), "label": label.clone()})
        changed = [not torch.equal(image[index], case[index]) for index in range(2)]
        assert all(changed[index] or torch.equal(turned[index], label[index]) for index in range(2))
        assert not all(changed) or not torch.equal(image[0], image[1])
        moved += changed
    assert 0.35 < sum(moved) / len(moved) < 0.65
