"""`lldm3d run` up to Snakemake, and what Snakemake makes of the jobs: dry runs, where each takes some seconds."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tests.in_process import do_stages, write_profile

from lldm3d.errors import UserError
from lldm3d.files import write_json, write_yaml
from lldm3d.locks import locked
from lldm3d.pipeline.checks import finish
from lldm3d.pipeline.plan import Plan
from lldm3d.pipeline.profile import load_profile
from lldm3d.pipeline.run import absolute, planned, run
from lldm3d.pipeline.stages import OF_STUDY, all_jobs, find_job, selected_jobs
from lldm3d.pipeline.workflow import require_inputs
from lldm3d.study.stages import RECORDS

from .conftest import DRAWN, lldm3d, plan_of

LLDM = "methods/lldm/seed_0"
RS = ["segment/steps/seg_resunet/multi/R+S/lldm/seed_0"]
PAIRS = "pairs/lldm/drawn/seed_0"


def test_a_dry_run_lists_the_jobs_and_writes_nothing(tmp_path, dry_run):
    assert dry_run(tmp_path, until="latents") == [
        "phantom",
        "prepare",
        *(f"{LLDM}/{name}" for name in ("autoencoder_image", "autoencoder_label", "latents")),
    ]
    assert not any(tmp_path.iterdir())


def test_what_is_done_is_done_again_only_where_settings_or_inputs_changed(done, dry_run, tmp_path):
    assert dry_run(done) == []
    profile = write_profile(tmp_path / "mine.yaml", methods={"lldm": {"controlnet": {"learning_rate": 1e-4}}})
    after = [PAIRS, *RS, "evaluation/lldm/drawn/seed_0", "study", "comparison", "report"]
    assert dry_run(done, profile=str(profile)) == [f"{LLDM}/controlnet", *after]
    write_json(done / LLDM / "autoencoder_label/finished.json", {"files": {"codec.pt": "new"}})
    assert dry_run(done) == [f"{LLDM}/{name}" for name in ("latents", "label_ldm", "image_ldm", "controlnet")] + after


def test_finished_models_that_changed_settings_replace_are_named_before(done, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("lldm3d.pipeline.workflow.snakemake", lambda *_: None)
    profile = write_profile(tmp_path / "mine.yaml", methods={"lldm": {"controlnet": {"learning_rate": 1e-4}}})
    run(str(done), profile=str(profile), cores=1, **DRAWN)
    assert f"trained anew, as settings or inputs have changed: {LLDM}/controlnet, {RS[0]}" in capsys.readouterr().out
    shutil.rmtree(done / LLDM / "controlnet")
    run(str(done), cores=1, until=f"{LLDM}/controlnet", **DRAWN)
    assert "anew" not in capsys.readouterr().out


def test_a_work_directory_whose_profile_is_gone_goes_on_with_its_settings(done, dry_run, tmp_path):
    path = write_profile(tmp_path / "mine.yaml", methods={"n": 3})
    write_yaml(done / "run.yaml", planned(done, str(path), None))
    left = dry_run(done)
    path.unlink()
    assert dry_run(done)[-len(left) :] == left and planned(done, None, None)["settings"]["methods"]["n"] == 3


def test_a_folder_is_made_absolute_whatever_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute("a {b} #1") == str(tmp_path / "a {b} #1") and absolute({"liver": 1}) == {"liver": 1}


def test_a_folder_of_other_things_is_no_place_for_a_run_that_nobody_asked_for(tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(UserError, match="holds no run to go on with .run.yaml., but other things; correct --workdir"):
        run(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_study_names_the_pairs_that_lack_and_the_command_that_draws_them(tmp_path):
    profile = write_profile(tmp_path / "two.yaml", methods={"seeds": [0, 1]}, segment={"seeds": [0, 1]})
    plan = plan_of(tmp_path, profile)
    for name in ("dataset", PAIRS):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "dataset.json").touch()
    with pytest.raises(UserError) as error:
        require_inputs(tmp_path, plan, selected_jobs(plan, stages=OF_STUDY))
    lacks, second = "pairs/lldm/drawn/seed_1", RS[0].replace("seed_0", "seed_1")
    assert str(error.value) == (
        f"{tmp_path / lacks}/dataset.json: is missing, and the stage {second} reads it; "
        f"make it with `lldm3d run --workdir {tmp_path} --until {lacks}`"
    )
    (tmp_path / second).mkdir(parents=True)
    for name in ("metrics.csv", "model.pt"):
        (tmp_path / second / name).touch()
    require_inputs(tmp_path, plan, selected_jobs(plan, stages=OF_STUDY))  # what is done needs none


def test_neither_a_copy_nor_a_clock_nor_a_look_makes_a_job_run_again(done, dry_run, tmp_path):
    for number, path in enumerate(sorted(path for path in done.rglob("*") if path.is_file())):
        os.utime(path, (2e9 - 1e6 * number, 2e9 - 1e6 * number))
    assert dry_run(done) == []
    shutil.copytree(done, tmp_path / "copy", copy_function=shutil.copyfile)
    assert dry_run(tmp_path / "copy") == []
    profile = write_profile(tmp_path / "mine.yaml", methods={"lldm": {"controlnet": {"learning_rate": 1e-4}}})
    assert dry_run(done, profile=str(profile)) and dry_run(done) == []
    (done / "report/report.html").unlink()
    assert dry_run(done) == ["report"]


def test_a_work_directory_of_the_last_version_is_done_where_its_files_are(done, dry_run):
    shutil.rmtree(done / RECORDS)
    times = {
        path: number for number, path in enumerate(dict.fromkeys(path for job in jobs(done) for path in job.writes))
    }
    for path, number in times.items():
        os.utime(done / path, (1e9 + number, 1e9 + number))
    os.utime(done / PAIRS / "dataset.json", (1, 1))
    assert dry_run(done) == [PAIRS, *RS, "evaluation/lldm/drawn/seed_0", "study", "comparison", "report"]


def jobs(work: Path) -> list:
    return all_jobs(Plan.of(yaml.safe_load((work / "run.yaml").read_text())))


def test_more_processes_of_a_stage_than_gpus_are_refused(tmp_path):
    methods = {"lldm": {"controlnet": {"processes": 3}, "inference": {"processes": 2}}}
    profile = write_profile(tmp_path / "mine.yaml", methods=methods)
    with pytest.raises(UserError, match=rf"\{{'{LLDM}/controlnet': 3\}}: more processes than the 2 GPUs.*--gpus"):
        run(str(tmp_path / "work"), str(profile), methods="lldm", sources="drawn", gpus=2, dry_run=True)


def test_other_data_than_the_work_directory_was_made_from_is_refused(tmp_path):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(planned(tmp_path, "demo", {"data": str(tmp_path)})))
    assert planned(tmp_path, None, {"data": "/elsewhere"})["data"] == {"data": "/elsewhere"}  # nothing is made yet
    (tmp_path / "dataset").mkdir()
    with pytest.raises(UserError, match=f"{tmp_path}.*/elsewhere.*--workdir"):
        run(str(tmp_path), data="/elsewhere")


def test_a_work_directory_of_an_earlier_version_is_refused_with_the_remedy(tmp_path):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"profile": "demo", "data": None, "settings": {}}))
    with pytest.raises(UserError, match="run.yaml: this work directory was made by a version before 0.8.*--workdir"):
        run(str(tmp_path))


def test_a_second_run_in_the_same_work_directory_is_refused(tmp_path):
    with locked(tmp_path / ".locks" / "run.lock", "the work directory"):
        with pytest.raises(UserError, match=f"in use by process {os.getpid()}"):
            run(str(tmp_path))


def test_a_run_remembers_methods_sources_and_profile(tmp_path):
    first = planned(tmp_path, "small", {"data": str(tmp_path)}, methods=["lldm", "ddpm"], sources=["drawn", "test"])
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(first))
    assert planned(tmp_path, None, None) == first
    other = planned(tmp_path, None, None, methods=["ddpm"])
    assert other["methods"] == ["ddpm"] and other["sources"] == ["drawn", "test"]


def test_the_regimes_of_a_run_can_be_fewer_than_the_profile_s(tmp_path, dry_run):
    options = {"profile": "small", "data": str(tmp_path), "methods": "lldm,ddpm", "sources": "training"}
    stages = dry_run(tmp_path / "work", regimes="R,R+S", until="study", **options)
    assert {name.split("/")[4] for name in stages if name.startswith("segment/")} == {"R", "R+S"}
    assert planned(tmp_path, "small", None, {"regimes": ["R", "R+S"]})["grid"] == {"regimes": ["R", "R+S"]}


def test_settings_of_a_method_that_the_run_does_not_train_are_told(tmp_path, dry_run, monkeypatch):
    printed = []
    monkeypatch.setattr("builtins.print", lambda *words, **_: printed.append(" ".join(map(str, words))))
    (tmp_path / "mine.yaml").write_text("{base: small, methods: {lldm: {image_ldm: {epochs: 8}}}}")
    options = {"profile": str(tmp_path / "mine.yaml"), "data": str(tmp_path)}
    run(str(tmp_path / "work"), dry_run=True, **options)
    assert any("trains haar_ldm; settings of lldm in the profile change nothing" in line for line in printed)
    printed.clear()
    run(str(tmp_path / "work"), dry_run=True, methods="lldm", **options)
    assert not any("change nothing" in line for line in printed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": "lldm,gan"}, "there is no method 'gan'"),
        ({"sources": "drawn,tset"}, "no source of labels 'tset': give drawn, training, unwarped, test, .* or a folder"),
        ({"regimes": "R,R+T"}, "R.T"),
        ({"profile": "smal"}, "demo, small, full"),
        ({"until": "latent", "methods": "lldm"}, "--until 'latent': no such stage; did you mean latents"),
    ],
)
def test_a_mistake_is_refused_before_anything_runs(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        run(str(tmp_path / "work"), **options)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    "name", ["report/report.html", "study/table.md", "dataset/notes.txt", "data/imagesTr/p.nii.gz"]
)
def test_a_folder_with_files_of_the_users_is_no_work_directory(tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"{Path(name).parts[0]}: was not made by `lldm3d run`"):
        run(str(tmp_path), dry_run=True)
    assert (tmp_path / name).read_text() == "mine"


def poor_autoencoder(work: Path, dataset: Path, profile: str = "demo") -> Path:
    """A work directory in which both autoencoders are finished, that of images poor."""
    shutil.copytree(dataset, work / "dataset")
    plan = planned(work, profile, {"data": str(work)}, **DRAWN)
    (work / "run.yaml").write_text(yaml.safe_dump(plan))
    for training, metrics in (("autoencoder_image", {"psnr": 15.5}), ("autoencoder_label", {"mean_dice": 0.95})):
        write_json(work / LLDM / training / "metrics.json", metrics)
        finish(work, find_job(Plan.of(plan), f"{LLDM}/{training}"))
    return work


def test_a_gate_that_fails_stops_a_training_with_the_reason(tmp_path, tiny_dataset):
    work = poor_autoencoder(tmp_path / "work", tiny_dataset)
    gate = load_profile("demo")["methods"]["lldm"]["autoencoder_image"]["gate"]["psnr"]
    with pytest.raises(UserError, match=f"psnr is 15.5, below the gate of {gate}") as error:
        do_stages(work, f"{LLDM}/latents")
    assert "mean_dice" not in str(error.value) and not (work / LLDM / "latents/finished.json").exists()


def test_the_message_of_a_stage_that_fails_is_that_of_the_run(tmp_path):
    """In processes of their own, by Snakemake: the data are missing."""
    result = lldm3d("run", "--workdir", tmp_path / "work", "--data", tmp_path / "data", "--until", "prepare")
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert result.stderr.count("the stage prepare stopped:") == 1 and str(tmp_path / "data") in result.stderr


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_only_the_cores_that_the_process_may_use_are_counted():
    code = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); "
        "from lldm3d.processes import usable_cores; print(usable_cores())"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "1\n"
