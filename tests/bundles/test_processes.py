"""Trainings in two processes, each by its own overlay `multi_gpu.yaml`, with gloo on CPUs."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from lldm3d.bundle import bundle_path

from .small import CLASS_NAMES, DIFFUSION, SEGMENTATION, settings, workflow

# Trainings that can be compared: noise and times follow from the case, whatever batch or process it is in; the
# autoencoder's code has no noise to speak of, and its optimizer does not blow up rounding where a gradient is 0
SGD = {"_target_": "torch.optim.SGD", "params": "$@network_def.parameters()", "lr": 0.01}
BY_CASE = {
    "autoencoder": {"initial_log_variance": -60, "optimizer": SGD},
    **dict.fromkeys(("label_ldm", "image_ldm", "controlnet"), {"train#prepare_batch#seed": 0}),
}
# the same of the baselines, by bundle and config; a VAE's codes without noise, and with a scale that no batch tells
UNMOVED = {"train#augment#prob": 0}
BY_INDEX = {**UNMOVED, "prepare_batch#seed": 0}
NO_NOISE = "$(lambda net: (torch.nn.init.constant_(net.quant_conv_log_sigma.conv.bias, -60), net)[1])(@architecture())"
MEAN = "$lambda image: @autoencoder.encode(image)[0]"
EXACT = {
    **{(bundle, "train"): exact for bundle, exact in BY_CASE.items()},
    ("cond_ldm", "train"): {**DIFFUSION, "label_dropout": 0, "train#prepare_batch#seed": 0},
    ("baselines/ddpm", "train"): BY_INDEX,
    ("baselines/ldm_vqvae", "train"): BY_INDEX,
    ("baselines/ldm_vae", "train"): {**BY_INDEX, "encode": MEAN, "scale_factor": 1.0},
    ("baselines/ldm_vqvae", "train_autoencoder"): {**UNMOVED, "optimizer": SGD},
    ("baselines/ldm_vae", "train_autoencoder"): {**UNMOVED, "optimizer": SGD, "network_def": NO_NOISE},
}
HA_GAN = ("baselines/ha_gan", "train")  # each process has noise of its own


@pytest.fixture(scope="session")
def trained(work, made_once) -> Path:
    """A folder for each training, all of them done by the same two processes."""
    return made_once("two_processes", lambda folder: train_in_two_processes(work, folder))


def place(folder: Path, bundle: str, config: str) -> Path:
    return folder / bundle.replace("/", "_") / config


def train_in_two_processes(work: Path, folder: Path) -> None:
    jobs = [job(work, place(folder, *key), *key, exact) for key, exact in {**EXACT, HA_GAN: {}}.items()]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    command = [sys.executable, str(Path(__file__).with_name("two_processes.py")), str(folder / "jobs.json")]
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"} for rank in range(2)]
    logs = [folder / f"log_{rank}.txt" for rank in range(2)]
    started = [
        subprocess.Popen(
            command,
            env={**os.environ, "MASTER_ADDR": "127.0.0.1", **rank},
            stdout=log.open("w"),
            stderr=subprocess.STDOUT,
        )
        for rank, log in zip(ranks, logs, strict=True)
    ]
    codes = [process.wait(timeout=900) for process in started]
    assert codes == [0, 0], "\n".join(log.read_text()[-3000:] for log in logs)


def job(work: Path, output_dir: Path, bundle: str, config: str, exact: dict) -> dict:
    output_dir.mkdir(parents=True)
    overrides = {**settings(bundle, config, work, output_dir), "bundle_root": ".", "autocast": False, **exact}
    (output_dir / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    configs = [f"configs/{name}.yaml" for name in (config, config.replace("train", "multi_gpu"))]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {"bundle": str(bundle_path(bundle)), "files": [*configs, str(output_dir / "overrides.yaml")], "port": port}


@pytest.mark.parametrize("bundle, config", EXACT)
def test_two_processes_train_the_model_that_one_trains_with_twice_the_batch(bundle, config, work, trained, tmp_path):
    two = place(trained, bundle, config)
    workflow(bundle, config, work, tmp_path, batch_size=2, autocast=False, **EXACT[bundle, config]).run()
    file, key = ("codec.pt", "autoencoder") if bundle == "autoencoder" else ("model.pt", "model")
    expected, found = (torch.load(folder / file, weights_only=True)[key] for folder in (tmp_path, two))
    for name, value in expected.items():
        torch.testing.assert_close(value, found[name], rtol=1e-3, atol=1e-5, msg=lambda text, name=name: name + text)
    losses = [json.loads((folder / "metrics.json").read_text())["loss"] for folder in (tmp_path, two)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4) and len(losses[1]) == 1


def test_ha_gan_trains_in_two_processes(trained):
    folder = place(trained, *HA_GAN)
    assert (folder / "model.pt").is_file()
    assert len(json.loads((folder / "metrics.json").read_text())["loss"]) == 1


def test_torchrun_trains_one_segmentation(tiny_dataset, tmp_path):
    """By the command in the header of its overlay."""
    overrides = {"dataset_dir": str(tiny_dataset), "output_dir": str(tmp_path), "class_names": CLASS_NAMES}
    overrides |= {
        "roi_size": [16, 16, 16],
        "epochs": 1,
        "epoch_length": 2,
        "val_interval": 1,
        **SEGMENTATION["seg_unet"],
    }
    overrides |= {"device": "$torch.device('cpu')", "amp": False}
    (tmp_path / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    files = ["configs/train.yaml", "configs/multi_gpu.yaml", str(tmp_path / "overrides.yaml")]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
    command += ["monai.bundle", "run", "training", "--config_file", str(files)]
    done = subprocess.run(command, cwd=bundle_path("seg_unet"), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert [file.name for file in tmp_path.rglob("*.pt")] == ["model.pt"]
    assert all(torch.isfinite(value).all() for value in torch.load(tmp_path / "model.pt", weights_only=True).values())
