import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from lldm3d.errors import Refused, UserError
from lldm3d.evaluation.alignment import command_rows
from lldm3d.evaluation.evaluate import evaluate, open_both
from lldm3d.evaluation.metrics import Compared, Metric, find_row, near_copies_share, read_metrics
from lldm3d.files import load_nifti, read_json, save_nifti, sha256, write_json

from .test_medicalnet import published
from .toys import quicken, write_dataset, write_segmenter

SEEDS = {"training": list(range(12)), "validation": list(range(100, 104)), "test": list(range(200, 206))}
FURTHER = list(range(400, 404))
NEW = {"training": list(range(300, 308))}


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation")
    write_dataset(folder / "dataset", SEEDS)
    write_segmenter(folder / "stage")
    return folder


def judged(work: Path, name: str, seeds=NEW, change=None) -> dict:
    """The metrics of a synthetic data set; its figures are drawn once, for `good`."""
    write_dataset(work / name, seeds, change)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lldm3d.evaluation.similarity.PAIRS", 6)
        patch.setattr("lldm3d.evaluation.distances.DRAWS", 20)
        if name != "good":
            quicken(patch)
            patch.setattr("lldm3d.evaluation.figures.write_figures", lambda *arguments: None)
        evaluate(work / "dataset", work / name, work / f"{name}_evaluation", work / "stage", cache_dir=work / "cache")
    return read_json(work / f"{name}_evaluation" / "metrics.json")


def value(metrics: dict, metric: Metric, compared: Compared | None = None, class_name: str | None = None) -> float:
    return (find_row(metrics["rows"], metric, compared, class_name) or {"value": None})["value"]


@pytest.fixture
def no_figures(monkeypatch):
    quicken(monkeypatch)
    monkeypatch.setattr("lldm3d.evaluation.figures.write_figures", lambda *arguments: None)


@pytest.fixture(scope="module")
def good(work) -> dict:
    return judged(work, "good")


def test_what_is_written(work, good):
    folder = work / "good_evaluation"
    assert {path.stem for path in (folder / "figures").glob("*.png")} == {
        "fidelity",
        "features",
        "label_statistics",
        "alignment",
        "cases",
        "nearest_distances",
        "nearest_pairs",
    }
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["key"], row["compared"]) for row in rows] == [(row["key"], row["compared"]) for row in good["rows"]]
    assert good["cases"] == {"training": 12, "validation": 4, "test": 6, "synthetic": 8}
    json.dumps(good, allow_nan=False)
    assert all(row["value"] is not None or row["note"] for row in good["rows"])


def test_new_cases_of_the_same_kind_come_near_every_floor(good):
    fid = find_row(good["rows"], Metric.FID)
    assert fid["n"] == 6 and fid["interval_low"] <= 1.5 * fid["floor"]
    assert value(good, Metric.HELD_SHARE, class_name="vessel") == 1


def test_blur_noise_and_other_labels_are_told(work, good):
    """Blurred images whose livers are halved and without tumours, and noisy ones."""
    noise = np.random.default_rng(0)

    def worsened(image, label, index):
        halved = (label == 3) | ((label == 1) & (np.indices(label.shape)[0] > 12))
        return gaussian_filter(image, 1.5), np.where(halved, 0, label)

    blurred = judged(work, "blurred", change=worsened)
    noisy = judged(work, "noisy", change=lambda image, label, _: (image + noise.normal(0, 0.3, image.shape), label))
    for metric in (Metric.FID, Metric.KID):
        for worse in (blurred, noisy):
            found, before = (value(metrics, metric, Compared.SYNTHETIC_TRAINING) for metrics in (worse, good))
            assert found > 2 * before
    volume = Metric.VOLUME_DISTANCE, Compared.SYNTHETIC_TRAINING, "liver"
    assert value(blurred, *volume) > 5 * value(good, *volume)
    assert value(blurred, Metric.LESION_AXIS_DISTANCE, class_name="tumour") is None
    assert value(blurred, Metric.ALIGNMENT_DICE, class_name="tumour") is None


COPIES = (Metric.NEAR_COPIES, Metric.NEARER_SHARE)


def test_planted_copies_are_found(work, good):
    metrics = judged(work, "copies", {"training": [3, 5, *NEW["training"][:6]]})
    found = {(entry["case"], entry["nearest"]) for entry in metrics["nearest"] if entry["distance"] < 1e-6}
    assert {("training_00", "training_03"), ("training_01", "training_05")} <= found
    assert near_copies_share(metrics) == (2 / 8, 8) and near_copies_share(good) == (0, 8)
    for by in ("features", "image"):
        planted, clean = (
            {metric: find_row(rows["rows"], metric, variant=by)["value"] for metric in COPIES}
            for rows in (metrics, good)
        )
        assert planted[Metric.NEAR_COPIES] == 2 and clean[Metric.NEAR_COPIES] == 0
        assert planted[Metric.NEARER_SHARE] >= 0.25 and planted[Metric.NEARER_SHARE] > clean[Metric.NEARER_SHARE]


def test_data_with_more_copies_than_allowed_are_refused_after_all_is_written(work, good, no_figures):
    write_dataset(work / "copied", {"training": [3, *NEW["training"][:4]]})
    options = {"segmenter": work / "stage", "cache_dir": work / "cache", "max_copies": 0.1}
    with pytest.raises(Refused, match="copied: 20.0% of the cases are near copies"):
        evaluate(work / "dataset", work / "copied", work / "copied_gated", **options)
    assert near_copies_share(read_metrics(work / "copied_gated" / "metrics.json")) == (0.2, 5)
    evaluate(work / "dataset", work / "good", work / "good_gated", **options)


def test_scans_without_labels_are_searched_for_copies_and_quality_is_judged_by_labelled_ones(work, good, no_figures):
    real = write_dataset(work / "further", {**SEEDS, "training": [*SEEDS["training"], *NEW["training"]]})
    content = read_json(real / "dataset.json")
    for entry in content["training"][len(SEEDS["training"]) :]:
        del entry["label"]
    write_json(real / "dataset.json", content)
    evaluate(real, work / "good", work / "further_evaluation", work / "stage", cache_dir=work / "cache")
    metrics = read_metrics(work / "further_evaluation" / "metrics.json")
    assert near_copies_share(metrics) == (1, 8)
    for place in (
        (Metric.FID,),
        (Metric.PAIRWISE_SSIM,),
        (Metric.VOLUME_DISTANCE, Compared.SYNTHETIC_TRAINING, "liver"),
    ):
        assert value(metrics, *place) == value(good, *place)


@pytest.mark.parametrize("limit", [1, -0.1, "few"])
def test_a_limit_of_copies_is_a_share(work, limit):
    with pytest.raises(UserError, match="--max_copies .*: a share from 0"):
        evaluate(work / "dataset", work / "none", work / "out", work / "stage", max_copies=limit)


def test_equal_images_lack_diversity(work, good):
    metrics = judged(work, "equal", {"training": [300] * 4})
    assert value(metrics, Metric.PAIRWISE_SSIM) == pytest.approx(1)
    assert value(good, Metric.PAIRWISE_SSIM) < 0.9
    small = next(row for row in good["rows"] if row["key"] == Metric.PAIRWISE_MS_SSIM)
    assert small["value"] is None and "28 voxels" in small["note"]


def test_images_of_real_labels_are_compared_with_the_real_images(work, good):
    noise = np.random.default_rng(0)

    def noisy(image, label, index):
        return image + noise.normal(0, 0.05, image.shape), label

    metrics = judged(work, "paired", {"training": SEEDS["test"]}, noisy)
    psnr = find_row(metrics["rows"], Metric.PAIRED_PSNR)
    assert psnr["value"] == pytest.approx(26, abs=0.3) and psnr["n"] == 6  # dB, of a noise of 0.05
    assert psnr["value"] > psnr["floor"] and value(metrics, Metric.PAIRED_SSIM) > 0.5
    small = next(row for row in metrics["rows"] if row["key"] == Metric.PAIRED_MS_SSIM)
    assert small["value"] is None and "28 voxels" in small["note"]
    assert not [row for row in good["rows"] if row["group"] == "paired"]


def test_further_real_pairs_are_truth_for_the_labels_that_they_show(work, no_figures):
    """As warped training pairs are, which lie in no split: the synthetic images here are theirs themselves."""
    write_dataset(work / "warped", {"training": FURTHER})
    write_dataset(work / "for_warped", {"training": FURTHER})
    options = {"segmenter": work / "stage", "cache_dir": work / "cache"}
    evaluate(work / "dataset", work / "for_warped", work / "for_warped_judged", truth=work / "warped", **options)
    row = find_row(read_metrics(work / "for_warped_judged/metrics.json")["rows"], Metric.PAIRED_SSIM)
    assert row["value"] == pytest.approx(1) and row["n"] == len(FURTHER) and row["floor"] < 0.9
    found = read_metrics(work / "for_warped_judged/metrics.json")
    assert near_copies_share(found) == (1, len(FURTHER)), (
        "each repeats a patient whose scan was warped as the label was"
    )
    assert {entry["case"] for entry in found["nearest"]} == {entry["nearest"] for entry in found["nearest"]}
    assert {entry["warped"] for entry in found["nearest"] if entry["by"] == "image"} == {True}
    assert found["cases"]["warped"] == len(FURTHER)


def test_medicalnet_is_a_second_pair_of_eyes(work, tmp_path, no_figures):
    published(10, tmp_path / "resnet_10.pth")
    noise = np.random.default_rng(0)
    write_dataset(work / "seen", NEW, lambda image, label, _: (image + noise.normal(0, 0.3, image.shape), label))
    sides = [work / "dataset", work / "seen", tmp_path / "out", work / "stage"]
    evaluate(*sides, medicalnet=tmp_path / "resnet_10.pth")
    metrics = read_json(tmp_path / "out" / "metrics.json")
    rows = [row for row in metrics["rows"] if row["variant"] == "medicalnet_resnet10"]
    assert {row["key"] for row in rows} >= {"fid", "kid", "fid_ratio", "precision", "coverage"}
    assert {row["weights"] for row in rows} == {sha256(tmp_path / "resnet_10.pth")}
    assert rows[0]["value"] > 2 * rows[0]["floor"] and rows[0]["value"] != value(metrics, Metric.FID)


SEGMENTER = """
import sys, nibabel, numpy
from pathlib import Path
for path in Path(sys.argv[1]).iterdir():
    scan = nibabel.load(path)
    levels = numpy.array([0.1, 0.5, 0.9, 0.3])
    found = numpy.abs(scan.get_fdata()[..., None] - levels).argmin(-1).astype("uint8")
    if path.name.startswith("training_01") and len(sys.argv) > 3:
        continue
    name = path.name.replace("_0000", "")
    nibabel.save(nibabel.Nifti1Image(found, scan.affine), Path(sys.argv[2]) / name)
"""


def test_a_segmenter_of_the_users_own_is_a_command(work, good, tmp_path, no_figures):
    program = tmp_path / "segment.py"
    program.write_text(SEGMENTER)
    command = f"{sys.executable} {program} {{images}} {{labels}}"
    sides, network = [work / "dataset", work / "good"], work / "stage"
    evaluate(*sides, tmp_path / "out", network, segmenter_command=command, cache_dir=work / "cache")
    rows = read_metrics(tmp_path / "out" / "metrics.json")["rows"]
    liver = find_row(rows, Metric.ALIGNMENT_DICE, class_name="liver", variant=Path(sys.executable).name)
    assert liver["value"] > 0.8 and liver["floor"] > 0.8 and liver["network"] == command and liver["n"] == 8
    schema, cases = open_both(*sides)
    with pytest.raises(UserError, match="wrote no training_01.nii.gz"):
        command_rows(f"{command} skip", cases["synthetic"], [], schema)
    with pytest.raises(UserError, match="has no {labels}"):
        evaluate(*sides, tmp_path / "other", network, segmenter_command="segment {images}")
    with pytest.raises(UserError, match="there is no program 'no-such-program'"):
        evaluate(*sides, tmp_path / "other", network, segmenter_command="no-such-program {images} {labels}")
    with pytest.raises(UserError, match="No closing quotation; close each"):
        evaluate(*sides, tmp_path / "other", network, segmenter_command="'segment {images} {labels}")


def test_without_held_out_cases_the_reason_is_given(work, tmp_path, monkeypatch):
    monkeypatch.setattr("lldm3d.evaluation.similarity.PAIRS", 6)
    write_dataset(tmp_path / "dataset", {"training": list(range(6))})
    evaluate(tmp_path / "dataset", work / "good", tmp_path / "out", work / "stage")  # figures too: empty sides
    rows = read_json(tmp_path / "out" / "metrics.json")["rows"]
    notes = {(row["key"], row["class"]): row["note"] for row in rows if row["value"] is None}
    assert "fewer than 2 held-out real cases" in notes[Metric.NEARER_SHARE, None]
    assert "no real test case" in notes[Metric.ALIGNMENT_DICE_RATIO, "liver"]


def test_pairs_whose_labels_are_all_empty_are_judged_with_all_figures(work, tmp_path):
    write_dataset(work / "empty", NEW, lambda image, label, _: (image, 0 * label))
    evaluate(work / "dataset", work / "empty", tmp_path / "out", work / "stage", cache_dir=work / "cache")
    metrics = read_metrics(tmp_path / "out" / "metrics.json")
    assert value(metrics, Metric.ALIGNMENT_DICE, class_name="liver") is None
    assert list((tmp_path / "out/figures").glob("*.png"))


@pytest.mark.parametrize("name", ["metrics.csv", "figures/cases.png"])
def test_files_of_other_programs_are_not_replaced(work, tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"its {name} is of no evaluation, and stays"):
        evaluate(work / "dataset", work / "good", tmp_path, overwrite=True)
    assert (tmp_path / name).read_text() == "mine"


def test_data_sets_and_work_directories_take_no_evaluation(work, tmp_path):
    for folder, what in (
        (work / "dataset", "a data set or pairs"),
        (work / "good", "a data set or pairs"),
        (tmp_path, "a work"),
    ):
        (tmp_path / "run.yaml").touch()
        with pytest.raises(UserError, match=f"is {what}.*choose a folder of its own"):
            evaluate(work / "dataset", work / "good", folder, overwrite=True)
    assert not (work / "dataset/metrics.json").exists()


def test_metrics_of_something_else_stay(work, tmp_path):
    (tmp_path / "metrics.json").write_text('{"psnr": 30}')  # as a training leaves them
    with pytest.raises(UserError, match="its metrics.json is of no evaluation, and stays"):
        evaluate(work / "dataset", work / "dataset", tmp_path, overwrite=True)
    assert (tmp_path / "metrics.json").read_text() == '{"psnr": 30}'


def test_an_evaluation_of_another_version_is_refused_with_the_remedy(tmp_path):
    (tmp_path / "metrics.json").write_text('{"format": 3, "rows": []}')
    with pytest.raises(UserError, match="has the format 3, this version reads .*evaluate these data again"):
        read_metrics(tmp_path / "metrics.json")


def test_results_are_not_overwritten(work, good):
    with pytest.raises(UserError, match="holds an evaluation already"):
        evaluate(work / "dataset", work / "good", work / "good_evaluation", work / "stage")


@pytest.mark.parametrize("key, other", [("spacing", [1, 1, 1]), ("labels", {"0": "background", "1": "liver"})])
def test_sides_that_differ_are_refused(work, tmp_path, key, other):
    extra = {"tubular": [], "lesions": [], "inside": {}} if key == "labels" else {}
    write_dataset(tmp_path / "other", NEW, **{key: other}, **extra)
    with pytest.raises(UserError, match="the two data sets differ in"):
        evaluate(work / "dataset", tmp_path / "other", tmp_path / "out", work / "stage")


def test_too_few_cases_are_refused(work, tmp_path):
    write_dataset(tmp_path / "few", {"training": [300]})
    with pytest.raises(UserError, match="has 1 training cases, at least 2"):
        evaluate(work / "dataset", tmp_path / "few", tmp_path / "out", work / "stage")


def test_pairs_that_show_nothing_are_judged_and_told(work, tmp_path, capsys):
    """All images of one value: a method that fails may draw them, and the report is to show it."""
    write_dataset(tmp_path / "flat", {"training": [300, 301]}, lambda image, label, index: (0 * image, label))
    evaluate(work / "dataset", tmp_path / "flat", tmp_path / "out", work / "stage")
    assert "2 of 2 images show nothing" in capsys.readouterr().out
    rows = read_metrics(tmp_path / "out" / "metrics.json")["rows"]
    assert find_row(rows, Metric.NEAR_COPIES_SHARE)["value"] == 0
    assert find_row(rows, Metric.ALIGNMENT_DICE, class_name="liver")["value"] is not None


def test_unusable_images_are_named(work, tmp_path):
    write_dataset(tmp_path / "bad", NEW)
    path = tmp_path / "bad" / "imagesTr" / "training_02.nii.gz"
    image, affine = load_nifti(path)
    save_nifti(path, np.full_like(image, np.nan), affine)
    with pytest.raises(UserError, match="training_02.nii.gz: holds NaN"):
        evaluate(work / "dataset", tmp_path / "bad", tmp_path / "out", work / "stage")
    assert not (tmp_path / "out" / "metrics.json").exists()
