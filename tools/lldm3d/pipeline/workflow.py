"""The jobs of a plan handed over to Snakemake: where they run, which are to be done, and what one that failed said."""

import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from lldm3d.children import quoted, source_environment, tail, tied_to_me
from lldm3d.errors import ChildError, UserError
from lldm3d.files import read_json, write_yaml
from lldm3d.locks import RUN_LOCK, holder, in_use, locked, visible_gpus
from lldm3d.pipeline.checks import is_trained, jobs_to_do, mark_done
from lldm3d.pipeline.cluster import check_executor, ended_by_slurm, refuse_left_over, refused_by_slurm, slurm_options
from lldm3d.pipeline.plan import Plan
from lldm3d.pipeline.stage import FAILURES, read_plan
from lldm3d.pipeline.stages import Job, all_jobs
from lldm3d.pipeline.times import CONFIG
from lldm3d.processes import usable_cores
from lldm3d.study.stages import RECORDS

SNAKEFILE = Path(__file__).parent / "Snakefile"


def execute(work: Path, content: dict, selected: list[Job], dry_run: bool, **where) -> None:
    """Write `run.yaml` and have Snakemake do what is not done of the selected jobs, or list it and what it takes.

    Args:
        content: of `run.yaml`; the threads of each job are noted in it.
        where: `cores` and `gpus` of this machine, or `executor` and `jobs` of a cluster; see `run`.

    Raises UserError as `require_inputs` and `placed` do, and what `snakemake` raises.
    """
    require_inputs(work, Plan.of(content), selected)
    options, executor = placed(work, content, selected, **where), where["executor"]
    if dry_run:
        return print_left(work, content, selected)
    with locked(work / RUN_LOCK, f"the work directory {work}"):
        if executor:
            refuse_left_over(work)
        shutil.rmtree(work / FAILURES, ignore_errors=True)
        adopt(work)
        write_yaml(work / "run.yaml", content)
        # jobs of a cluster do not write to this terminal; here `all` hides faults of Snakemake's own as well, of
        # which `require_inputs` finds those that a user can cause, but less adds 14 lines to each stage that fails
        quiet = ["--quiet", "host", "reason"] if executor else ["--quiet", "all"]
        end = signal.SIGINT if executor else signal.SIGKILL
        if left := jobs_to_do(work, selected):
            if anew := [job.name for job in left if is_trained(work, job)]:
                print(f"lldm3d: trained anew, as settings or inputs have changed: {', '.join(anew)}")
            write_config(work / CONFIG, content, left)
            snakemake(work, work / CONFIG, [*options, *quiet], end)


def print_left(work: Path, content: dict, selected: list[Job]) -> None:
    """Print which of the selected jobs are not done, and what they take; of a work directory that is read-only too.

    Raises UserError where a run is at work there, or has left jobs on a cluster.
    """
    if by := holder(work / RUN_LOCK):
        raise in_use(work / RUN_LOCK, f"the work directory {work}", by)
    if content["executor"]:
        refuse_left_over(work)
    with suppress(UserError):  # of a place that cannot be written: what version 0.8 did there counts as not done
        adopt(work)
    left = jobs_to_do(work, selected)
    print("\n".join([f"lldm3d: {len(left)} stages would run in {work}", *(job.name for job in left)]))
    if not content["executor"]:  # a cluster's login node would say nothing of its other nodes
        from lldm3d.pipeline.cost import print_cost

        print_cost(work, Plan.of(content), left)


def require_inputs(work: Path, plan: Plan, selected: list[Job]) -> None:
    """Raise UserError for files that jobs still to be done read, and that are neither there nor made by another one."""
    made = {path for job in selected for path in job.writes}
    makers = {path: job.name for job in all_jobs(plan) for path in job.writes}
    left = [job for job in selected if not all((work / path).exists() for path in job.writes)]
    missing = {path: job.name for job in left for path in job.reads if path not in made and not (work / path).exists()}
    command = f"lldm3d run --workdir {quoted(work)} --until"
    faults = [
        f"{work / path}: is missing, and the stage {name} reads it; "
        + (f"make it with `{command} {makers[path]}`" if path in makers else "put it there")
        for path, name in missing.items()
    ]
    if faults:
        raise UserError("\n".join(faults))


def placed(
    work: Path,
    content: dict,
    selected: list[Job],
    cores: int | None,
    gpus: int | None,
    executor: str | None,
    jobs: int | None,
) -> list[str]:
    """Snakemake's options for where jobs run; the threads of each on this machine are noted in `content`.

    Raises UserError for a cluster that cannot be used, or for limits of the other place.
    """
    for name, value in {"cores": cores, "gpus": gpus, "jobs": jobs}.items():
        if value is not None and value < 1:
            raise UserError(f"--{name} must be at least 1, got {value}")
    other = {"--cores": cores, "--gpus": gpus} if executor else {"--jobs": jobs}
    if given := [name for name, value in other.items() if value is not None]:
        limits = "a cluster: limit it with --jobs" if executor else "this machine: limit it with --cores and --gpus"
        raise UserError(f"{', '.join(given)} says nothing of {limits}, or choose with --executor where stages run")
    content["executor"] = executor
    if executor:
        check_executor(executor)
        content["at_once"] = at_once = jobs or 20
        content["threads"] = content["threads_alone"] = 1  # the cluster's section sets those of each stage
        return slurm_options(work, content["settings"]["cluster"], at_once)
    cores = cores or usable_cores()
    # a training counts as one GPU; on a CPU two run at once, which there is a third faster than one after the other
    devices = gpus or len(visible_gpus())
    gpus = devices or min(2, cores)
    if wanting := {job.name: job.processes for job in selected if job.processes > gpus}:
        raise UserError(f"{wanting}: more processes than the {gpus} GPUs at once; lower them, or raise --gpus")
    content["threads"], content["at_once"] = max(1, cores // gpus), gpus
    # jobs that all others wait for, which on a CPU have all of it to themselves
    content["threads_alone"] = content["threads"] if devices else cores
    return ["--cores", str(cores), "--resources", f"gpu={gpus}"]


def write_config(path: Path, content: dict, selected: list[Job]) -> None:
    """Write the plan, the names of the selected jobs and the time of now: Snakemake's config."""
    write_yaml(path, {**content, "selected": [job.name for job in selected], "began": time.time()})


def adopt(work: Path) -> None:
    """Note what a run of version 0.8, which went by the times of files, has done with the settings in its run.yaml."""
    if (work / RECORDS).exists() or not (work / "run.yaml").is_file():
        return
    for job in all_jobs(Plan.of(read_plan(work))):
        made = [work / name for name in job.writes]
        reads = [(work / name).stat().st_mtime for name in job.reads if (work / name).is_file()]
        if all(path.is_file() and path.stat().st_mtime >= max(reads, default=0) for path in made):
            mark_done(work, job)


def snakemake(work: Path, config: Path, options: list[str], end: int) -> None:
    """Have Snakemake do the jobs of `config` in `work`. It ends with this process, and its jobs with it.

    The lock is ours, as Snakemake's stays behind when it is killed. Which jobs are to be done is ours as well
    (`jobs_to_do`): Snakemake goes by the times of files, which a copy or a wrong clock changes, and deletes what a job
    has made before it begins. It runs them in order, more than one at once, here or on a cluster.

    Args:
        end: the signal at which Snakemake ends its jobs: its death, where they are its children; an interrupt, where it
            has to cancel them on a cluster. It gets a session of its own, or a terminal would interrupt it twice.

    Raises:
        UserError, ChildError: what the job that failed raised.
    """
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE), "--directory", str(work)]
    command += ["--configfile", str(config), "--nolock", "--rerun-incomplete", "--forceall"]
    keywords = {"env": source_environment(), "start_new_session": end == signal.SIGINT}
    child = subprocess.Popen([*command, *options], preexec_fn=tied_to_me(end), **keywords)
    try:
        child.wait()
    finally:
        child.send_signal(end)  # nothing, where it has ended
        child.wait()
    if child.returncode:
        raise failure(work, child.returncode)


def failure(work: Path, status: int) -> Exception:
    """What each job that failed left as its message; when the fault is Snakemake's, what it said or logged last."""
    logs = sorted((work / ".snakemake" / "log").glob("*.log"), key=lambda log: log.stat().st_mtime)[-1:]
    log = "".join(path.read_text(errors="replace") for path in logs)
    left = [read_json(path) for path in sorted((work / FAILURES).rglob("*.json"))]
    ended = ended_by_slurm(log, reported=[found["stage"] for found in left])
    own = [found for found in left if found["stage"] not in ended]
    messages = {**ended, **{found["stage"]: found["message"] for found in own}}
    lines = [f"the stage {stage} stopped: {message}" for stage, message in messages.items()]
    if refused := refused_by_slurm(log):
        return UserError("\n".join([*refused, *lines]))
    if not lines:
        said = "".join(f"{path} ends:\n{tail(path)}" for path in logs)
        return ChildError(f"{work}: the workflow ended with status {status}; {said}")
    mistake = not ended and all(found["user"] for found in own)
    return UserError("\n".join(lines)) if mistake else ChildError("\n".join(lines))
