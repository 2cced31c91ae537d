"""`lldm3d study` on a data set and synthetic pairs that the chain did not make, with real trainings of seconds."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import yaml
from lldm3d.pipeline.study import study

from lldm3d.data.dataset import add_tasks
from lldm3d.errors import UserError
from lldm3d.pipeline.run import run
from lldm3d.pipeline.stage import number_of_pairs

from .conftest import lldm3d, write_profile

OVERRIDES = {"epochs": 1, "epoch_length": 2, "val_interval": 1, "batch_size": 1, "roi_size": [16, 16, 16]}
OVERRIDES |= {"network_def#channels": [4, 8], "network_def#strides": [2]}
GRID = ["--tasks", "organ", "--regimes", "R,R+0.5S", "--seeds", "0"]


@pytest.fixture(scope="module")
def given(tmp_path_factory, tiny_dataset, tiny_synthetic) -> Path:
    """A work directory with nothing but data, and a profile beside it."""
    folder = tmp_path_factory.mktemp("study")
    shutil.copytree(tiny_dataset, folder / "work" / "dataset")
    shutil.copytree(tiny_synthetic, folder / "work" / "synthetic")
    write_profile(folder / "tiny.yaml", segment={"overrides": OVERRIDES})
    (folder / "tasks.yaml").write_text("organ: {organ: [liver, portal vein]}")
    add_tasks(folder / "work" / "dataset", folder / "tasks.yaml")
    return folder / "work"


@pytest.fixture(scope="module")
def done(given) -> Path:
    result = lldm3d("study", "--workdir", given, "--profile", given.parent / "tiny.yaml", *GRID, "--cores", 1)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return given


@pytest.fixture
def listed(capsys):
    """`listed(work, ...)` is the list of stages that a dry run of the study names."""

    def call(work: Path, **grid) -> list[str]:
        study(str(work), grid=grid, dry_run=True, cores=1, gpus=None, executor=None, jobs=None)
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith(("segment/", "study"))]

    return call


def test_every_training_is_scored_and_compared(done):
    with open(done / "study" / "study.csv") as file:
        rows = list(csv.DictReader(file))
    assert {(row["task"], row["regime"], row["class"]) for row in rows} == {
        ("organ", "R", "organ"),
        ("organ", "R+0.5S", "organ"),
    }
    assert {row["case"] for row in rows} == {"case_06", "case_07"} and {"dice", "nsd"} <= {
        row["metric"] for row in rows
    }
    with open(done / "study" / "gains.csv") as file:
        gains = [row for row in csv.DictReader(file) if row["reference"]]
    assert {(row["regime"], row["reference"]) for row in gains} == {("R+0.5S", "R")}
    for name in ("table.md", "table.tex", "figure.png"):
        assert (done / "study" / name).stat().st_size > 500


def test_a_stage_learns_from_its_regime_and_merges_classes(done):
    stage = done / "segment/steps/seg_resunet/organ/R+0.5S/lldm/seed_0"
    content = json.loads((stage / "dataset.json").read_text())
    assert [len(content[split]) for split in ("training", "validation", "test")] == [6, 2, 2]
    overrides = yaml.safe_load((stage / "overrides.yaml").read_text())
    assert overrides["class_names"] == ["background", "organ"] and overrides["targets"] == [0, 1, 1]


def test_a_larger_grid_trains_only_what_is_new(done, listed):
    assert listed(done) == []
    assert listed(done, regimes=["R", "R+0.5S", "0.5R"], seeds=[0]) == [
        "segment/steps/seg_resunet/organ/0.5R/real/seed_0",
        "study",
    ]
    (done.parent / "more.yaml").write_text("tasks: {vein: {vein: portal vein}}")
    add_tasks(done / "dataset", done.parent / "more.yaml")
    stages = listed(done, tasks=["organ", "vein"])
    assert stages == [
        "segment/steps/seg_resunet/vein/R/real/seed_0",
        "segment/steps/seg_resunet/vein/R+0.5S/lldm/seed_0",
        "study",
    ]


def test_the_report_shows_it(done):
    result = lldm3d("report", "--workdir", done)
    assert result.returncode == 0, result.stderr
    assert "R+0.5S" in (done / "report" / "report.html").read_text()


def test_the_chain_never_replaces_given_data(done, tiny_dataset, tmp_path):
    with pytest.raises(UserError, match="was not made by `lldm3d run`"):
        run(str(done), dry_run=True)
    shutil.copytree(tiny_dataset, tmp_path / "dataset")
    with pytest.raises(UserError, match="was not made by `lldm3d run`"):
        run(str(tmp_path), dry_run=True)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"regimes": ["R", "R+S"]}, "holds 3 pairs, but the regime R.S takes 4 for the 4 real"),
        ({"tasks": ["hcc"]}, "has no task 'hcc'; it has multi, organ.*lldm3d tasks"),
        ({"regimes": ["R+T"]}, "no regime 'R.T'"),
        ({"networks": ["unet"]}, "no bundle 'unet'"),
        ({"seeds": ["one"]}, "'one' is not of type 'integer'"),
    ],
)
def test_a_grid_that_cannot_be_trained_is_refused_before_anything_runs(given, grid, message):
    with pytest.raises(UserError, match=message):
        study(str(given), profile=str(given.parent / "tiny.yaml"), grid=grid)


def test_the_chain_generates_as_many_pairs_as_the_regimes_take(given):
    def number(regimes: list[str], **section) -> int:
        return number_of_pairs(given, {"segment": {"regimes": regimes}, "generate": section})

    assert (
        number(["R"]) == 4 == number(["R", "0.1R+S"])
        and number(["R", "R+S", "R+2S"]) == 8
        and number(["R+S"], n=9) == 9
    )
    with pytest.raises(UserError, match="generate#n is 5, but the regimes take more pairs: {'R.2S': 8}"):
        number(["R", "R+2S"], n=5)


def test_a_dry_run_tells_what_it_costs(given):
    profile = given.parent / "tiny.yaml"
    result = lldm3d("study", "--workdir", given, "--profile", profile, *GRID[:-1], "7,8", "--cores", 1, "--dry_run")
    assert result.returncode == 0, result.stderr
    assert "seg_resunet: 4 trainings of 2 steps at" in result.stdout and "GB of disk" in result.stdout
