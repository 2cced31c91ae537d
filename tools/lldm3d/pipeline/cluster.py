"""Stages as jobs of a cluster: what a run asks of Snakemake's Slurm plugin, and what it says of a job that was ended.

The plugin submits, watches and cancels. Without accounting its default, `sacct`, answers nothing and the run would wait
for ever; jobs of a run that died would be submitted a second time; and why a job was ended stands in its log alone.
"""

import hashlib
import importlib.util
import math
import re
import shutil
import subprocess
from collections.abc import Collection
from pathlib import Path

from lldm3d.children import tail
from lldm3d.errors import UserError
from lldm3d.files import read_json, sha256, write_json
from lldm3d.pairs.sources import JOINED, RECONSTRUCTED
from lldm3d.pipeline.plan import DATASET, Plan, digest
from lldm3d.pipeline.stages import Job

EXECUTORS = ("slurm",)
FOLDERS = {"methods": "train", "evaluation": "evaluate"}  # stages that are called otherwise than their folders
LIMIT_FACTOR, LIMIT_START = 2, 10  # over measured steps (docs/reference/scaling.md); minutes for all else
# how Snakemake logs a job that Slurm ended; all of its lines but the first are indented
ENDED = re.compile(
    r"^Error in rule .*\n +message: SLURM-job '(?P<job>\w+)' failed.*SLURM status is: '(?P<state>\w+)'.*\n"
    r" +jobid: (?P<id>\d+)\n(?: .*\n)*? +log: (?P<log>.+?)(?: \(check .*)?\n"
    r"(?: .*\n)*?.*lldm3d stage --workdir \. (?P<stage>\S+)",
    re.MULTILINE,
)
REFUSED = re.compile(r"SLURM sbatch failed\. The error message was '(.*?)'\.$", re.MULTILINE | re.DOTALL)
# what Slurm did, and the remedy
REMEDIES = {
    "CANCELLED": "was cancelled",
    "TIMEOUT": "reached its time limit (raise cluster#{stage}#runtime in the profile, or let cluster#retries go on)",
    "OUT_OF_MEMORY": "took more memory than it had asked for (raise cluster#{stage}#mem_mb in the profile)",
    "NODE_FAIL": "lost its node",
}


def check_executor(executor: str) -> None:
    """Raises UserError when stages cannot be sent there from this machine."""
    if executor not in EXECUTORS:
        raise UserError(
            f"--executor {executor!r} is unknown, allowed is {', '.join(EXECUTORS)}; "
            "leave it away and the stages run on this machine"
        )
    if not importlib.util.find_spec("snakemake_executor_plugin_slurm"):
        raise UserError(
            "--executor slurm needs Snakemake's plugin, which is not installed; install it with "
            "`pip install -c constraints.txt -e '.[slurm]'`"
        )
    if not shutil.which("sbatch"):
        raise UserError("--executor slurm: there is no `sbatch` here; run the command on the cluster's login node")


def slurm_options(work: Path, section: dict, jobs: int) -> list[str]:
    """Snakemake's options for a run whose stages are jobs of Slurm.

    Args:
        section: `cluster` of the profile.
        jobs: largest number of jobs in the queue at once.
    """
    options = ["--executor", "slurm", "--jobs", str(jobs), "--slurm-jobname-prefix", job_prefix(work)]
    options += ["--keep-going", "--latency-wait", "60", "--retries", str(section["retries"])]
    return options if accounting() else [*options, "--slurm-status-command", "squeue"]


def job_resources(plan: Plan, job: Job, work: Path = Path()) -> tuple[int, dict[str, int | str]]:
    """Threads and resources of a job: GPUs, and on a cluster what the section `cluster` asks for.

    What that does not say of the stage itself follows from what a dry run measured.
    """
    if not plan.executor:
        threads = plan.threads_alone if job.alone else plan.threads if job.processes else 1
        return threads, {"gpu": job.processes} if job.processes else {}
    asked = plan.settings["cluster"]
    wanted = {"gpu": job.processes, **asked["all"], **measured_limits(work, plan, job), **asked.get(job.stage, {})}
    threads = wanted.pop("threads")
    return threads, {key: value for key, value in wanted.items() if value or key != "gpu"}


def job_prefix(work: Path) -> str:
    """How the names of all jobs of a work directory begin."""
    readable = re.sub(r"[^A-Za-z0-9_]", "_", work.name)[:20]  # the plugin takes no others
    return f"lldm3d-{readable}-{hashlib.sha256(str(work).encode()).hexdigest()[:8]}"


def accounting() -> bool:
    """Whether the cluster keeps accounts of its jobs; `sacct` is installed also where it does not."""
    return bool(shutil.which("sacct")) and subprocess.run(["sacct", "-X"], capture_output=True).returncode == 0


def refuse_left_over(work: Path) -> None:
    """Raises UserError while jobs of an earlier run of the work directory, whose process died, are in the queue."""
    command = ["squeue", "--me", "--noheader", "--format", "%i %j"]
    queue = subprocess.run(command, capture_output=True, text=True)
    if queue.returncode:
        raise UserError(f"Slurm does not answer `{' '.join(command)}`: {queue.stderr.strip()}; try again later")
    named = [line.partition(" ") for line in queue.stdout.splitlines()]
    left = [number for number, _, name in named if name.startswith(job_prefix(work))]
    if left:
        raise UserError(
            f"{work}: jobs of an earlier run are still in Slurm's queue: {', '.join(left)}; wait until they end and "
            f"what they made is taken up, or stop them with `scancel {' '.join(left)}`"
        )


def ended_by_slurm(log: str, reported: Collection[str]) -> dict[str, str]:
    """Stage and message for each job that Slurm ended, from the text of Snakemake's log.

    Args:
        reported: stages that left a message of their own; a job that only failed has none better.
    """
    return {
        found["stage"]: ended(found)
        for found in ENDED.finditer(log)
        if (found["state"] != "FAILED" or found["stage"] not in reported)
        and f"\nFinished jobid: {found['id']} " not in log[found.end() :]  # the second attempt went well
    }


def ended(found: re.Match) -> str:
    """What happened to a job, and the remedy."""
    job, state = f"Slurm job {found['job']}", found["state"]
    if state == "FAILED":
        return f"{job} failed; {found['log']} ends:\n{tail(Path(found['log']))}"
    first = found["stage"].split("/")[0]
    remedy = REMEDIES.get(state, f"ended as {state}").format(stage=FOLDERS.get(first, first))
    return f"{job} {remedy}; run again, and it goes on"


def refused_by_slurm(log: str) -> list[str]:
    """What Slurm said of jobs that it did not take, each message once."""
    said = dict.fromkeys(REFUSED.findall(log))
    return [f"Slurm refused a job: {text}; correct the section cluster of the profile" for text in said]


def limit_key(job: Job) -> str:
    """What the time limits of jobs are noted for: a training of a method, its pairs, or all segmentations.

    Pairs that other networks make of drawn ones, or of real scans, take a time of their own, which is not measured.
    """
    if job.values.get("source") in (RECONSTRUCTED, *JOINED):
        return job.name
    named = [str(job.values[key]) for key in ("method", "training") if key in job.values]
    return "/".join([job.stage, *named])


def note_limits(work: Path, plan: Plan, minutes: dict[str, float]) -> None:
    """Note the limit of each kind of job that was measured in `limits.json`; those of others stay."""
    path = work / "limits.json"
    found = read_json(path) if path.is_file() else {}
    for key, value in minutes.items():
        runtime = math.ceil(LIMIT_FACTOR * value + LIMIT_START)
        found[key] = {"measured": measured_with(work, plan, key), "minutes": value, "runtime": runtime}
    if minutes:
        write_json(path, found)


def measured_limits(work: Path, plan: Plan, job: Job) -> dict[str, int]:
    """`runtime` (minutes) of a job that was measured."""
    found = measured(work, plan, job)
    return {"runtime": found["runtime"]} if found else {}


def measured(work: Path, plan: Plan, job: Job) -> dict | None:
    """`minutes` and `runtime` of a job that was measured with these settings and this data set."""
    path, key = work / "limits.json", limit_key(job)
    found = read_json(path).get(key) if path.is_file() and (work / DATASET).is_file() else None
    return found if found and found["measured"] == measured_with(work, plan, key) else None


def measured_with(work: Path, plan: Plan, key: str) -> str:
    """What the time of a kind of job depends on."""
    section = plan.settings["segment"] if key == "segment" else [plan.settings["methods"], plan.methods]
    return digest(sha256(work / DATASET), section)
