"""What a dry run tells of the trainings before them."""

import shutil
from pathlib import Path

import pytest

from lldm3d.pipeline import cluster
from lldm3d.pipeline.limits import keep_limits
from lldm3d.pipeline.plan import COMPARISON, RULES
from lldm3d.pipeline.profile import load_profile
from lldm3d.pipeline.run import run

from .conftest import write_profile

SMALL = {"channels": [8, 8], "latent_channels": 2, "batch_size": 1, "epochs": 3, "epoch_length": 7}
DIFFUSION = {"channels": [32], "attention_levels": [False], "batch_size": 2, "epochs": 2, "epoch_length": 5}
SECTIONS = {
    "autoencoder_image": SMALL,
    "autoencoder_label": {**SMALL, "processes": 2},
    "label_ldm": DIFFUSION,
    "image_ldm": DIFFUSION,
    "controlnet": {"conditioning_channels": [4, 8], "batch_size": 1, "epochs": 4, "epoch_length": 5},
}


@pytest.fixture
def profile(tmp_path) -> Path:
    return write_profile(tmp_path / "tiny.yaml", **SECTIONS)


def test_a_dry_run_of_prepared_data_tells_time_memory_and_disk_of_each_training(
    tmp_path, tiny_dataset, profile, capsys
):
    work = tmp_path / "work"
    shutil.copytree(tiny_dataset, work / "dataset")
    run(str(work), str(profile), {"data": str(tmp_path)}, dry_run=True, gpus=2)
    told = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines() if "GB" in line or "pair" in line)
    steps = {stage: int(text.split(" steps")[0]) for stage, text in told.items() if "steps" in text}
    assert steps == {
        "autoencoder_image": 21, "autoencoder_label": 21, "label_ldm": 10, "image_ldm": 10, "controlnet": 20
    }  # fmt: skip
    seconds = float(told["generate"].split(" s ")[0])
    assert 0 < seconds < 60
    memory = {stage: float(text.split("; ")[1].split(" GB")[0]) for stage, text in told.items() if "steps" in text}
    assert memory["autoencoder_label"] > 1.8 * memory["autoencoder_image"], "two processes"


def test_jobs_of_a_cluster_ask_for_the_minutes_that_a_dry_run_measured_with_their_settings(
    tmp_path, tiny_dataset, profile, monkeypatch
):
    monkeypatch.setattr(cluster, "accounting", lambda: True)
    work = tmp_path / "work"
    shutil.copytree(tiny_dataset, work / "dataset")
    run(str(work), str(profile), {"data": str(tmp_path)}, dry_run=True, gpus=2)
    keep_limits(work, load_profile(str(profile)), {"image_ldm": 100})  # as a larger one would have taken

    def runtimes(**sections) -> dict[str, int]:
        settings = load_profile(str(write_profile(tmp_path / "asked.yaml", **{**SECTIONS, **sections})))
        options = cluster.slurm_options(work, settings, ["prepare", "image_ldm", "controlnet"], jobs=1)
        return {text.split(":")[0]: int(text.split("=")[1]) for text in options if ":runtime=" in text}

    usual = load_profile(str(profile))["cluster"]["all"]["runtime"]
    assert runtimes() == {"prepare": usual, "image_ldm": 210, "controlnet": 11}
    assert runtimes(cluster={"image_ldm": {"runtime": 300}})["image_ldm"] == 300, "what the user says holds"
    other = runtimes(image_ldm={**DIFFUSION, "channels": [64]})
    assert other == {"prepare": usual, "image_ldm": usual, "controlnet": usual}, "another network was not measured"


def test_without_a_data_set_only_the_stages_are_told(tmp_path, profile, capsys):
    run(str(tmp_path / "work"), str(profile), dry_run=True, gpus=2)
    stages = capsys.readouterr().out.splitlines()[1:]
    assert {stage.split("/")[0] for stage in stages} == {*RULES} - {*COMPARISON}
