"""A training of two processes, killed in the middle. One process: in test_workflow.py."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.in_process import write_profile

from .conftest import lldm3d
from .test_workflow import LLDM, holds, processes

TRAINING = {"roi_size": [16, 16, 16], "channels": [8, 8], "epochs": 4, "epoch_length": 5, "val_interval": 4}


@pytest.mark.slow
def test_two_processes_that_are_killed_go_on_to_the_same_weights(tmp_path, tiny_dataset):
    methods = {"lldm": {"autoencoder_image": {**TRAINING, "processes": 2}}}
    profile = write_profile(tmp_path / "two.yaml", methods=methods)
    arguments = ["run", "--gpus", 2, "--data", tiny_dataset, "--profile", profile, "--until", "autoencoder_image"]
    work, never_killed = tmp_path / "work", tmp_path / "never_killed"
    command = [sys.executable, "-m", "lldm3d", *map(str, arguments), "--workdir", str(work)]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert holds(lambda: (work / LLDM / "autoencoder_image/state.pt").is_file(), patience=400)
    finally:
        run.kill()
        run.wait()
    assert holds(lambda: not processes(work), patience=60)
    assert not (work / LLDM / "autoencoder_image/codec.pt").exists(), "killed too late: the training was done"
    for folder in (work, never_killed):
        result = lldm3d(*arguments, "--workdir", folder)
        assert result.returncode == 0, result.stdout + result.stderr
        assert "--nproc_per_node=2" in result.stdout and "configs/multi_gpu.yaml" in result.stdout
    found = weights(work)
    assert all(torch.equal(found[name], value) for name, value in weights(never_killed).items())


def weights(work: Path) -> dict:
    return torch.load(work / LLDM / "autoencoder_image/codec.pt", weights_only=True)["autoencoder"]
