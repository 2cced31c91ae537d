import numpy as np
import pytest

from lldm3d.evaluation.labels import shape_rows
from lldm3d.evaluation.metrics import Compared, Metric
from lldm3d.evaluation.records import CaseRecords, Record


def records(number: int, seed: int, volume: float = 10.0, spread: float = 1.0) -> CaseRecords:
    """Cases that have a volume and, two of three, lesions with a long axis."""
    rng = np.random.default_rng(seed)
    statistics = [
        {
            ("volume", "liver"): rng.normal(volume, spread, 1),
            ("lesion_long_axis", "tumour"): rng.normal(20, 3, index % 3),
        }
        for index in range(number)
    ]
    return CaseRecords([], [Record({}, np.empty(0), statistics=item) for item in statistics])


def test_shape_precision_and_recall_tell_odd_label_maps_from_equal_ones():
    training, test = records(60, 0), records(30, 1)

    def found(synthetic: CaseRecords) -> dict:
        return {
            row.metric: row.value
            for row in shape_rows(synthetic, training, test, 0)
            if row.compared == Compared.SYNTHETIC_TRAINING
        }

    good, odd, equal = found(records(40, 2)), found(records(40, 3, volume=20)), found(records(40, 4, spread=0.01))
    assert good[Metric.SHAPE_PRECISION] > 0.8 and good[Metric.SHAPE_RECALL] > 0.8
    assert odd[Metric.SHAPE_PRECISION] == pytest.approx(0, abs=0.1)
    assert equal[Metric.SHAPE_PRECISION] > 0.8 and equal[Metric.SHAPE_RECALL] < 0.7 * good[Metric.SHAPE_RECALL]


def test_too_few_label_maps_give_the_reason():
    row = shape_rows(records(4, 2), records(60, 0), records(30, 1), 0)[0]
    assert row.value is None and "at least 6" in row.note
