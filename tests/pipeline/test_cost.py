"""What a dry run says of the trainings before them."""

import shutil
from pathlib import Path

import pytest
from tests.in_process import method_section, write_profile

from lldm3d.methods.registry import load_method, method_names
from lldm3d.pipeline import cluster
from lldm3d.pipeline.cost import note_limits, print_cost
from lldm3d.pipeline.plan import Plan
from lldm3d.pipeline.stages import all_jobs, find_job

from .conftest import plan_of

SMALL = {"channels": [8, 8], "latent_channels": 2, "batch_size": 1, "epochs": 3, "epoch_length": 7}
DIFFUSION = {"channels": [32], "attention_levels": [False], "batch_size": 2, "epochs": 2, "epoch_length": 5}
LLDM = {
    "autoencoder_image": SMALL,
    "autoencoder_label": {**SMALL, "processes": 2},
    "label_ldm": DIFFUSION,
    "image_ldm": DIFFUSION,
    "controlnet": {"conditioning_channels": [4, 8], "batch_size": 1, "epochs": 4, "epoch_length": 5},
}
FOLDER = "methods/lldm/seed_0"


def write_plan(folder: Path, **trainings) -> Plan:
    profile = write_profile(folder / "tiny.yaml", methods={"lldm": {**LLDM, **trainings}}, segment={"regimes": ["R"]})
    return plan_of(folder, profile)


def test_time_memory_and_disk_of_each_training_of_prepared_data_are_printed(tmp_path, tiny_dataset, capsys):
    work, plan = tmp_path / "work", write_plan(tmp_path)
    shutil.copytree(tiny_dataset, work / "dataset")
    print_cost(work, plan, [job for job in all_jobs(plan) if job.stage in ("train", "pairs")])
    said = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines() if "GB" in line or "pair" in line)
    steps = {name.split("/")[-1]: int(text.split(" steps")[0]) for name, text in said.items() if "steps" in text}
    assert steps == {
        "autoencoder_image": 21, "autoencoder_label": 21, "label_ldm": 10, "image_ldm": 10, "controlnet": 20
    }  # fmt: skip
    assert 0 < float(said["pairs of lldm"].split(" s ")[0]) < 60
    memory = {name: float(text.split("; ")[1].split(" GB")[0]) for name, text in said.items() if "steps" in text}
    assert memory[f"{FOLDER}/autoencoder_label"] > 1.8 * memory[f"{FOLDER}/autoencoder_image"], "two processes"
    assert (work / "limits.json").is_file()


@pytest.mark.parametrize("name", method_names())
def test_the_trainings_of_each_method_are_measured(tmp_path, tiny_dataset, name, capsys):
    work, method = tmp_path / "work", load_method(name)
    shutil.copytree(tiny_dataset, work / "dataset")
    profile = write_profile(tmp_path / "small.yaml", methods={name: method_section(name)})
    plan = plan_of(tmp_path, profile, methods=[name], sources=[method.sources[0]])
    print_cost(work, plan, [job for job in all_jobs(plan) if job.stage == "train"])
    *lines, last = capsys.readouterr().out.splitlines()
    told = [line for line in lines if not line.startswith(f"{name}: what ")]
    assert all(f"{name}/" in line and " steps at " in line for line in told) and last.startswith("from steps on this")
    silent = ", ".join(line for line in lines if line not in told)
    for training, entry in method.trainings.items():
        assert entry.run != "training" or any(training in line for line in (*told, silent)), "each is named"


def test_of_several_methods_a_training_has_the_steps_of_its_minutes(tmp_path, tiny_dataset, capsys):
    work = tmp_path / "work"
    shutil.copytree(tiny_dataset, work / "dataset")
    methods = {"minutes": 4, "lldm": LLDM}
    plan = plan_of(tmp_path, write_profile(tmp_path / "m.yaml", methods=methods), methods=["lldm", "ddpm"])
    print_cost(work, plan, [find_job(plan, f"{FOLDER}/controlnet")])
    line = capsys.readouterr().out.splitlines()[0]
    steps, seconds = int(line.split(": ")[1].split(" steps")[0]), float(line.split(" at ")[1].split(" s")[0])
    assert steps * seconds == pytest.approx(60 * 4 * 0.14, rel=0.02)


@pytest.mark.parametrize(("sources", "measured"), [(["training"], False), (["training", "drawn"], True)])
def test_what_draws_labels_counts_only_where_some_are_drawn(tmp_path, tiny_dataset, monkeypatch, sources, measured):
    work, names = tmp_path / "work", []
    shutil.copytree(tiny_dataset, work / "dataset")
    monkeypatch.setattr("lldm3d.pipeline.cost.measure_training", lambda plan, method, name, schema: names.append(name))
    plan = plan_of(tmp_path, methods=["haar_ldm"], sources=sources)
    print_cost(work, plan, [job for job in all_jobs(plan) if job.stage in ("train", "pairs")])
    assert ("label_ldm" in names) == measured and "diffusion" in names


def test_nothing_is_said_without_a_data_set(tmp_path, capsys):
    plan = write_plan(tmp_path)
    print_cost(tmp_path, plan, all_jobs(plan))
    assert capsys.readouterr().out == ""


def test_jobs_of_a_cluster_ask_for_the_minutes_that_a_dry_run_measured_with_their_settings(tmp_path, tiny_dataset):
    work = tmp_path / "work"
    shutil.copytree(tiny_dataset, work / "dataset")

    def runtimes(plan: Plan) -> list[int]:
        on_cluster = with_executor(plan)
        names = ("prepare", f"{FOLDER}/image_ldm", f"{FOLDER}/controlnet")
        return [cluster.job_resources(on_cluster, find_job(plan, name), work)[1]["runtime"] for name in names]

    plan = write_plan(tmp_path)
    note_limits(work, plan, {"train/lldm/image_ldm": 100, "train/lldm/controlnet": 0.2})
    usual = plan.settings["cluster"]["all"]["runtime"]
    assert runtimes(plan) == [usual, 210, 11]
    asked = {"retries": 0, "all": plan.settings["cluster"]["all"], "train": {"runtime": 300}}
    assert runtimes(changed_settings(plan, cluster=asked)) == [usual, 300, 300], "what the user says holds"
    other = write_plan(tmp_path, image_ldm={**DIFFUSION, "channels": [64]})
    assert runtimes(other) == [usual, usual, usual], "another network was not measured"


def with_executor(plan: Plan) -> Plan:
    return Plan(plan.data, plan.methods, plan.sources, plan.settings, executor="slurm")


def changed_settings(plan: Plan, **sections) -> Plan:
    return Plan(plan.data, plan.methods, plan.sources, {**plan.settings, **sections})


def test_no_time_of_a_pair_is_told_where_not_all_networks_that_draw_it_were_measured(tmp_path, tiny_dataset, capsys):
    work = tmp_path / "work"
    shutil.copytree(tiny_dataset, work / "dataset")
    profile = write_profile(tmp_path / "m.yaml", methods={"gem3d_autoencoder": {"autoencoder_image": SMALL}})
    plan = plan_of(tmp_path, profile, methods=["gem3d_autoencoder"])
    print_cost(work, plan, [job for job in all_jobs(plan) if job.stage in ("train", "pairs")])
    said = capsys.readouterr().out
    assert "autoencoder_image: 21 steps" in said and "pairs of" not in said
