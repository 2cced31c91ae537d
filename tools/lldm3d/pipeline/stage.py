"""One stage of a run, by hand or by the workflow: `lldm3d stage --workdir W NAME`."""

import importlib
import os
import signal
import sys
import time
from pathlib import Path

from lldm3d.children import end_with_parent, quoted
from lldm3d.errors import ChildError, UserError
from lldm3d.files import read_yaml, remove_partial, write_json
from lldm3d.locks import locked, stage_lock
from lldm3d.pipeline.checks import check_inputs, depends_on, is_done, jobs_to_do, mark_done, put_back, set_aside
from lldm3d.pipeline.plan import FORMAT, Plan
from lldm3d.pipeline.stages import STAGES, Job, all_jobs, find_job
from lldm3d.pipeline.times import in_words, outlook, run_now, timed

IN_WORKFLOW = "LLDM3D_WORKFLOW"  # set by the workflow for its jobs: the process that starts one
FAILURES = ".failures"  # folder in which each stage that failed leaves its message


def stage(workdir: str, name: str) -> None:
    """Run one stage of a work directory by hand, with the settings in its run.yaml.

    Args:
        workdir: work directory of `lldm3d run`.
        name: a name that `lldm3d run --dry_run` lists.

    Raises:
        UserError: when an input is missing or does not fit, or a gate is missed.
        ChildError: when a training fails.
    """
    work = Path(workdir).resolve()
    plan = Plan.of(read_plan(work))
    job = find_job(plan, name)
    if IN_WORKFLOW not in os.environ:
        return do(work, job, plan)
    end_with_parent(signal.SIGTERM, int(os.environ[IN_WORKFLOW]))
    failure = work / FAILURES / f"{name}.json"
    if failure.is_file():  # a second attempt is for what ended a job from outside, such as its time limit
        sys.exit(1)
    try:
        if not is_done(work, job):  # one before it was done again, and wrote the same
            do(work, job, plan)
    except (UserError, ChildError, OSError) as error:
        message = {"stage": name, "user": not isinstance(error, ChildError), "message": str(error)}
        try:
            write_json(failure, message)  # the workflow's end shows it
        except UserError:  # of a full disk
            print(f"lldm3d: the stage {name} stopped: {error}", file=sys.stderr)
        sys.exit(1)


def read_plan(work: Path) -> dict:
    """The content of `run.yaml`. Raises UserError where it is missing, or of an earlier version."""
    path = work / "run.yaml"
    content = read_yaml(path, f"make it with `lldm3d run --workdir {quoted(work)} --until prepare`")
    if content.get("format") != FORMAT:
        raise UserError(
            f"{path}: this work directory was made by a version before 0.8, whose folders were others; choose another "
            f"--workdir, or delete {path} and all that the run made, and run again"
        )
    if lacking := {"data", "methods", "sources", "settings"} - content.keys():
        raise UserError(f"{path}: lacks {', '.join(sorted(lacking))}; restore it, or choose another --workdir")
    return content


def do(work: Path, job: Job, plan: Plan) -> None:
    """Check what the job reads, and do it."""
    names = [item.name for item in all_jobs(plan)]
    row = next(item for item in STAGES if item.name == job.stage)
    place = f"{names.index(job.name) + 1} of {len(names)}"
    print(f"lldm3d: stage {job.name} ({place}) {row.title}{of_the_run(work, plan)}", flush=True)
    with locked(stage_lock(work, job.name), f"the stage {job.name}"):
        check_inputs(work, job)
        found = depends_on(work, job)
        if put_back(work, job, found):
            return print(f"{work / job.name}: was trained with these settings and inputs, and is put back", flush=True)
        set_aside(work, job, found)
        remove_partial(work / job.name)
        module, function = row.action.split(":")
        with timed(work, job):
            getattr(importlib.import_module(f"lldm3d.pipeline.{module}"), function)(work, job, plan)
        mark_done(work, job, found)


def of_the_run(work: Path, plan: Plan) -> str:
    """How long the run has been at work, and what is left of it; nothing for a stage by hand."""
    if IN_WORKFLOW not in os.environ or not (now := run_now(work)):
        return ""
    jobs = all_jobs(plan)
    rest = outlook(work, plan, jobs, jobs_to_do(work, [job for job in jobs if job.name in now["selected"]]))
    return f"; {in_words(time.time() - now['began'])} since the run began, {rest}"
