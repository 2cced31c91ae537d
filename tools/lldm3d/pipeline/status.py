"""`lldm3d status`: what a run does, has done and has left to do, from the files of its work directory alone."""

import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from lldm3d.children import quoted
from lldm3d.errors import UserError
from lldm3d.files import read_json
from lldm3d.locks import holder, stage_lock
from lldm3d.pipeline.checks import jobs_to_do
from lldm3d.pipeline.cluster import limit_key
from lldm3d.pipeline.plan import Plan
from lldm3d.pipeline.stage import FAILURES, read_plan
from lldm3d.pipeline.stages import Job, all_jobs
from lldm3d.pipeline.times import Outlook, begun, in_words, noted, outlook, progress, run_now


def status(workdir: str) -> None:
    """Show what runs in a work directory, what is done and what is left, while a run is at work, or after it.

    Args:
        workdir: of `lldm3d run`, `lldm3d study` or `lldm3d cross_validate`, of which each fold is shown. Nothing is
            written to it.

    Raises:
        UserError: where no run has begun there.
    """
    work = Path(workdir).resolve()
    folds = [] if (work / "run.yaml").is_file() else [path.parent for path in work.glob("fold_[0-9]*/run.yaml")]
    faults = []
    for place in sorted(folds, key=lambda place: (len(place.name), place.name)) or [work]:  # fold_10 comes last
        try:
            print_status(place)
        except UserError as error:  # the other folds are shown
            faults.append(str(error))
    if faults:
        raise UserError("\n".join(faults))


def print_status(work: Path) -> None:
    """Print what one run does, has done and has left to do."""
    content, now = read_plan(work), run_now(work)
    plan = Plan.of(content)
    name, where = ("cross_validate", work.parent) if content.get("fold") else ("run", work)
    command = f"{name} --workdir {quoted(where)}"
    jobs = all_jobs(plan)
    left = {job.name: job for job in jobs_to_do(work, jobs)}
    wanted = [job for job in left.values() if not now or job.name in now["selected"]]
    rest = outlook(work, plan, jobs, wanted)
    lines = [*table(work, jobs, left, rest), "", *by_name(work, left)]
    print("\n".join([heading(work, now, bool(left), command), "", *lines]))
    took = sum(noted(work, job).get("seconds", 0) for job in jobs if job.name not in left)
    print(f"{len(jobs) - len(left)} of {len(jobs)} stages done in {in_words(took)}" + (f"; {rest}" if wanted else ""))


def heading(work: Path, now: dict | None, to_do: bool, command: str) -> str:
    """Whether a run is at work, since when and by whom."""
    if now is None and not to_do:
        return f"{work}: no run is at work, as all is done; the report is {work}/report/report.html"
    if now is None:
        return f"{work}: no run is at work; `lldm3d {command}` goes on with what is left"
    began = time.strftime("%Y-%m-%d %H:%M", time.localtime(now["began"]))
    ends = f", with {len(now['selected'])} stages to do" if now["selected"] else ""
    return f"{work}: a run is at work since {began}, {in_words(time.time() - now['began'])} (process {now['by']}){ends}"


def table(work: Path, jobs: Sequence[Job], left: Collection[str], rest: Outlook) -> Iterator[str]:
    """For each kind of jobs how many are done, what these took, and what the others are expected to take."""
    kinds: dict[str, list[Job]] = {}
    for job in jobs:
        kinds.setdefault(limit_key(job), []).append(job)
    width = max(map(len, kinds))
    yield f"{'':<{width}}  {'done':>9}  {'took':>12}  expected"
    for kind, members in kinds.items():
        done = [job for job in members if job.name not in left]
        took = sum(noted(work, job).get("seconds", 0) for job in done)
        waits = [rest.seconds[job.name] for job in members if job.name in rest.seconds]
        expected = in_words(sum(waits)) if waits else ""
        number = f"{len(done)} of {len(members)}"
        yield f"{kind:<{width}}  {number:>9}  {in_words(took) if took else '':>12}  {expected}".rstrip()


def by_name(work: Path, left: dict[str, Job]) -> Iterator[str]:
    """The jobs that run, were stopped, or failed."""
    for name, job in left.items():
        failure, began = work / FAILURES / f"{name}.json", begun(work, job)
        if holder(stage_lock(work, name)):
            since = f", {in_words(time.time() - began)}" if began else ""
            yield f"runs: {name}{since}{epochs(work, job)}"
        elif failure.is_file():
            yield f"failed: {name}: {read_json(failure)['message']}"
        elif began:
            yield f"stopped: {name}{epochs(work, job)}"


def epochs(work: Path, job: Job) -> str:
    """How far a training has come."""
    found = progress(work, job)
    return f", epoch {found['epoch']} of {found['epochs']} done" if found else ""
