"""What changes from slice to slice, of volumes in which it is known, and of two draws for one label."""

import numpy as np
import pytest
import torch

from lldm3d.data.dataset import load_cases, load_schema
from lldm3d.evaluation.metrics import Metric
from lldm3d.evaluation.similarity import class_means, draw_rows
from lldm3d.evaluation.through_plane import through_plane, through_plane_rows

from .toys import write_dataset

STEP, FLICKER, MEANS = (getattr(Metric, f"THROUGH_PLANE_{name}") for name in ("STEP", "FLICKER", "CLASS_MEANS"))


def test_steps_and_flicker_are_counted_within_a_class_alone():
    ramp = np.broadcast_to(np.arange(6) / 10, (3, 4, 6))
    one = np.ones(ramp.shape, np.uint8)
    found = through_plane(ramp, one, ["background", "organ"])
    assert found[STEP, None] == pytest.approx(0.1) and found[FLICKER, None] == pytest.approx(0, abs=1e-12)
    assert found[MEANS, "organ"] == pytest.approx(np.std(np.arange(6) / 10))
    border = one * (np.arange(6) > 2)
    jump = ramp + border  # at the border of the class, which the label says
    assert through_plane(jump, border.astype(np.uint8), ["background", "organ"])[STEP, None] == pytest.approx(0.1)


def test_a_class_in_each_slice_alone_has_no_figure_and_no_case_fails():
    label = np.broadcast_to(np.arange(4, dtype=np.uint8), (3, 3, 4))
    found = through_plane(np.random.default_rng(0).random(label.shape), label, list("abcd"))
    assert all(np.isnan(value) for value in found.values())


def noisy(image, label, index):
    """Each slice brighter or darker than the next."""
    return np.clip(image + 0.1 * (np.arange(image.shape[2]) % 2), 0, 1), label


@pytest.fixture
def data(tmp_path):
    real = write_dataset(tmp_path / "real", {"training": [1, 2, 3], "test": [4, 5, 6]})
    bad = write_dataset(tmp_path / "bad", {"training": [4, 5, 6]}, noisy)
    return real, bad


def rows_of(synthetic, real):
    cases = {split: load_cases(real, split) for split in ("training", "test")}
    found = through_plane_rows(synthetic, cases["training"], cases["test"], load_schema(real))
    return {(row.metric, row.class_name): row for row in found}


def test_real_volumes_against_themselves_are_one_and_slices_that_flicker_are_found(data):
    real, bad = data
    same = rows_of(load_cases(real, "test"), real)
    assert len(same) == 5 and {key: row.value for key, row in same.items() if row.value != 1} == {
        (MEANS, "vessel"): None
    }
    assert same[MEANS, "vessel"].note == "no two slices of a case to compare"  # it lies in one
    found = rows_of(load_cases(bad, "training"), real)
    assert found[STEP, None].value > 1.3 and found[FLICKER, None].value > 1.5
    assert found[MEANS, "liver"].value > 1.3
    assert all(0.5 < row.floor < 2 for row in found.values() if row.value)


def test_class_means_are_those_of_the_voxels(data):
    means = class_means(load_cases(data[0], "training"), load_schema(data[0]))
    np.testing.assert_allclose(means[:2], [0.1, 0.5], atol=0.05)


def drawn_once(folder, seed):
    """Two labels and images of 28 voxels along each axis, with noise of the draw."""

    def grown(image, label, index):
        pads = [(0, 28 - length) for length in image.shape]
        noise = np.random.default_rng(seed + index).uniform(0, 0.3, [28] * 3)
        return np.pad(image, pads) + noise, np.pad(label, pads)

    return write_dataset(folder, {"training": [1, 2]}, grown, roi_size=[28] * 3)


def test_two_draws_of_a_label_differ_or_not(tmp_path):
    first, second = (drawn_once(tmp_path / str(seed), seed) for seed in (0, 5))
    schema, cases = load_schema(first), load_cases(first, "training")
    same, other = (
        draw_rows(cases, load_cases(folder, "training"), schema, torch.device("cpu"))[0] for folder in (first, second)
    )
    assert same.value == pytest.approx(0, abs=1e-5) and other.value > 0.01 and other.n == 2
