import os
import time

import numpy as np
import pytest

from lldm3d.data.dataset import load_cases, load_schema
from lldm3d.evaluation.features import load_segmenter
from lldm3d.evaluation.observer import Cache, Observer
from lldm3d.files import load_nifti, save_nifti

from .toys import write_dataset, write_segmenter


@pytest.fixture
def observer(tmp_path) -> Observer:
    write_dataset(tmp_path / "dataset", {"training": [0, 1]})
    write_segmenter(tmp_path / "stage")
    schema = load_schema(tmp_path / "dataset")
    return Observer(schema, load_segmenter(tmp_path / "stage", schema.class_names))


def test_a_case_is_looked_at_once_and_comes_back_the_same(tmp_path, observer, monkeypatch):
    case = load_cases(tmp_path / "dataset", "training")[0]
    seen = observer(case, score=True, blur=True)
    first = Cache(observer, tmp_path / "cache")(case, score=True, blur=True)
    monkeypatch.setattr(Observer, "__call__", lambda *arguments, **options: pytest.fail("looked again"))
    again = Cache(observer, tmp_path / "cache")(case, score=True, blur=True)
    for record in (first, again):
        assert record.scores == seen.scores and record.label == seen.label and record.one_organ == seen.one_organ
        for name in ("features", "blurred", "statistics"):
            for key, values in getattr(seen, name).items():
                np.testing.assert_array_equal(getattr(record, name)[key], values)
        np.testing.assert_array_equal(record.coarse, seen.coarse)


def test_what_a_record_depends_on_makes_a_new_one(tmp_path, observer):
    case = load_cases(tmp_path / "dataset", "training")[0]
    keys = [observer.key(case, score=True), observer.key(case, score=False)]
    image, affine = load_nifti(case["image"])
    time.sleep(0.01)
    os.utime(case["image"])
    assert observer.key(case, score=True) == keys[0]  # the content counts, not the date
    save_nifti(case["image"], np.clip(image + 0.01, 0, 1), affine)
    keys.append(observer.key(case, score=True))
    weights = write_segmenter(tmp_path / "other", seed=1)
    other = load_segmenter(tmp_path / "other", observer.schema.class_names)
    assert other.weights == weights
    keys.append(Observer(observer.schema, other).key(case, score=True))
    assert len(set(keys)) == 4
