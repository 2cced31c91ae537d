"""The whole chain for real, on ten phantoms of 32 voxels and six steps of each training: some minutes."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest

from .conftest import lldm3d, write_profile

TINY = {"epochs": 2, "epoch_length": 3, "val_interval": 1, "batch_size": 2}
AUTOENCODER = {**TINY, "channels": [8, 8, 8], "roi_size": [16, 16, 16]}
DIFFUSION = {**TINY, "channels": [32, 32], "attention_levels": [False, True]}
SMALL = {"network_def#channels": [8, 8, 16, 16], "network_def#strides": [2, 2, 2]}
SECTIONS = {
    "phantom": {"num_cases": 10, "size": [32, 32, 32], "spacing": [8.0, 8.0, 8.0]},
    "autoencoder_image": AUTOENCODER,
    "autoencoder_label": AUTOENCODER,
    "label_ldm": DIFFUSION,
    "image_ldm": DIFFUSION,
    "controlnet": {**TINY, "conditioning_channels": [8, 8, 16]},
    "generate": {"num_inference_steps": 2},
    "segment": {"seeds": [0], "overrides": {**TINY, **SMALL, "roi_size": [16, 16, 16]}},
    "gates": {"image_psnr": 0, "label_dice": 0},
}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chain")
    profile = write_profile(folder / "tiny.yaml", **SECTIONS)
    result = lldm3d("run", "--workdir", folder / "work", "--profile", profile, "--cores", 1)
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-5000:]
    assert "lldm3d: done; the report is" in result.stdout
    return folder / "work"


def test_the_report_and_its_tables_exist(work):
    assert (work / "report" / "report.html").stat().st_size > 1000
    with open(work / "report" / "tables.csv") as file:
        assert len(list(csv.reader(file))) > 1
    assert (work / "evaluation" / "metrics.json").is_file()


def test_synthetic_pairs_fit_each_other_and_the_real_data(work):
    real = json.loads((work / "dataset" / "dataset.json").read_text())
    synthetic = json.loads((work / "synthetic" / "dataset.json").read_text())
    assert len(synthetic["training"]) == len(real["training"]) and synthetic["labels"] == real["labels"]
    for case in synthetic["training"]:
        image, label = (nib.load(work / "synthetic" / case[key]) for key in ("image", "label"))
        assert image.shape == label.shape == tuple(real["roi_size"])
        np.testing.assert_array_equal(image.affine, label.affine)
        assert np.isfinite(image.get_fdata()).all() and label.get_fdata().max() < len(real["labels"])


def test_every_regime_has_its_figures_of_each_test_case_and_class(work):
    real = json.loads((work / "dataset" / "dataset.json").read_text())
    for arm in ("R/real", "R+S/lldm"):
        stage = work / "segment/steps/seg_resunet/multi" / arm / "seed_0"
        with open(stage / "metrics.csv") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == len(real["test"]) * (len(real["labels"]) - 1)
        assert len(list((stage / "predictions").glob("*_pred.nii.gz"))) == len(real["test"])
    assert "R+S" in (work / "study" / "table.md").read_text()


def test_the_logged_command_of_a_stage_is_the_bundles_own(work):
    command = (work / "controlnet" / "log.txt").read_text().splitlines()[0]
    assert "-m monai.bundle run training --config_file" in command and "controlnet/overrides.yaml" in command


def test_all_is_done(work, dry_run):
    assert dry_run(work) == []
