"""The segmentation bundle, run as a user does: MONAI's command line from the bundle's folder, on tiny data."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from ignite.engine import Engine
from monai.bundle import ConfigParser
from monai.networks import one_hot

from lldm3d.bundle import bundle_path

BUNDLE = bundle_path("seg_unet")
RUN = [sys.executable, "-m", "monai.bundle", "run"]
TRAIN, EVALUATE = "configs/train.yaml", "configs/evaluate.yaml"
CLASS_NAMES = ["background", "liver", "portal vein"]


@pytest.fixture(scope="module")
def overrides(tiny_dataset, tmp_path_factory):
    """A file of settings for a training of seconds; its folder is `output_dir`."""
    folder = tmp_path_factory.mktemp("seg_unet")
    settings = {
        "dataset_dir": str(tiny_dataset),
        "output_dir": str(folder),
        "class_names": CLASS_NAMES,
        "roi_size": [16, 16, 16],
        "network_def#channels": [4, 8],
        "network_def#strides": [2],
        "epochs": 2,
        "epoch_length": 8,
        "val_interval": 1,
        "learning_rate": 0.01,
        "device": "$torch.device('cpu')",
        "amp": False,
    }
    (folder / "overrides.yaml").write_text(yaml.safe_dump(settings))
    return folder / "overrides.yaml"


def run(command: list[str], run_id: str, files: list[str], **settings) -> str:
    """Run a bundle's command from its folder without the package on the path, and return what it printed."""
    arguments = [f"--{key}={value}" for key, value in settings.items()]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["OMP_NUM_THREADS"] = "1"
    command = [*command, run_id, "--config_file", str(files), *arguments]
    done = subprocess.run(command, cwd=BUNDLE, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def trained(overrides):
    run(RUN, "training", [TRAIN, str(overrides)])
    return overrides.parent


def test_training_keeps_the_best_weights_as_plain_tensors(trained):
    state = torch.load(trained / "model.pt", weights_only=True)
    assert all(torch.isfinite(value).all() for value in state.values())


def test_evaluating_measures_every_test_case_and_class_in_mm(trained, overrides):
    run(RUN, "evaluating", [TRAIN, EVALUATE, str(overrides)])
    dice = measured(trained / "evaluation" / "val_mean_dice_raw.csv")
    assert sorted(dice) == ["case_06", "case_07"] == sorted(measured(trained / "evaluation" / "val_hd95_raw.csv"))
    assert all(len(values) == len(CLASS_NAMES[1:]) for values in dice.values())
    assert max(value for values in dice.values() for value in values) > 0.5


def test_inferring_writes_a_label_map_for_each_test_case(trained, overrides, tmp_path):
    settings = yaml.safe_load(overrides.read_text())
    known = yaml.safe_load((BUNDLE / "configs/inference.yaml").read_text())
    kept = {key: value for key, value in settings.items() if key.split("#")[0] in known and key != "output_dir"}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(kept))
    files = ["configs/inference.yaml", str(tmp_path / "settings.yaml")]
    run(RUN, "inferring", files, output_dir=tmp_path, ckpt_path=trained / "model.pt")
    assert sorted(file.name for file in tmp_path.glob("*.gz")) == ["case_06_pred.nii.gz", "case_07_pred.nii.gz"]


def measured(path: Path) -> dict[str, list[float]]:
    """Case: the value of each class, from a `*_raw.csv` of MONAI's MetricsSaver: filename, class0, ..., mean."""
    rows = [line.split(",") for line in path.read_text().splitlines()[1:]]
    return {Path(file).name.removesuffix(".nii.gz"): [float(x) for x in values] for file, *values, _mean in rows}


def test_targets_merge_classes_in_training_and_evaluation(overrides, tmp_path):
    """Liver and the vein in it, as one class: the measured Dice is that of the whole organ."""
    merged = {**yaml.safe_load(overrides.read_text()), "class_names": ["background", "organ"], "targets": [0, 1, 1]}
    (tmp_path / "merged.yaml").write_text(yaml.safe_dump({**merged, "output_dir": str(tmp_path)}))
    run(RUN, "training", [TRAIN, str(tmp_path / "merged.yaml")])
    run(RUN, "evaluating", [TRAIN, EVALUATE, str(tmp_path / "merged.yaml")])
    dice = measured(tmp_path / "evaluation" / "val_mean_dice_raw.csv")
    assert sorted(dice) == ["case_06", "case_07"]
    assert all(len(values) == 1 and values[0] > 0.5 for values in dice.values())


def test_training_stops_when_the_validation_loss_no_longer_falls(overrides, tmp_path):
    printed = run(
        RUN, "training", [TRAIN, str(overrides)], output_dir=tmp_path, learning_rate=0.0, epochs=9, patience=2
    )
    assert "Epoch[3]" in printed and "Epoch[4]" not in printed
    assert "EarlyStopping: Stop training" in printed


def test_distances_are_in_mm(tiny_dataset):
    """A voxel is 1 x 1 x 2 mm in the tiny data set: moved by one voxel along z, a cube is 2 mm off."""
    metric = parse(TRAIN, EVALUATE, dataset_dir=str(tiny_dataset)).get_parsed_content(
        "validate#additional_metrics#val_hd95"
    )
    label = torch.zeros(1, 1, 16, 16, 16)
    label[..., 4:9, 4:9, 4:9] = 1
    pred = label.roll(1, dims=-1)
    metric.attach(Engine(lambda *_: None), "val_hd95")
    metric.update((one_hot(pred, 2), one_hot(label, 2)))
    assert metric.compute() == pytest.approx(2.0)


def parse(*files: str, **settings) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([str(BUNDLE / file) for file in files])
    parser.update(settings)
    return parser


def test_two_processes_train_one_model(overrides, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    files = [TRAIN, "configs/multi_gpu.yaml", str(overrides)]
    printed = run(
        [*torchrun, "-m", "monai.bundle", "run"], "training", files, output_dir=tmp_path, device="$torch.device('cpu')"
    )
    assert [file.name for file in tmp_path.rglob("*.pt")] == ["model.pt"]
    assert "nan" not in printed.lower().split("metrics --")[-1]
    assert all(torch.isfinite(value).all() for value in torch.load(tmp_path / "model.pt", weights_only=True).values())
