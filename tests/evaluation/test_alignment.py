"""Agreement of labels and predictions, and of the small and the large apart."""

import numpy as np
import pytest

from lldm3d.data.dataset import Schema
from lldm3d.evaluation.alignment import alignment_rows, class_agreement
from lldm3d.evaluation.metrics import Compared, Metric

SCHEMA = Schema("test", ("background", "liver"), (16, 16, 16), (1.0, 1.0, 1.0))


def case(side: int, found: bool = True):
    """The scores of a cube that is found but for its last layer, or not at all."""
    label, pred = np.zeros((2, 16, 16, 16), np.uint8)
    label[:side, :side, :side] = 1
    pred[: side - 1, :side, :side] = found
    return class_agreement(pred, label, SCHEMA)


def test_the_small_are_judged_beside_the_small():
    real = [case(side) for side in (3, 3, 3, 6, 6, 6, 12, 12, 12)]
    synthetic = [case(3, found=False), case(4, found=False), case(4), case(12)]
    rows = alignment_rows(synthetic, real, SCHEMA, {"variant": None})
    dice, missed = (
        {row.variant: row for row in rows if row.metric == metric and row.variant}
        for metric in (Metric.ALIGNMENT_DICE, Metric.ALIGNMENT_MISSED)
    )
    assert list(dice) == ["small third", "middle third", "large third"]
    assert missed["small third"].value == pytest.approx(2 / 3) and missed["small third"].floor == 0
    assert missed["large third"].value == 0 and dice["large third"].n == 1
    assert (dice["large third"].value, dice["large third"].floor) == pytest.approx((22 / 23, 22 / 23))
    assert dice["middle third"].value is None and dice["middle third"].note == "no synthetic case is here"
    assert all(row.compared == Compared.LABEL_SEGMENTATION for row in dice.values())


def test_few_real_cases_have_no_thirds():
    rows = alignment_rows([case(3)], [case(side) for side in range(3, 11)], SCHEMA, {})
    assert rows and not any(row.variant for row in rows)
