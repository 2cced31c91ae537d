"""What the jobs of a run have taken, and what is left of it: noted by each job, or measured by `cost`."""

import heapq
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lldm3d.files import read_json, read_yaml, write_json
from lldm3d.locks import RUN_LOCK, holder, stage_lock
from lldm3d.pipeline.cluster import limit_key, measured
from lldm3d.pipeline.plan import Plan
from lldm3d.pipeline.stages import Job
from lldm3d.training import PROGRESS

CONFIG = ".snakemake/lldm3d.yaml"  # of the last run, in the work directory, as jobs of a cluster read it too
TIMES = ".times"  # of each job when it began and, in the end, its seconds


@contextmanager
def timed(work: Path, job: Job) -> Iterator[None]:
    """Note when a job begins and, where the block ends well, how long it took."""
    path = work / TIMES / f"{job.name}.json"
    now = {"began": time.time(), "goes_on": begun(work, job) is not None}  # the seconds are not those of all of it
    write_json(path, now)
    yield
    write_json(path, {**now, "seconds": time.time() - now["began"]})


def noted(work: Path, job: Job) -> dict:
    """What `timed` has noted of a job."""
    path = work / TIMES / f"{job.name}.json"
    return read_json(path) if path.is_file() else {}


def run_now(work: Path) -> dict | None:
    """Of a run that is at work: who holds its lock (`by`), when it `began`, and the names of its jobs (`selected`)."""
    by, path = holder(work / RUN_LOCK), work / CONFIG
    content = read_yaml(path, "run again") if by and path.is_file() else {}
    return {"by": by, **content} if {"began", "selected"} <= content.keys() else None


@dataclass(frozen=True)
class Outlook:
    """What is expected of some jobs."""

    seconds: dict[str, float]  # of those of which something is known, by their names
    whole: float  # seconds until all of them are done, as many at once as the run allows
    unknown: list[str]  # kinds of the others

    def __str__(self) -> str:
        if not self.seconds:
            return "how long the rest takes is not known"
        without = f", and {', '.join(self.unknown)}, whose time is not known" if self.unknown else ""
        return f"about {in_words(self.whole)} left{without}"


def outlook(work: Path, plan: Plan, jobs: Sequence[Job], left: Collection[Job]) -> Outlook:
    """What is expected of the jobs `left`, from what others of their kind among `jobs` took, or `cost` measured."""
    means = mean_seconds(work, [job for job in jobs if job not in left])
    seconds = {job.name: seconds_left(work, plan, job, means) for job in left}
    known = {name: value for name, value in seconds.items() if value is not None}
    unknown = dict.fromkeys(job.values.get("training", job.stage) for job in left if job.name not in known)
    return Outlook(known, schedule(left, known, plan.at_once), list(unknown))


def mean_seconds(work: Path, done: Sequence[Job]) -> dict[str, float]:
    """Of the jobs of each kind that were done without a break."""
    kinds: dict[str, list[float]] = {}
    for job in done:
        if "seconds" in (found := noted(work, job)) and not found["goes_on"]:
            kinds.setdefault(limit_key(job), []).append(found["seconds"])
    return {kind: sum(values) / len(values) for kind, values in kinds.items()}


def seconds_left(work: Path, plan: Plan, job: Job, means: dict[str, float]) -> float | None:
    """Of a job that runs, was stopped, or has not begun; None where nothing tells."""
    found = measured(work, plan, job)
    whole = means.get(limit_key(job), 60 * found["minutes"] if found else None)
    if not (began := begun(work, job)):
        return whole
    told = progress(work, job)
    rest, at = (told["seconds_left"], told["at"]) if told else (whole, began)
    passed = time.time() - at if holder(stage_lock(work, job.name)) else 0
    return None if rest is None else max(0.0, rest - passed)


def progress(work: Path, job: Job) -> dict | None:
    """`epoch`, `epochs` and `seconds_left` of a training, and `at` which time it told them, since it began last."""
    path, began = work / job.name / PROGRESS, begun(work, job)
    if began is None or not path.is_file() or (at := path.stat().st_mtime) < began:
        return None
    return {**read_json(path), "at": at}


def begun(work: Path, job: Job) -> float | None:
    """When a job began that has not ended."""
    found = noted(work, job)
    return found.get("began") if "seconds" not in found else None


def schedule(jobs: Collection[Job], seconds: dict[str, float], at_once: int) -> float:
    """The end of jobs that each begin once their inputs are there, `at_once` of those that take a GPU together."""
    free, ready = [0.0] * max(at_once, max((job.processes for job in jobs), default=1)), {}
    for job in jobs:
        start = max((ready[path] for path in job.reads if path in ready), default=0.0)
        slots = [heapq.heappop(free) for _ in range(job.processes)]
        end = max([start, *slots]) + seconds.get(job.name, 0.0)
        for _ in slots:
            heapq.heappush(free, end)
        ready |= dict.fromkeys(job.writes, end)
    return max(ready.values(), default=0.0)


def in_words(seconds: float) -> str:
    """As "2 days 3 h", "2 h 5 min", "3 min" or "12 s"."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if minutes < 60:
        return f"{minutes} min" if seconds >= 60 else f"{round(seconds)} s"
    return f"{minutes // 60} h {minutes % 60} min" if hours < 48 else f"{hours // 24} days {hours % 24} h"
