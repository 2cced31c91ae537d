"""Trainings as jobs of a real Slurm on this machine: minutes, as the plugin asks ever more rarely."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.in_process import SEGMENT, write_profile

from lldm3d.errors import UserError
from lldm3d.pipeline import cluster
from lldm3d.pipeline.plan import Plan
from lldm3d.pipeline.profile import load_profile
from lldm3d.pipeline.run import run
from lldm3d.pipeline.stages import find_job

from .conftest import lldm3d
from .slurm import missing, one_node, slurm
from .test_run import poor_autoencoder
from .test_workflow import holds

PLUGIN = "snakemake_executor_plugin_slurm"
TRAINING = {**SEGMENT["overrides"], "epochs": 16, "epoch_length": 10, "val_interval": 8}
CLUSTER = {"all": {"runtime": 10, "mem_mb": 1000, "threads": 1}}
SECTIONS = {"segment": {"regimes": ["R", "R+0.5S"], "seeds": [0], "overrides": TRAINING}, "cluster": CLUSTER}
SYNTHETIC = "synthetic"
STAGES = [
    "segment/steps/seg_resunet/multi/R/real/seed_0",
    f"segment/steps/seg_resunet/multi/R+0.5S/{SYNTHETIC}/seed_0",
]


@pytest.fixture(scope="module")
def queue(tmp_path_factory):
    """The environment in which `--executor slurm` finds a Slurm, whose jobs' states are asked for every few seconds."""
    if absent := [*missing(), *([] if importlib.util.find_spec(PLUGIN) else [PLUGIN])]:
        pytest.skip(f"not installed: {', '.join(absent)} (Debian: slurm-wlm, munge; Python: the extra `slurm`)")
    profile = tmp_path_factory.mktemp("snakemake")
    (profile / "config.yaml").write_text("slurm-init-seconds-before-status-checks: 3\n")
    with one_node() as environment:
        yield {**environment, "SNAKEMAKE_PROFILE": str(profile)}


@pytest.fixture(scope="module")
def profile(tmp_path_factory) -> Path:
    return write_profile(tmp_path_factory.mktemp("profile") / "tiny.yaml", **SECTIONS)


@pytest.fixture
def new_work(tmp_path_factory, tiny_dataset, tiny_synthetic):
    """`new_work()` is a work directory with real and synthetic pairs, on which nothing was trained."""

    def make() -> Path:
        work = tmp_path_factory.mktemp("work")
        shutil.copytree(tiny_dataset, work / "dataset")
        shutil.copytree(tiny_synthetic, work / SYNTHETIC)
        return work

    return make


def arguments_of(work: Path, profile: Path) -> list:
    return ["study", "--workdir", work, "--profile", profile, "--pairs", work / SYNTHETIC]


@pytest.mark.slow
def test_a_study_with_a_cancelled_training_goes_on_to_the_same_tables(new_work, queue, profile):
    undisturbed, work = new_work(), new_work()
    here = lldm3d(*arguments_of(undisturbed, profile), "--cores", 1)
    assert here.returncode == 0, here.stdout + here.stderr

    first = start(arguments_of(work, profile), queue)
    assert holds(lambda: any((work / stage / "state.pt").is_file() for stage in STAGES), patience=200)
    assert [len(jobs(queue, state)) for state in ("RUNNING", "PENDING")] == [1, 1], "one GPU: the other training queues"
    [cancelled] = [stage for stage in STAGES if (work / stage / "state.pt").is_file()]
    [number] = jobs(queue, "RUNNING")
    slurm(queue, "scancel", number)
    _, error = first.communicate(timeout=300)
    assert first.returncode == 1
    assert f"the stage {cancelled} stopped: Slurm job {number} was cancelled; run again, and it goes on" in error
    assert [stage for stage in STAGES if not (work / stage / "metrics.csv").is_file()] == [cancelled]

    second = lldm3d("study", "--workdir", work, "--executor", "slurm", env=os.environ | queue)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "resumed from" in (work / cancelled / "log.txt").read_text()
    for name in [*(f"{stage}/metrics.csv" for stage in STAGES), "study/study.csv", "study/table.md"]:
        assert (work / name).read_text() == (undisturbed / name).read_text()


@pytest.mark.slow
def test_a_run_that_is_killed_cancels_its_jobs(new_work, queue, profile):
    first = start(arguments_of(new_work(), profile), queue)
    assert holds(lambda: jobs(queue, "RUNNING"), patience=200)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    assert holds(lambda: not jobs(queue), patience=200)


@pytest.mark.slow
def test_jobs_that_an_earlier_run_left_are_named(tmp_path, queue):
    name = f"{cluster.job_prefix(tmp_path)}_run"
    command = ["sbatch", "--parsable", "--output=/dev/null", "--job-name", name, "--wrap", "sleep 100"]
    number = slurm(queue, *command).stdout.strip()
    result = lldm3d("run", "--workdir", tmp_path, "--executor", "slurm", env=os.environ | queue)
    slurm(queue, "scancel", number)
    assert result.returncode == 2 and f"stop them with `scancel {number}`" in result.stderr


@pytest.mark.slow
def test_a_gate_that_fails_in_a_job_stops_the_run_with_the_reason(tmp_path, queue, tiny_dataset, profile):
    work = poor_autoencoder(tmp_path / "work", tiny_dataset, str(profile))
    result = lldm3d("run", "--workdir", work, "--until", "latents", "--executor", "slurm", env=os.environ | queue)
    assert result.returncode == 2 and result.stderr.count("psnr is 15.5, below the gate") == 1


@pytest.mark.slow
def test_what_slurm_says_of_a_job_that_it_refuses_is_shown(tmp_path, queue):
    profile = write_profile(tmp_path / "large.yaml", cluster={"all": {"mem_mb": 10**9}})
    result = lldm3d("run", "--workdir", tmp_path, "--profile", profile, "--executor", "slurm", env=os.environ | queue)
    assert result.returncode == 2
    assert "node configuration is not available; correct the section cluster of the profile" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"executor": "slrum"}, "'slrum' is unknown, allowed is slurm"),
        ({"executor": "slurm", "cores": 4}, "--cores.*--jobs"),
        ({"jobs": 4}, "--jobs.*--executor"),
    ],
)
def test_a_place_that_does_not_exist_and_limits_of_another_are_refused(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        run(str(tmp_path), **options)


@pytest.mark.parametrize(("plugin", "message"), [(None, r"\[slurm\]"), (True, "no `sbatch` here.*login node")])
def test_what_is_missing_for_slurm_is_said(monkeypatch, plugin, message):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: plugin)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match=message):
        cluster.check_executor("slurm")


def test_all_faults_of_the_section_are_named_at_once_with_the_nearest_names(tmp_path):
    asked = {"retries": -1, "train": {"slurm_acount": "mine", "runtime": 0}, "trian": {"runtime": 5}}
    with pytest.raises(UserError) as error:
        load_profile(str(write_profile(tmp_path / "mine.yaml", cluster=asked)))
    message = str(error.value)
    assert "cluster#retries: a whole number from 0 is needed, got -1" in message
    assert "cluster#train#slurm_acount" in message and "did you mean slurm_account?" in message
    assert "cluster#train#runtime" in message and "cluster#trian is unknown, did you mean train?" in message


def test_each_stage_asks_for_its_own(tmp_path):
    asked = {"retries": 2, "all": {"threads": 4, "runtime": 60, "slurm_account": "mine"}, "prepare": {"runtime": 5}}
    settings = load_profile("demo") | {"cluster": asked}
    plan = Plan({"data": "x"}, ("lldm",), ("drawn",), settings, executor="slurm")
    prepare, training = (find_job(plan, name) for name in ("prepare", "methods/lldm/seed_0/label_ldm"))
    assert cluster.job_resources(plan, prepare, tmp_path) == (4, {"runtime": 5, "slurm_account": "mine"})
    assert cluster.job_resources(plan, training, tmp_path)[1] == {"runtime": 60, "slurm_account": "mine", "gpu": 1}


def test_without_accounting_the_queue_is_asked(tmp_path, monkeypatch):
    for keeps, expected in ((True, False), (False, True)):
        monkeypatch.setattr(cluster, "accounting", lambda keeps=keeps: keeps)
        options = cluster.slurm_options(tmp_path, {"retries": 2}, jobs=3)
        assert options[options.index("--retries") + 1] == "2" and options[options.index("--jobs") + 1] == "3"
        assert ("squeue" in options) is expected


LOG = """
[Sat Nov 21 22:19:06 2026]
Error in rule methods__lldm__seed_0__image_ldm:
    message: SLURM-job '1' failed, SLURM status is: '{state}'. Detailed failure reason unavailable (status command is not 'sacct').
    jobid: 0
    output: methods/lldm/seed_0/image_ldm/finished.json
    log: {log} (check log file(s) for error details)
    shell:
        exec python -m lldm3d stage --workdir . methods/lldm/seed_0/image_ldm
        (command exited with non-zero exit code)
    external_jobid: 1
"""  # noqa: E501 of a run, as Snakemake 9.27 wrote it
TRAINING_JOB = "methods/lldm/seed_0/image_ldm"


def test_a_time_limit_is_named_with_its_remedy_unless_a_second_attempt_went_well():
    log = LOG.format(state="TIMEOUT", log="1.log")
    message = cluster.ended_by_slurm(log, reported=[])[TRAINING_JOB]
    assert "Slurm job 1 reached its time limit (raise cluster#train#runtime" in message
    assert cluster.ended_by_slurm(log + "Finished jobid: 0 (Rule: image_ldm)\n", reported=[]) == {}


def test_a_job_that_failed_without_a_message_shows_the_end_of_its_log(tmp_path):
    (tmp_path / "1.log").write_text("python: command not found\n")
    log = LOG.format(state="FAILED", log=tmp_path / "1.log")
    assert "command not found" in cluster.ended_by_slurm(log, reported=[])[TRAINING_JOB]
    assert cluster.ended_by_slurm(log, reported=[TRAINING_JOB]) == {}


def start(arguments: list, environment: dict[str, str]) -> subprocess.Popen:
    command = [sys.executable, "-m", "lldm3d", *map(str, arguments), "--executor", "slurm"]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=os.environ | environment, **pipes)


def jobs(environment: dict[str, str], state: str = "all") -> list[str]:
    """The numbers of the jobs in the queue that are in `state`; by default of all that have not ended."""
    states = [] if state == "all" else ["--states", state]
    return slurm(environment, "squeue", "--noheader", "--format", "%i", *states).stdout.split()
