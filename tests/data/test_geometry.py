from lldm3d.data.case_preparation import choose_roi_size
from lldm3d.data.checks import CaseRecord


def record(size, labelled) -> CaseRecord:
    return CaseRecord(faults=[], size=size, spacing=(2, 1, 1), labelled=labelled)


def test_the_size_is_what_scans_fill_unless_labels_need_more():
    usual, large = record((20, 40, 24), (5, 38, 10)), record((90, 90, 90), (80, 38, 10))
    assert choose_roi_size([usual] * 39 + [large], (1, 1, 1), None) == (32, 48, 16)  # 40 mm filled; 38 voxels labelled
    assert choose_roi_size([usual, large], (1, 1, 1), None)[0] == 160  # one case in two needs it
    assert choose_roi_size([usual], (1, 1, 1), (64, 64, 64)) == (64, 64, 64)
