import numpy as np
import pytest
from skimage.morphology import skeletonize

from lldm3d.data.dataset import Schema
from lldm3d.evaluation.labels import is_one_organ, label_statistics, skeleton_length
from lldm3d.lesions.masks import long_axis

SPACING = (1.0, 2.0, 3.0)
SCHEMA = Schema(
    "toy",
    ("background", "liver", "vessel", "tumour"),
    (40, 40, 40),
    SPACING,
    tubular=("vessel",),
    lesions=("tumour",),
    inside={"vessel": "liver", "tumour": "liver"},
)


@pytest.fixture
def label() -> np.ndarray:
    """A 30 x 20 x 20 organ with a straight vessel and two lesions of known size."""
    label = np.zeros((40, 40, 40), np.uint8)
    label[5:35, 10:30, 10:30] = 1
    label[8:28, 20, 20] = 2
    label[10:14, 14, 14] = 3
    label[10, 24:27, 24] = 3
    return label


def test_volumes_counts_and_long_axes(label):
    found = label_statistics(label, SCHEMA)
    assert found["volume", "liver"] == pytest.approx((30 * 20 * 20 - 20 - 7) * 6 / 1000)
    assert found["lesion_count", "tumour"] == 2 and found["components", "vessel"] == 1
    assert sorted(found["lesion_long_axis", "tumour"]) == pytest.approx([4, 6])


def test_the_euler_number_tells_a_loop_and_a_break(label):
    assert label_statistics(label, SCHEMA)["euler_number", "vessel"] == 1
    loop = np.zeros_like(label)
    loop[10:20, 10:20, 20] = 2
    loop[11:19, 11:19, 20] = 0
    assert label_statistics(loop, SCHEMA)["euler_number", "vessel"] == 0
    loop[14:16, 10, 20] = loop[14:16, 19, 20] = 0
    assert label_statistics(loop, SCHEMA)["euler_number", "vessel"] == 2


def test_continuity_tells_a_cut_vessel_from_a_crumb(label):
    label[label == 2] = 1
    label[8:28, 20, 20] = 2
    assert label_statistics(label, SCHEMA)["continuity", "vessel"] == 1
    label[25, 20, 20] = 1
    assert label_statistics(label, SCHEMA)["continuity", "vessel"] > 0.8
    label[17, 20, 20] = 1
    assert label_statistics(label, SCHEMA)["continuity", "vessel"] < 0.55
    label[label == 2] = 1
    assert not len(label_statistics(label, SCHEMA)["continuity", "vessel"])


def test_skeleton_length_is_in_mm_along_every_axis():
    for axis, length in enumerate(SPACING):
        mask = np.zeros((30, 30, 30), bool)
        mask[tuple(slice(5, 25) if k == axis else slice(14, 17) for k in range(3))] = True
        assert skeleton_length(skeletonize(mask), SPACING) == pytest.approx(
            19 * length, abs=2.5 * length
        )  # a skeleton's ends recede


def test_a_branching_counts_once():
    mask = np.zeros((30, 30, 5), bool)
    mask[5:25, 15, 2] = mask[15, 5:25, 2] = True
    assert skeleton_length(mask, (1, 1, 1)) == pytest.approx(38, abs=1)


def test_long_axis_of_a_ball_is_its_diameter():
    ball = ((np.indices((31, 31, 31)) - 15) ** 2).sum(0) <= 10**2
    assert long_axis(ball, (1, 1, 1)) == pytest.approx(21, abs=0.1)
    assert long_axis(ball, (2, 2, 2)) == pytest.approx(42, abs=0.2)


def test_a_lesion_outside_its_organ_is_noticed(label):
    inside = label_statistics(label, SCHEMA)
    assert inside["held_share", "tumour"] == 1 and inside["enclosed_share", "tumour"] == 1
    label[0:3, 2, 2] = 3
    outside = label_statistics(label, SCHEMA)
    assert outside["held_share", "tumour"] == pytest.approx(2 / 3)
    assert outside["enclosed_share", "tumour"] < 0.8


def test_a_lesion_between_vessels_is_inside(label):
    label[15:18, 19:22, 19:22] = np.where(label[15:18, 19:22, 19:22] == 2, 2, 3)  # round the vessel
    assert label_statistics(label, SCHEMA)["enclosed_share", "tumour"] == 1


def test_an_absent_class_counts_zero_and_has_no_shape():
    found = label_statistics(np.zeros((40, 40, 40), np.uint8), SCHEMA)
    assert found["volume", "liver"] == 0 and found["skeleton_length", "vessel"] == 0
    assert len(found["lesion_long_axis", "tumour"]) == 0 and len(found["held_share", "tumour"]) == 0


def test_one_organ(label):
    assert is_one_organ(label, "liver", SCHEMA)
    label[17:19] = 0  # cut in two
    assert not is_one_organ(label, "liver", SCHEMA)
