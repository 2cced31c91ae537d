"""The one real workflow, killed on its way: all stages on ten phantoms of 32 voxels, with a process for each job.

Its folder has a name that is a trap for shells, Snakemake and MONAI's parser.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from tests.in_process import SEGMENT, SIZES, STEPS, bundles_run_here, do_stages, write_profile

from lldm3d.pairs.generate import generate
from lldm3d.pipeline.status import status

from .conftest import lldm3d

FOLDER = """it's "$HOME" @b %c#d {e}"""
LLDM = "methods/lldm/seed_0"
# long enough to be killed before its end
KILLED = {**SIZES["lldm"]["autoencoder_image"], "batch_size": 1, "epochs": 8, "epoch_length": 5, "val_interval": 4}
TRAININGS = {name: {**STEPS, **section} for name, section in SIZES["lldm"].items()}
NO_GATE = {"autoencoder_image": {"gate": {"psnr": 0}}, "autoencoder_label": {"gate": {"mean_dice": 0}}}
SECTIONS = {
    "phantom": {"num_cases": 10, "size": [32, 32, 32], "spacing": [8.0, 8.0, 8.0]},
    "prepare": {"roi_size": [32, 32, 16]},
    "methods": {
        "lldm": {
            **TRAININGS,
            "autoencoder_image": {**KILLED, **NO_GATE["autoencoder_image"]},
            "autoencoder_label": {**TRAININGS["autoencoder_label"], **NO_GATE["autoencoder_label"]},
            "latents": {"views": 1},
            "inference": {"num_inference_steps": 2},
        }
    },
    "segment": {"seeds": [0], "overrides": SEGMENT["overrides"]},
}


@pytest.fixture(scope="module")
def work(made_once) -> Path:
    def make(folder: Path) -> None:
        profile = write_profile(folder / "tiny.yaml", **SECTIONS)
        arguments = ["run", "--workdir", folder / FOLDER, "--cores", "1", "--methods", "lldm", "--sources", "drawn"]
        kill_in_first_training(folder / FOLDER, [*arguments, "--profile", profile, "--until", "autoencoder_image"])
        result = lldm3d(*arguments)
        (folder / "printed.txt").write_text(result.stdout + result.stderr)
        assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-5000:]

    return made_once("workflow", make) / FOLDER


def kill_in_first_training(work: Path, arguments: list) -> None:
    """Start a run and kill it, and nothing else, once its first training has left a state."""
    command = [sys.executable, "-m", "lldm3d", *map(str, arguments)]
    with open(work.parent / "killed.txt", "wb") as log:
        run = subprocess.Popen(command, stdout=log, stderr=log)
    training = work / LLDM / "autoencoder_image"
    try:
        assert holds(lambda: (training / "state.pt").is_file() or run.poll() is not None, patience=400)
    finally:
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
    assert (training / "state.pt").is_file(), (work.parent / "killed.txt").read_text()[-5000:]
    assert holds(lambda: not processes(work), patience=60), "a killed run leaves no process"
    assert not (training / "codec.pt").exists(), "killed too late: the training was done"


def processes(work: Path) -> list[int]:
    """The processes, other than zombies, that work in `work` or have it in their command."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(work) in (process / "cmdline").read_text() or (process / "cwd").readlink() == work:
                found.append(int(process.name))
        except OSError:  # it has ended
            continue
    return found


def holds(condition, patience: float) -> bool:
    deadline = time.monotonic() + patience
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


def test_a_killed_training_goes_on_to_the_weights_of_one_that_was_never_killed(work, tmp_path):
    printed = (work.parent / "printed.txt").read_text()
    assert "goes on from here" in printed and "lldm3d: done; the report is" in printed
    shutil.copytree(work / "dataset", tmp_path / "dataset")
    shutil.copy(work / "run.yaml", tmp_path)
    do_stages(tmp_path, f"{LLDM}/autoencoder_image")
    resumed, never_killed = (
        torch.load(folder / LLDM / "autoencoder_image/codec.pt", weights_only=True)["autoencoder"]
        for folder in (work, tmp_path)
    )
    assert all(torch.equal(resumed[name], value) for name, value in never_killed.items())


def test_all_is_done(work, dry_run, capsys):
    assert dry_run(work) == []
    printed = (work.parent / "printed.txt").read_text()
    assert re.search(r"stage study .*; .+ since the run began, .*(left|not known)", printed)
    status(str(work))
    said = capsys.readouterr().out
    assert "stages done in" in said and len(re.findall(r"1 of 1 +\d+", said)) >= 12, said


def test_the_report_and_the_tables_exist(work):
    assert (work / "report/report.html").stat().st_size > 1000
    for name in ("report/tables.csv", "evaluation/lldm/drawn/seed_0/metrics.csv", "comparison/comparison.csv"):
        assert len(pd.read_csv(work / name)) > 0, name
    assert "R+S" in (work / "study/table.md").read_text()


def test_synthetic_pairs_fit_each_other_and_the_real_data(work):
    pairs = work / "pairs/lldm/drawn/seed_0"
    real, synthetic = (json.loads((folder / "dataset.json").read_text()) for folder in (work / "dataset", pairs))
    assert len(synthetic["training"]) == len(real["training"]) and synthetic["labels"] == real["labels"]
    for case in synthetic["training"]:
        image, label = (nib.load(pairs / case[key]) for key in ("image", "label"))
        assert image.shape == label.shape == tuple(real["roi_size"])
        np.testing.assert_array_equal(image.affine, label.affine)
        assert np.isfinite(image.get_fdata()).all() and label.get_fdata().max() < len(real["labels"])


def test_every_regime_has_its_figures_of_each_test_case_and_class(work):
    real = json.loads((work / "dataset/dataset.json").read_text())
    for arm in ("R/real", "R+S/lldm"):
        stage = work / "segment/steps/seg_resunet/multi" / arm / "seed_0"
        assert len(pd.read_csv(stage / "metrics.csv")) == len(real["test"]) * (len(real["labels"]) - 1)
        assert len(list((stage / "predictions").glob("*_pred.nii.gz"))) == len(real["test"])


def test_the_logged_command_of_a_training_is_the_bundles_own_and_runs_in_a_shell(work):
    command = (work / LLDM / "autoencoder_label/log.txt").read_text().splitlines()[0].removeprefix("$ ")
    assert "-m monai.bundle run training --config_file" in command
    printed = re.sub(r"&& \S+ -m", "&& printf '%s\\\\n' -m", command)  # the words as the shell gives them
    words = subprocess.run(printed, shell=True, capture_output=True, text=True, check=True).stdout.splitlines()
    assert str(work / LLDM / "autoencoder_label/overrides.yaml") in words[-1].replace("\\'", "'")


def test_the_command_draws_the_pairs_of_the_workflow_again(work, tmp_path):
    with bundles_run_here():
        generate(str(work), str(tmp_path / "again"), n=2, num_inference_steps=2)
    for path in sorted((tmp_path / "again/imagesTr").iterdir()):
        before = nib.load(work / "pairs/lldm/drawn/seed_0/imagesTr" / path.name).get_fdata()
        np.testing.assert_allclose(nib.load(path).get_fdata(), before, atol=2e-2)  # in batches of other sizes
