"""Evaluations of plain folders of scans, and by several processes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lldm3d.errors import UserError
from lldm3d.evaluation.evaluate import evaluate, open_both
from lldm3d.evaluation.metrics import Metric, find_row, find_rows
from lldm3d.files import read_json, save_nifti

from .test_medicalnet import published
from .toys import SIZE, SPACING, quicken, scan, write_dataset, write_segmenter


def write_folder(folder: Path, seeds: range, labels: bool = False, scale: float = 900.0) -> Path:
    """Scans as a scanner gives them, in any unit; with `labels` beside them."""
    for seed in seeds:
        image, label = scan(seed)
        affine, images = np.diag([*SPACING, 1]), folder / "images" if labels else folder
        save_nifti(images / f"case{seed}.nii.gz", (scale * image).astype(np.int16), affine)
        if labels:
            save_nifti(folder / "labels" / f"case{seed}.nii.gz", label, affine)
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    quicken(monkeypatch)


@pytest.fixture
def no_figures(monkeypatch):
    monkeypatch.setattr("lldm3d.evaluation.figures.write_figures", lambda *arguments: None)


def test_any_two_folders_of_scans(tmp_path):
    write_folder(tmp_path / "real", range(8))
    write_folder(tmp_path / "synthetic", range(100, 106), scale=50)
    published(10, tmp_path / "resnet_10.pth")
    evaluate(*(tmp_path / name for name in ("real", "synthetic", "out")), medicalnet=tmp_path / "resnet_10.pth")
    metrics = read_json(tmp_path / "out" / "metrics.json")
    fid = find_row(metrics["rows"], Metric.FID, variant="medicalnet_resnet10")
    assert fid["interval_low"] <= 1.5 * fid["floor"]  # equal scans in other units
    notes = {row["key"]: row["note"] for row in metrics["rows"] if row["value"] is None}
    assert "the real one has none" in notes[Metric.SHAPE_PRECISION]
    assert "--segmenter" in notes[Metric.ALIGNMENT_DICE]
    assert "fewer than 2 held-out" in notes[Metric.NEAR_COPIES_SHARE]
    assert {path.stem for path in (tmp_path / "out" / "figures").iterdir()} == {
        "fidelity",
        "features",
        "nearest_distances",
        "nearest_pairs",
    }


def test_without_any_network_the_reason_is_given(tmp_path, no_figures):
    write_folder(tmp_path / "real", range(6))
    write_folder(tmp_path / "synthetic", range(100, 104))
    evaluate(*(tmp_path / name for name in ("real", "synthetic", "out")))
    rows = read_json(tmp_path / "out" / "metrics.json")["rows"]
    assert [row["note"] for row in rows if row["key"] == Metric.FID] == [
        "needs features: give --segmenter, --medicalnet, --radimagenet or --radiomics"
    ]
    assert find_row(rows, Metric.PAIRWISE_SSIM)["value"] > 0


def test_another_systems_folder_against_a_prepared_data_set(tmp_path, no_figures):
    seeds = {"training": list(range(8)), "validation": [50, 51], "test": [60, 61, 62]}
    write_dataset(tmp_path / "real", seeds)
    write_segmenter(tmp_path / "stage")
    write_folder(tmp_path / "synthetic", range(100, 106), labels=True)
    evaluate(*(tmp_path / name for name in ("real", "synthetic", "out", "stage")), radiomics=True)
    rows = read_json(tmp_path / "out" / "metrics.json")["rows"]
    assert find_row(rows, Metric.ALIGNMENT_DICE, class_name="liver")["n"] == 6
    assert find_rows(rows, Metric.VOLUME_DISTANCE)
    radiomics = find_row(rows, Metric.FID, variant="radiomics")
    assert radiomics["value"] > 0 and radiomics["network"].startswith("mirp")


def test_folders_that_cannot_be_compared_are_refused(tmp_path):
    write_folder(tmp_path / "real", range(6))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds neither a dataset.json nor scans"):
        open_both(tmp_path / "real", tmp_path / "empty")
    for seed in range(3):
        save_nifti(tmp_path / "other" / f"{seed}.nii.gz", np.random.rand(*SIZE), np.diag([1, 1, 1, 1]))
    with pytest.raises(UserError, match="differ in spacing"):
        open_both(tmp_path / "real", tmp_path / "other")
    write_folder(tmp_path / "half", range(100, 104), labels=True)
    (tmp_path / "half" / "labels" / "case102.nii.gz").unlink()
    with pytest.raises(UserError, match="has labels, but none for case102"):
        open_both(tmp_path / "real", tmp_path / "half")
    with pytest.raises(UserError, match="--segmenter needs a prepared data set"):
        evaluate(tmp_path / "real", tmp_path / "real", tmp_path / "out", segmenter=tmp_path)
    with pytest.raises(UserError, match="--segmenter_command needs labels"):
        evaluate(tmp_path / "real", tmp_path / "real", tmp_path / "out", segmenter_command="true {images} {labels}")


@pytest.mark.slow
def test_two_processes_of_torchrun_find_what_one_does(tmp_path):
    write_dataset(tmp_path / "real", {"training": list(range(8)), "validation": [50, 51], "test": [60, 61]})
    write_dataset(tmp_path / "synthetic", {"training": list(range(100, 105))})
    write_segmenter(tmp_path / "stage")
    options = ["--real", "real", "--synthetic", "synthetic", "--segmenter", "stage", "--output_dir", "two"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
    command = [*torchrun, "lldm3d", "evaluate", *options]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    evaluate(*(tmp_path / name for name in ("real", "synthetic", "one", "stage")))
    one, two = (read_json(tmp_path / name / "metrics.json")["rows"] for name in ("one", "two"))
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        assert a["key"] == b["key"] and (a["value"] is None) == (b["value"] is None)
        assert a["value"] is None or a["value"] == pytest.approx(b["value"], rel=1e-4, abs=1e-6)
    assert len(list((tmp_path / "two" / "cache").glob("*.pt"))) == 17
