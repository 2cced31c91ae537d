import numpy as np
import pytest

from lldm3d.evaluation.labels import shape_rows
from lldm3d.evaluation.records import Record, Survey


def side(number: int, seed: int, volume: float = 10.0, spread: float = 1.0) -> Survey:
    """Cases that have a volume and, two of three, lesions with a long axis."""
    rng = np.random.default_rng(seed)
    statistics = [
        {
            ("volume", "liver"): rng.normal(volume, spread, 1),
            ("lesion long axis", "tumour"): rng.normal(20, 3, index % 3),
        }
        for index in range(number)
    ]
    return Survey([], [Record({}, np.empty(0), statistics=item) for item in statistics])


def test_shape_precision_and_recall_tell_odd_label_maps_from_equal_ones():
    training, test = side(60, 0), side(30, 1)

    def found(synthetic: Survey) -> dict:
        return {
            row.name: row.value
            for row in shape_rows(synthetic, training, test, 0)
            if row.between.endswith("real training")
        }

    good, odd, equal = found(side(40, 2)), found(side(40, 3, volume=20)), found(side(40, 4, spread=0.01))
    assert good["shape precision"] > 0.8 and good["shape recall"] > 0.8
    assert odd["shape precision"] == pytest.approx(0, abs=0.1)
    assert equal["shape precision"] > 0.8 and equal["shape recall"] < 0.7 * good["shape recall"]


def test_too_few_label_maps_give_the_reason():
    row = shape_rows(side(4, 2), side(60, 0), side(30, 1), 0)[0]
    assert row.value is None and "at least 6" in row.note
