"""The metrics on masks whose values are known."""

import math

import numpy as np
import pytest

from lldm3d.agreement import agreement, lesion_rates, tolerance_of

SPACING = (1.0, 1.0, 2.0)  # mm


def box(*starts: int, size: int = 6) -> np.ndarray:
    mask = np.zeros((20, 20, 20), bool)
    mask[tuple(slice(start, start + size) for start in starts)] = True
    return mask


def test_equal_masks_agree_fully():
    found = agreement(box(5, 5, 5), box(5, 5, 5), SPACING, tubular=True, lesions=True)
    assert found == {"dice": 1, "hd95": 0, "nsd": 1, "cldice": 1, "lesion_sensitivity": 1, "lesion_precision": 1}


def test_a_shift_is_measured_in_mm_and_forgiven_within_the_tolerance():
    assert tolerance_of(SPACING) == 2
    one, two = (agreement(box(5, 5, 5 + shift), box(5, 5, 5), SPACING) for shift in (1, 2))
    assert one["dice"] == pytest.approx(5 / 6) and one["hd95"] == 2 and one["nsd"] == 1
    assert two["hd95"] == 4 and 0 < two["nsd"] < 1


def test_a_miss_is_zero_everywhere_but_in_the_distance():
    found = agreement(np.zeros((20, 20, 20), bool), box(5, 5, 5), SPACING, tubular=True, lesions=True)
    assert math.isnan(found.pop("hd95")) and math.isnan(found.pop("lesion_precision"))
    assert set(found.values()) == {0}


def test_without_the_class_only_a_false_lesion_counts():
    nothing = np.zeros((20, 20, 20), bool)
    found = agreement(box(5, 5, 5), nothing, SPACING, tubular=True, lesions=True)
    assert found.pop("lesion_precision") == 0 and all(math.isnan(value) for value in found.values())
    assert all(math.isnan(value) for value in agreement(nothing, nothing, SPACING, lesions=True).values())


def test_lesions_are_counted_one_by_one():
    truth = box(1, 1, 1, size=4) | box(12, 12, 12, size=4)
    pred = box(2, 1, 1, size=4) | box(1, 12, 1, size=3) | box(12, 12, 12, size=1)
    # the first is found (IoU 0.6), the second touched by one voxel of 64 (IoU 0.016), and one is false
    assert lesion_rates(pred, truth) == (0.5, pytest.approx(1 / 3))
