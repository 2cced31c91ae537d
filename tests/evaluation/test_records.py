import os
import time

import numpy as np
import pytest

from lldm3d.data.dataset import load_cases, load_schema
from lldm3d.evaluation.extraction import RecordCache, RecordExtractor
from lldm3d.evaluation.features import load_segmenter
from lldm3d.files import load_nifti, save_nifti

from .toys import write_dataset, write_segmenter


@pytest.fixture
def extractor(tmp_path) -> RecordExtractor:
    write_dataset(tmp_path / "dataset", {"training": [0, 1]})
    write_segmenter(tmp_path / "stage")
    schema = load_schema(tmp_path / "dataset")
    return RecordExtractor(schema, load_segmenter(tmp_path / "stage", schema.class_names))


def test_the_record_of_a_case_is_made_once_and_comes_back_the_same(tmp_path, extractor, monkeypatch):
    case = load_cases(tmp_path / "dataset", "training")[0]
    seen = extractor(case, score=True, blur=True)
    first = RecordCache(extractor, tmp_path / "cache")(case, score=True, blur=True)
    monkeypatch.setattr(RecordExtractor, "__call__", lambda *arguments, **options: pytest.fail("made again"))
    again = RecordCache(extractor, tmp_path / "cache")(case, score=True, blur=True)
    for record in (first, again):
        assert record.scores == seen.scores and record.label == seen.label and record.one_organ == seen.one_organ
        for name in ("features", "blurred", "statistics"):
            for key, values in getattr(seen, name).items():
                np.testing.assert_array_equal(getattr(record, name)[key], values)
        np.testing.assert_array_equal(record.coarse, seen.coarse)


def test_what_a_record_depends_on_makes_a_new_one(tmp_path, extractor):
    case = load_cases(tmp_path / "dataset", "training")[0]
    keys = [extractor.key(case, score=True), extractor.key(case, score=False)]
    image, affine = load_nifti(case.image)
    time.sleep(0.01)
    os.utime(case.image)
    assert extractor.key(case, score=True) == keys[0]  # the content counts, not the date
    save_nifti(case.image, np.clip(image + 0.01, 0, 1), affine)
    keys.append(extractor.key(case, score=True))
    weights = write_segmenter(tmp_path / "other", seed=1)
    other = load_segmenter(tmp_path / "other", extractor.schema.class_names)
    assert other.weights == weights
    keys.append(RecordExtractor(extractor.schema, other).key(case, score=True))
    assert len(set(keys)) == 4
