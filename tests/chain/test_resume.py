"""Real trainings, killed in the middle: about 20 s for each."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from .conftest import lldm3d, write_profile

TINY = {"roi_size": [16, 16, 16], "channels": [8, 8], "epochs": 8, "epoch_length": 5, "val_interval": 4}


@pytest.fixture(scope="module")
def arguments(tmp_path_factory, tiny_dataset) -> list:
    profile = write_profile(tmp_path_factory.mktemp("profile") / "tiny.yaml", autoencoder_image=TINY)
    return [
        "run",
        "--cores",
        1,
        "--data",
        tiny_dataset,
        "--profile",
        profile,
        "--until",
        "autoencoder_image",
        "--workdir",
    ]


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory, arguments) -> dict:
    work = tmp_path_factory.mktemp("never_killed")
    assert lldm3d(*arguments, work).returncode == 0
    return weights(work)


@pytest.mark.parametrize("kill", [os.killpg, os.kill], ids=["process group", "the run alone"])
def test_a_killed_run_leaves_no_process_and_goes_on_to_the_same_weights(tmp_path, arguments, never_killed, kill):
    work = tmp_path / "work"
    command = [sys.executable, "-m", "lldm3d", *map(str, arguments), str(work)]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        assert holds(lambda: (work / "autoencoder_image" / "state.pt").is_file(), patience=400)
    finally:
        kill(run.pid, signal.SIGKILL)
        run.wait()
    assert holds(lambda: not processes(work), patience=60)
    assert not (work / "autoencoder_image" / "codec.pt").exists(), "killed too late: the training was done"

    result = lldm3d(*arguments, work)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "goes on from here" in result.stdout
    resumed = weights(work)
    assert all(torch.equal(resumed[name], value) for name, value in never_killed.items())


def test_two_processes_that_are_killed_go_on_to_the_same_weights(tmp_path, tiny_dataset):
    profile = write_profile(tmp_path / "two.yaml", autoencoder_image={**TINY, "epochs": 4, "processes": 2})
    arguments = ["run", "--gpus", 2, "--data", tiny_dataset, "--profile", profile, "--until", "autoencoder_image"]
    work, never_killed = tmp_path / "work", tmp_path / "never_killed"
    command = [sys.executable, "-m", "lldm3d", *map(str, arguments), "--workdir", str(work)]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert holds(lambda: (work / "autoencoder_image" / "state.pt").is_file(), patience=400)
    finally:
        run.kill()
        run.wait()
    assert holds(lambda: not processes(work), patience=60)
    assert not (work / "autoencoder_image" / "codec.pt").exists(), "killed too late: the training was done"
    for folder in (work, never_killed):
        result = lldm3d(*arguments, "--workdir", folder)
        assert result.returncode == 0, result.stdout + result.stderr
        assert "--nproc_per_node=2" in result.stdout and "configs/multi_gpu.yaml" in result.stdout
    found = weights(work)
    assert all(torch.equal(found[name], value) for name, value in weights(never_killed).items())


def weights(work: Path) -> dict:
    return torch.load(work / "autoencoder_image" / "codec.pt", weights_only=True)["autoencoder"]


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
