"""Work directories and processes that several tests of the pipeline share."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from lldm3d.pipeline.checks import mark_done
from lldm3d.pipeline.plan import Plan
from lldm3d.pipeline.run import planned, run
from lldm3d.pipeline.stages import all_jobs

DRAWN = {"methods": ["lldm"], "sources": ["drawn"]}  # what most tests plan: all stages that there are


def lldm3d(*arguments: object, **keywords) -> subprocess.CompletedProcess:
    """Run the command line and capture what it prints."""
    command = [sys.executable, "-m", "lldm3d", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **keywords)


def plan_of(folder: Path, profile: str | Path = "demo", data: bool = True, **options) -> Plan:
    """The plan that `lldm3d run` would write for an empty work directory; `options` as those of `planned`."""
    source = {"data": str(folder)} if data else None
    return Plan.of(planned(folder / "none", str(profile), source, **{**DRAWN, **options}))


@pytest.fixture
def done(tmp_path) -> Path:
    """A work directory in which, for all that a run knows, every job of `DRAWN` is done."""
    work = tmp_path / "work"
    content = planned(work, "demo", {"data": str(tmp_path)}, **DRAWN)
    jobs = all_jobs(Plan.of(content))
    for path in {path for job in jobs for path in job.writes}:
        (work / path).parent.mkdir(parents=True, exist_ok=True)
        (work / path).write_text(json.dumps({"files": {path: "0"}}))
    for job in jobs:
        mark_done(work, job)
    (work / "run.yaml").write_text(yaml.safe_dump(content))
    return work


@pytest.fixture
def dry_run(capsys, monkeypatch) -> Callable[..., list[str]]:
    """`dry_run(workdir, ...)` is the list of jobs that would run."""
    monkeypatch.setattr("lldm3d.pipeline.cost.print_cost", lambda *_: None)  # seconds of steps

    def call(workdir: Path, **keywords) -> list[str]:
        run(str(workdir), dry_run=True, **{**DRAWN, **keywords})
        return capsys.readouterr().out.splitlines()[1:]

    return call
