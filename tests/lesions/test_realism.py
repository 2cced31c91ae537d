"""New lesions against real ones: what is wrong with them is found, and real ones against real ones are the floor."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from scipy import ndimage
from tests.evaluation.toys import CLASSES as TOY_CLASSES
from tests.evaluation.toys import write_segmenter

from lldm3d.data.dataset import SPLITS, load_cases, load_schema
from lldm3d.data.scans import Scan
from lldm3d.evaluation.distances import compare
from lldm3d.evaluation.features import load_segmenter
from lldm3d.evaluation.lesion_realism import (
    CROP_DISTANCES,
    MEASURES,
    feature_distance,
    lesion_look,
    realism_rows,
    sources_of,
)
from lldm3d.evaluation.metrics import Compared, Metric
from lldm3d.pairs.editing import edit

SPACING, SIZE = (1.0, 1.0, 2.0), (24, 24, 14)
AUC, MASKED, INSIDE, SHELL, EDGE = MEASURES


def patients(first: int, change=lambda image, mask, rng: image, segmenter=None) -> list:
    """One lesion of each of 16 patients in noise, changed as a bad texture would."""
    found = []
    for number in range(first, first + 16):
        rng = np.random.default_rng(number)
        points = np.indices(SIZE).transpose(1, 2, 3, 0) - np.array(SIZE) / 2 - rng.uniform(-2, 2, 3)
        mask = ((points * SPACING) ** 2).sum(-1) < rng.uniform(3, 6) ** 2
        sharp = np.where(mask, 0.3, 0.6) + rng.normal(0, 0.03)
        image = ndimage.gaussian_filter(sharp, 0.5) + rng.normal(0, 0.03, SIZE)
        scan = Scan(change(image, mask, rng), np.uint8(mask), np.eye(4))
        found.append([lesion_look(scan, mask, np.zeros(SIZE, bool), SPACING, f"patient_{number}", segmenter)])
    return found


def figures(change=lambda image, mask, rng: image) -> dict:
    sides = patients(0, change), patients(100) + patients(200), []
    return {metric: compare(measure, *sides, least=least)[0] for metric, (measure, least) in MEASURES.items()}


def inside(image, mask, wrong):
    return np.where(mask, wrong, image)


def test_lesions_of_the_same_kind_cannot_be_told_apart():
    found = figures()
    for metric in (AUC, MASKED):
        assert abs(found[metric].value - 0.5) < 0.25 and abs(found[metric].floor - 0.5) < 0.1
        assert found[metric].n == 16 and found[metric].interval[0] < 0.5 < found[metric].interval[1]
    assert found[EDGE].value == pytest.approx(1, abs=0.2) and found[EDGE].floor == pytest.approx(1, abs=0.2)
    assert found[INSIDE].value < 2 * found[INSIDE].floor


def test_a_smooth_texture_is_found_in_the_lesion_alone():
    found = figures(lambda image, mask, rng: inside(image, mask, image[mask].mean()))
    assert found[AUC].value > 0.95 and found[MASKED].interval[0] < 0.5 < found[MASKED].interval[1]


def test_a_changed_rim_is_found_with_the_lesion_masked():
    def ring(image, mask, rng):
        return image + 0.2 * (ndimage.binary_dilation(mask) & ~mask)

    found = figures(ring)
    assert found[MASKED].value > 0.9 and found[SHELL].value > 2 * found[SHELL].floor


def test_wrong_brightness_and_blurred_edges_have_their_figures():
    bright = figures(lambda image, mask, rng: inside(image, mask, image + 0.15))
    assert bright[MASKED].interval[0] < 0.5 < bright[MASKED].interval[1], "what is masked is not seen"
    assert abs(bright[INSIDE].value - 0.15) < 0.05 and bright[INSIDE].value > 3 * bright[INSIDE].floor
    assert figures(lambda image, mask, rng: ndimage.gaussian_filter(image, 1.5))[EDGE].value < 0.7


def test_crops_of_a_wrong_texture_lie_further_from_real_ones_by_the_features_of_a_network(tmp_path):
    write_segmenter(tmp_path / "stage")
    segmenter = load_segmenter(tmp_path / "stage", TOY_CLASSES)
    real = patients(100, segmenter=segmenter) + patients(200, segmenter=segmenter)
    wrong = patients(0, lambda image, mask, rng: inside(image, mask, 0.9), segmenter)
    for distance in CROP_DISTANCES.values():
        measure = partial(feature_distance, distance)
        alike, apart = (compare(measure, ours, real, [])[0] for ours in (patients(0, segmenter=segmenter), wrong))
        assert apart.interval[0] > alike.interval[1] and apart.value > 3 * abs(alike.value)


def test_of_edited_scans_the_new_lesions_alone_are_judged(lesion_dataset, tmp_path):
    edit("case_01", str(tmp_path / "new"), data=str(lesion_dataset), add="tumour", long_axis=9, n=3)
    schema, cases = load_schema(lesion_dataset), {split: load_cases(lesion_dataset, split) for split in SPLITS}
    sources = sources_of(tmp_path / "new", cases)
    assert {case.name for case in sources.values()} == {"case_01"} and len(sources) == 3
    cases["synthetic"] = load_cases(tmp_path / "new", "training")
    rows = realism_rows(tmp_path / "new", cases, schema)
    row = {(row.metric, row.compared): row for row in rows}
    found = row[INSIDE, Compared.SYNTHETIC_TRAINING]
    assert len(rows) == 2 * len(MEASURES) and found.class_name == "tumour" and found.n == 2
    assert 0 < found.value < 0.1 and found.floor > 0
    assert row[AUC, Compared.SYNTHETIC_TRAINING].note == "2 cases on one side, at least 5 are needed"
    assert Metric.LESION_AUC.group == "lesions"
    write_segmenter(tmp_path / "stage", schema.class_names)
    rows = realism_rows(tmp_path / "new", cases, schema, load_segmenter(tmp_path / "stage", schema.class_names))
    crops = [row for row in rows if row.metric in CROP_DISTANCES]
    assert len(crops) == 2 * len(CROP_DISTANCES) and {row.network.split(":")[0] for row in crops} == {"seg_resunet"}
    known = [row for row in crops if row.compared == Compared.SYNTHETIC_TRAINING]
    assert len(known) == 2 and all(row.value is not None and row.floor is not None for row in known)
    assert not realism_rows(tmp_path / "new", cases, replace(schema, lesions=()))
    assert not realism_rows(lesion_dataset, cases, schema), "these are no edits"
