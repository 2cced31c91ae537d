"""`lldm3d cross_validate`: every patient is tested once, and the tables are of all."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from tests.data.raw import write_decathlon
from tests.in_process import SEGMENT, do_stages, method_section, write_profile

from lldm3d.data.dataset import load_cases
from lldm3d.errors import UserError
from lldm3d.phantom.write import write_phantom
from lldm3d.pipeline.folds import cross_validate
from lldm3d.pipeline.status import status

METHOD = "pix2pix3d"


@pytest.fixture
def profile(tmp_path) -> Path:
    methods = {METHOD: method_section(METHOD), "names": [METHOD], "sources": ["unwarped"], "minutes": None}
    segment = {**SEGMENT, "regimes": ["R", "R+S"], "pairs": [f"{METHOD}/unwarped"]}
    sections = {"prepare": {"roi_size": [32, 32, 16], "split": [0.6, 0.2, 0.2]}, "methods": methods, "segment": segment}
    return write_profile(tmp_path / "tiny.yaml", **sections)


@pytest.fixture
def runs_here(monkeypatch):
    """Jobs in this process: Snakemake is tested once, by a real workflow."""

    def execute(work, content, selected, dry_run, **where) -> None:
        if dry_run:
            return print(*(job.name for job in selected), sep="\n")
        work.mkdir(parents=True, exist_ok=True)
        (work / "run.yaml").write_text(yaml.safe_dump(content))
        do_stages(work, *(job.name for job in selected))

    monkeypatch.setattr("lldm3d.pipeline.folds.execute", execute)
    monkeypatch.setattr("lldm3d.pipeline.run.execute", execute)


def test_each_patient_is_tested_once_and_the_study_is_of_all(tmp_path, profile, runs_here):
    data, work = tmp_path / "data", tmp_path / "work"
    write_phantom(data, num_cases=8, size=(32, 32, 32), spacing=(8.0, 8.0, 8.0))
    patients = {f"phantom_{number:04d}" for number in range(8)}
    cross_validate(str(work), 2, str(profile), str(data), label_map={"liver": [1, 2, 3, 4]})
    tested = [{case.patient for case in load_cases(work / f"fold_{n}/dataset", "test")} for n in (1, 2)]
    assert tested[0] | tested[1] == patients and not tested[0] & tested[1]
    values = pd.read_csv(work / "study/study.csv", dtype=str)
    assert set(values["patient"]) == patients
    gains = pd.read_csv(work / "study/gains.csv").query("metric == 'dice' and regime == 'R+S'")
    own = pd.read_csv(work / "fold_1/study/gains.csv").query("metric == 'dice' and regime == 'R+S'")
    assert own["gain_patients"].max() < gains["gain_patients"].max() <= len(patients)
    assert (work / "study/figure.png").stat().st_size and "of 2 folds" in (work / "study/table.md").read_text()
    with pytest.raises(UserError, match="has 2 folds, not 3; choose another --workdir"):
        cross_validate(str(work), 3)


def test_a_dry_run_lists_all_folds_and_writes_nothing(tiny_dataset, tmp_path, profile, runs_here, capsys):
    cross_validate(str(tmp_path / "work"), 3, str(profile), str(tiny_dataset), dry_run=True)
    printed = capsys.readouterr().out
    assert printed.count(f"methods/{METHOD}/seed_0/gan") == 3 and "fold 3 of 3" in printed
    assert not (tmp_path / "work").exists()


@pytest.fixture
def raw(tmp_path) -> Path:
    return write_decathlon(tmp_path / "raw", 8)


def prepare_once(work, content, selected, dry_run, **where) -> None:
    """What is not prepared, and nothing else."""
    if not (work / "dataset").exists():
        work.mkdir(parents=True, exist_ok=True)
        (work / "run.yaml").write_text(yaml.safe_dump(content))
        do_stages(work, "prepare")


@pytest.fixture
def interrupted(tmp_path, profile, raw, monkeypatch) -> Path:
    """A cross-validation of three folds, of which the first alone was prepared."""

    def execute(work, *job, **where) -> None:
        if work.name == "fold_2":
            raise KeyboardInterrupt
        prepare_once(work, *job, **where)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("lldm3d.pipeline.folds.execute", execute)
        cross_validate(str(tmp_path / "work"), 3, str(profile), str(raw))
    return tmp_path / "work"


def test_the_folder_alone_goes_on_with_what_the_first_call_said(interrupted, profile, runs_here, capsys):
    profile.unlink()
    cross_validate(str(interrupted), dry_run=True)
    jobs = capsys.readouterr().out.splitlines()
    assert jobs.count(f"methods/{METHOD}/seed_0/gan") == 3 and "phantom" not in jobs


def test_the_status_is_that_of_each_fold(interrupted, capsys):
    said_of_fold_1 = (interrupted / "fold_1/run.yaml").read_text()
    status(str(interrupted))
    said = capsys.readouterr().out
    assert f"{interrupted}/fold_1: no run is at work; `lldm3d cross_validate --workdir {interrupted}` goes on" in said
    assert f"{interrupted}/fold_2" not in said, "it has not begun"
    (interrupted / "fold_1/run.yaml").write_text("format: 2\n")
    shutil.copytree(interrupted / "fold_1", interrupted / "fold_x")
    (interrupted / "fold_10").mkdir()
    (interrupted / "fold_10/run.yaml").write_text(said_of_fold_1)
    with pytest.raises(UserError, match="fold_1/run.yaml: lacks data"):
        status(str(interrupted))
    assert f"{interrupted}/fold_10: no run is at work" in capsys.readouterr().out, "in spite of the broken one"


def test_data_that_changed_between_two_folds_are_refused(interrupted, raw, monkeypatch):
    write_decathlon(raw, 11)
    monkeypatch.setattr("lldm3d.pipeline.folds.execute", prepare_once)
    with pytest.raises(UserError, match="fold_[23].* the data changed between the preparations of the folds"):
        cross_validate(str(interrupted))
    assert not (interrupted / "study").exists()


def test_before_anything_is_prepared_folds_and_data_may_be_put_right(raw, profile, tmp_path, runs_here):
    work = tmp_path / "work"
    with pytest.raises(UserError, match=r"8 patient\(s\) do not fill 100 folds"):
        cross_validate(str(work), 100, str(profile), str(raw))
    with pytest.raises(UserError, match="nope"):
        cross_validate(str(work), 3, str(profile), str(tmp_path / "nope"))
    cross_validate(str(work), 3, str(profile), str(raw), dry_run=True)


def test_folds_of_different_settings_are_not_pooled(interrupted, tmp_path, runs_here):
    (interrupted / "fold_2").mkdir()
    content = yaml.safe_load((interrupted / "fold_1/run.yaml").read_text()) | {"fold": "2/3"}
    content["settings"]["segment"]["seeds"] = [7]
    (interrupted / "fold_2/run.yaml").write_text(yaml.safe_dump(content | {"profile": "gone.yaml"}))
    with pytest.raises(UserError, match="fold_2/run.yaml: has other settings than .*fold_1; give --profile"):
        cross_validate(str(interrupted))


def test_what_would_put_a_patient_into_two_folds_is_refused(raw, profile, tmp_path):
    profile.write_text(profile.read_text().replace("prepare:", "prepare:\n  split_by: case"))
    with pytest.raises(UserError, match="prepare#split_by is case, so that a patient would be in several folds"):
        cross_validate(str(tmp_path / "work"), 3, str(profile), str(raw))
    assert not (tmp_path / "work").exists()


def test_folders_of_others_are_refused_before_the_first_fold(raw, profile, tmp_path, runs_here):
    for place, message in (("fold_2/dataset", "fold_2/dataset: was not made by"), ("study", "no cross-validation")):
        work = tmp_path / place.replace("/", "_")
        (work / place).mkdir(parents=True)
        (work / place / "mine.txt").write_text("mine")
        with pytest.raises(UserError, match=message):
            cross_validate(str(work), 3, str(profile), str(raw))
        assert [path.name for path in work.rglob("*") if path.is_file()] == ["mine.txt"]


def test_a_run_of_its_own_is_no_fold(interrupted):
    path = interrupted / "fold_1/run.yaml"
    path.write_text(path.read_text().replace("fold: 1/3", "unused: 0", 1))
    with pytest.raises(UserError, match="fold_1: is no fold of a cross-validation, but a run of its own"):
        cross_validate(str(interrupted))


def test_one_fold_a_file_and_the_folder_of_a_run_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: is a file; a cross-validation needs a folder of its own"):
        cross_validate(str(tmp_path / "file"), 2)
    with pytest.raises(UserError, match="--folds 1: at least 2 are needed"):
        cross_validate(str(tmp_path), 1)
    (tmp_path / "run.yaml").write_text("")
    with pytest.raises(UserError, match="is the work directory of a run; a cross-validation needs one of its own"):
        cross_validate(str(tmp_path), 2)
