"""`lldm3d cross_validate`: every patient is tested once, and the tables are of all."""

from pathlib import Path

import pandas as pd
import pytest
import yaml
from tests.in_process import SEGMENT, do_stages, method_section, write_profile

from lldm3d.data.dataset import load_cases
from lldm3d.errors import UserError
from lldm3d.phantom.write import write_phantom
from lldm3d.pipeline.folds import cross_validate

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


def test_one_fold_and_the_folder_of_a_run_are_refused(tmp_path):
    with pytest.raises(UserError, match="--folds 1: at least 2 are needed"):
        cross_validate(str(tmp_path), 1)
    (tmp_path / "run.yaml").write_text("")
    with pytest.raises(UserError, match="is the work directory of a run; a cross-validation needs one of its own"):
        cross_validate(str(tmp_path), 2)
