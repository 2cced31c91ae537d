"""A study of a data set and pairs that no run made, with trainings of seconds in this process."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from tests.in_process import SEGMENT, do_stages, write_profile

from lldm3d.data.dataset import add_tasks
from lldm3d.errors import UserError
from lldm3d.pipeline.cost import print_cost
from lldm3d.pipeline.plan import Plan, number_of_pairs
from lldm3d.pipeline.run import planned, run, study
from lldm3d.pipeline.stage import read_plan
from lldm3d.pipeline.stages import selected_jobs
from lldm3d.report.write import report

PLACE = "segment/steps/seg_resunet"
GRID = {"tasks": ["organ"], "regimes": ["R", "R+0.5S", "0.5S>R"]}


@pytest.fixture(scope="module")
def given(made_once, tiny_dataset, tiny_synthetic) -> Path:
    """A work directory with nothing but data; beside it a profile, and a folder of three pairs."""

    def make(folder: Path) -> None:
        shutil.copytree(tiny_dataset, folder / "work/dataset")
        shutil.copytree(tiny_synthetic, folder / "other pairs")
        overrides = {**SEGMENT["overrides"], "epochs": 2}
        write_profile(folder / "tiny.yaml", segment={"overrides": overrides, "seeds": [0], "networks": ["seg_resunet"]})
        (folder / "tasks.yaml").write_text("organ: {organ: [liver, portal vein]}")
        add_tasks(folder / "work/dataset", folder / "tasks.yaml")

    return made_once("given", make) / "work"


def plan_of_study(given: Path, **grid) -> dict:
    """The content of the `run.yaml` that `lldm3d study` writes."""
    wanted = {"pairs": [str(given.parent / "other pairs")], **GRID, **grid}
    return planned(given, str(given.parent / "tiny.yaml"), None, wanted) | {"given": True}


def stages(given: Path, **grid) -> list[str]:
    return [job.name for job in selected_jobs(Plan.of(plan_of_study(given, **grid)))]


@pytest.fixture(scope="module")
def done(given, made_once) -> Path:
    """The same after a study, and a work directory of its own."""

    def make(folder: Path) -> None:
        shutil.copytree(given.parent, folder, dirs_exist_ok=True)
        work = folder / "work"
        (work / "run.yaml").write_text(yaml.safe_dump(plan_of_study(work)))
        do_stages(work, *stages(work))

    return made_once("studied", make) / "work"


def test_every_training_is_scored_and_compared(done):
    table = pd.read_csv(done / "study/study.csv")
    assert set(table["regime"]) == {"R", "R+0.5S", "0.5S>R"} and set(table["class"]) == {"organ"}
    assert set(table["case"]) == {"case_06", "case_07"} and {"dice", "nsd"} <= set(table["metric"])
    gains = pd.read_csv(done / "study/gains.csv").dropna(subset=["reference"])
    assert set(gains["regime"]) == {"R+0.5S", "0.5S>R"}
    for name in ("table.md", "table.tex", "figure.png"):
        assert (done / "study" / name).stat().st_size > 500


def test_a_stage_learns_from_its_regime_and_merges_classes(done):
    stage = done / PLACE / "organ/R+0.5S/other_pairs/seed_0"
    content = json.loads((stage / "dataset.json").read_text())
    assert [len(content[split]) for split in ("training", "validation", "test")] == [6, 2, 2]
    overrides = yaml.safe_load((stage / "overrides.yaml").read_text())
    assert overrides["class_names"] == ["background", "organ"] and overrides["targets"] == [0, 1, 1]


def test_pairs_first_then_real_cases_share_the_steps_and_hand_on_the_weights(done):
    stage = done / PLACE / "organ/0.5S_then_R/other_pairs/seed_0"
    first, last = (json.loads((folder / "dataset.json").read_text()) for folder in (stage / "first", stage))
    assert {Path(case["image"]).name[:9] for case in first["training"]} == {"synthetic"}
    assert {Path(case["image"]).name[:4] for case in last["training"]} == {"case"} and len(last["training"]) == 4
    overrides = [yaml.safe_load((folder / "overrides.yaml").read_text()) for folder in (stage / "first", stage)]
    assert [given["epochs"] for given in overrides] == [1, 1]
    assert overrides[1]["init_path"] == str(stage / "first/model.pt") and overrides[0]["init_path"] is None


def test_a_larger_grid_trains_only_what_is_new(done, capsys):
    (done.parent / "more.yaml").write_text("tasks: {vein: {vein: portal vein}}")
    add_tasks(done / "dataset", done.parent / "more.yaml")
    study(str(done), regimes="R,0.5R", tasks="organ,vein", dry_run=True)  # tasks of a data set make nothing old
    listed = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("segment/", "study"))]
    assert listed == [
        f"{PLACE}/organ/0.5R/real/seed_0",
        f"{PLACE}/vein/R/real/seed_0",
        f"{PLACE}/vein/0.5R/real/seed_0",
        "study",
    ]


def test_the_report_shows_it(done):
    report(done)
    assert "R+0.5S" in (done / "report/report.html").read_text()


def test_a_run_never_replaces_given_data(given, tiny_dataset, tmp_path):
    with pytest.raises(UserError, match="was not made by `lldm3d run`"):
        run(str(given), dry_run=True)
    shutil.copytree(tiny_dataset, tmp_path / "dataset")
    with pytest.raises(UserError, match="was not made by `lldm3d run`"):
        run(str(tmp_path), dry_run=True)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(plan_of_study(given)))
    with pytest.raises(UserError, match="was not made by `lldm3d run`.*lldm3d study"):
        run(str(tmp_path), dry_run=True)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"regimes": "R,R+S"}, "holds 3 pairs, but the regime R.S takes 4 for the 4 real"),
        ({"tasks": "hcc"}, "has no task 'hcc'; it has multi, organ.*lldm3d tasks"),
        ({"regimes": "R+T"}, "no regime 'R.T'"),
        ({"networks": "unet"}, "'unet' is no segmentation; there are seg_dynunet"),
        ({"seeds": "one"}, "segment#seeds#0: Input should be a valid integer.*'one'"),
        ({"until": "never"}, "segment#until#0: Input should be 'steps' or 'convergence'"),
        ({"pairs": "haar_lmd/drawn"}, "no method 'haar_lmd': did you mean haar_ldm?"),
        ({"pairs": "nowhere/pairs"}, "nowhere/pairs' is neither a folder of pairs nor a method"),
    ],
)
def test_a_grid_that_cannot_be_trained_is_refused_before_anything_runs(given, grid, message):
    wanted = {"pairs": [str(given.parent / "other pairs")], **grid}
    with pytest.raises(UserError, match=message):
        study(str(given), profile=str(given.parent / "tiny.yaml"), **wanted)
    assert not (given / "run.yaml").exists()


def test_as_many_pairs_are_drawn_as_the_regimes_take(given):
    def number(regimes: list[str], **section) -> int:
        content = {"segment": {"regimes": regimes}, "methods": {"seeds": [0], **section}}
        return number_of_pairs(given, Plan(None, ("lldm",), ("drawn",), content))

    assert number(["R"]) == 4 == number(["R", "0.1R+S"])
    assert number(["R", "R+S", "R+2S"]) == 8 == number(["2S>R"]) and number(["R+S"], n=9) == 9
    with pytest.raises(UserError, match="methods#n is 5, but the regimes take more pairs: {'R.2S': 8}"):
        number(["R", "R+2S"], n=5)


def test_a_dry_run_says_what_it_costs(given, capsys):
    plan = Plan.of(plan_of_study(given, seeds=[7, 8], regimes=["R", "R+0.5S"]))
    print_cost(given, plan, selected_jobs(plan))
    printed = capsys.readouterr().out
    assert "seg_resunet: 4 trainings of 4 steps at" in printed and "GB of disk" in printed
    (given / "limits.json").unlink()


def test_a_study_remembers_its_grid(done):
    before = read_plan(done)
    assert planned(done, None, None)["settings"]["segment"] == before["settings"]["segment"]
