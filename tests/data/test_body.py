"""The class `body`."""

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import zoom

from lldm3d.data.body import body_mask
from lldm3d.data.dataset import load_cases, load_schema
from lldm3d.data.prepare import prepare
from lldm3d.errors import UserError
from lldm3d.pipeline.profile import PrepareSettings

from .raw import load, save, write_decathlon


def patient(across: int) -> tuple[np.ndarray, np.ndarray]:
    """An ellipse in noisy air, with bright fat and a black lung, darker from slice to slice; its mask."""
    x, y = np.mgrid[-1:1:64j, -1:1:64j]
    inside = (x / 0.8) ** 2 + (y / 0.6) ** 2 < 1
    plane = np.where(inside, 0.3, 0.02)
    plane[inside & ((x / 0.75) ** 2 + (y / 0.55) ** 2 > 1)] = 0.9
    plane[(x - 0.3) ** 2 + y**2 < 0.04] = 0.01
    image = plane[..., None] * np.linspace(1, 0.5, 8) + np.abs(np.random.default_rng(0).normal(0, 0.02, (64, 64, 8)))
    return np.moveaxis(image, 2, across), np.moveaxis(np.repeat(inside[..., None], 8, 2), 2, across)


@pytest.mark.parametrize("across", [0, 1, 2])
def test_the_body_is_the_patient_with_lungs_and_without_the_air(across):
    image, inside = patient(across)
    mask = body_mask(image.astype(np.float32), tuple(np.insert([5.0, 5.0], across, 8.0)))
    assert 2 * (mask & inside).sum() / (mask.sum() + inside.sum()) > 0.97


@pytest.fixture
def raw(tmp_path) -> Path:
    """Ten patients in air."""
    raw = write_decathlon(tmp_path / "raw", 10)
    for number, file in enumerate((raw / "imagesTr").glob("*.nii.gz")):
        image = zoom(patient(2)[0], (20 / 64, 18 / 64, 1.5), order=1)
        save(file, np.roll(image, number, 2).astype(np.float32))
    return raw


def test_prepare_adds_it_below_all_classes(raw, tmp_path):
    prepare(tmp_path / "without", data=raw)
    prepare(tmp_path / "with", data=raw, **PrepareSettings(body=True).model_dump(exclude_none=True))
    assert load_schema(tmp_path / "with").class_names == ("background", "liver", "vein", "body")
    assert load_schema(tmp_path / "with").source_values["body"] == ()
    labelled = load_schema(tmp_path / "with").task("labelled")
    assert labelled.class_names == ("background", "liver", "vein") and labelled.targets == (0, 1, 2, 0)
    for before, after in zip(*(load_cases(tmp_path / name, "training") for name in ("without", "with")), strict=True):
        before, after = load(before.label), load(after.label)
        assert (after[before > 0] == before[before > 0]).all() and 3 in after and set(after[before == 0]) <= {0, 3}


def test_a_data_set_with_a_body_gets_no_second_one(tmp_path):
    raw = write_decathlon(tmp_path / "raw", 10)
    with pytest.raises(UserError, match="the data have a class 'Body', so none of that name can be added"):
        prepare(tmp_path / "out", data=raw, label_map={"Body": 1, "vein": 2}, body=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", [10, 3])
def test_a_body_that_no_case_shows_is_told(raw, tmp_path, capsys, number):
    for file in sorted((raw / "labelsTr").glob("*.nii.gz"))[:number]:
        save(file, np.maximum(load(file), 1).astype(np.uint8))  # labels fill the scan
    if number == 10:
        with pytest.raises(UserError, match="--body: no case shows any beside its labels"):
            prepare(tmp_path / "out", data=raw, body=True)
        assert not (tmp_path / "out").exists()
    else:
        prepare(tmp_path / "out", data=raw, body=True)
        assert "--body: 3 of 10 cases show none" in capsys.readouterr().out
