"""Work directories and processes that several tests of the chain share."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from lldm3d.pipeline.plan import segment_stages
from lldm3d.pipeline.profile import load_profile
from lldm3d.pipeline.run import SNAKEFILE, run

OUTPUTS = (
    "dataset/dataset.json",
    "autoencoder_image/codec.pt",
    "autoencoder_image/metrics.json",
    "autoencoder_label/codec.pt",
    "autoencoder_label/metrics.json",
    "latents/latents.json",
    "label_ldm/model.pt",
    "image_ldm/model.pt",
    "controlnet/model.pt",
    "synthetic/dataset.json",
    "evaluation/metrics.json",
    "evaluation/metrics.csv",
    *(f"study/{name}" for name in ("study.csv", "gains.csv", "table.md", "table.tex", "figure.png")),
    "report/report.html",
    "report/tables.csv",
)


def lldm3d(*arguments: object, **keywords) -> subprocess.CompletedProcess:
    """Run the command line and capture what it prints."""
    command = [sys.executable, "-m", "lldm3d", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **keywords)


def write_profile(path: Path, **sections: dict) -> Path:
    """A profile that says `base: demo` and the given sections."""
    path.write_text(yaml.safe_dump({"base": "demo", **sections}))
    return path


@pytest.fixture
def done(tmp_path) -> Path:
    """A work directory in which, for all that Snakemake knows, every stage of the profile demo is done."""
    work = tmp_path / "work"
    settings = load_profile("demo")
    for name in [*OUTPUTS, *(f"{stage}/metrics.csv" for stage in segment_stages(settings))]:
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).touch()
    plan = {"profile": "demo", "data": {"data": str(tmp_path)}, "settings": settings, "threads": 1, "threads_alone": 1}
    (work / "run.yaml").write_text(yaml.safe_dump(plan))
    command = [sys.executable, "-m", "snakemake", "--snakefile", SNAKEFILE, "--directory", work, "--configfile"]
    command += [work / "run.yaml", "--touch", "--forceall", "--nolock", "--cores", "1"]
    subprocess.run(command, check=True, capture_output=True)
    return work


@pytest.fixture
def dry_run(capsys, monkeypatch) -> Callable[..., list[str]]:
    """`dry_run(workdir, ...)` is the list of stages that would run."""

    monkeypatch.setattr("lldm3d.pipeline.cost.tell_cost", lambda *_: None)  # seconds of steps

    def call(workdir: Path, **keywords) -> list[str]:
        run(str(workdir), dry_run=True, **keywords)
        return capsys.readouterr().out.splitlines()[1:]

    return call
