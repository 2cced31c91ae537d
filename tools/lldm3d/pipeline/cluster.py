"""Stages as jobs of a cluster: what a run asks of Snakemake's Slurm plugin, and what it says of a job that was ended.

The plugin submits, watches and cancels. Without accounting its default, `sacct`, answers nothing and the run would wait
for ever; jobs of a run that died would be submitted a second time; and why a job was ended stands in its log alone.
"""

import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Collection
from pathlib import Path

from lldm3d.children import tail
from lldm3d.errors import UserError
from lldm3d.pipeline.limits import measured_limits

EXECUTORS = ("slurm",)
# how Snakemake logs a job that Slurm ended; all of its lines but the first are indented
ENDED = re.compile(
    r"^Error in rule .*\n +message: SLURM-job '(?P<job>\w+)' failed.*SLURM status is: '(?P<state>\w+)'.*\n"
    r" +jobid: (?P<id>\d+)\n(?: .*\n)*? +log: (?P<log>.+?)(?: \(check .*)?\n"
    r"(?: .*\n)*?.*lldm3d stage --workdir \. (?P<stage>\S+)",
    re.MULTILINE,
)
REFUSED = re.compile(r"SLURM sbatch failed\. The error message was '(.*?)'\.$", re.MULTILINE | re.DOTALL)
# what Slurm did, and how to mend it
MENDS = {
    "CANCELLED": "was cancelled",
    "TIMEOUT": "reached its time limit (raise cluster#{rule}#runtime in the profile, or let cluster#retries go on)",
    "OUT_OF_MEMORY": "took more memory than it had asked for (raise cluster#{rule}#mem_mb in the profile)",
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


def slurm_options(work: Path, settings: dict, rules: list[str], jobs: int) -> list[str]:
    """Snakemake's options for a run whose stages are jobs of Slurm.

    Args:
        settings: the profile, whose section `cluster` says what each job asks for; what it does not say of a stage
            itself follows from what was measured.
        rules: the rules of the run.
        jobs: largest number of jobs in the queue at once.
    """
    threads, resources = [], []
    asked, measured = settings["cluster"], measured_limits(work, settings)
    for rule in rules:
        job = {**asked["all"], **measured.get(rule, {}), **asked.get(rule, {})}
        threads.append(f"{rule}={job.pop('threads')}")
        resources += [f"{rule}:{key}={json.dumps(value)}" for key, value in job.items()]  # quoted: no expression
    options = ["--executor", "slurm", "--jobs", str(jobs), "--slurm-jobname-prefix", job_prefix(work)]
    options += ["--keep-going", "--latency-wait", "60", "--retries", str(asked["retries"])]
    if not accounting():
        options += ["--slurm-status-command", "squeue"]
    return [*options, "--set-threads", *threads, "--set-resources", *resources]


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


def ended_by_slurm(log: str, told: Collection[str]) -> dict[str, str]:
    """Stage and message for each job that Slurm ended, from the text of Snakemake's log.

    Args:
        told: stages that left a message of their own; a job that only failed has none better.
    """
    return {
        found["stage"]: ended(found)
        for found in ENDED.finditer(log)
        if (found["state"] != "FAILED" or found["stage"] not in told)
        and f"\nFinished jobid: {found['id']} " not in log[found.end() :]  # the second attempt went well
    }


def ended(found: re.Match) -> str:
    """What happened to a job, and the mend."""
    job, state = f"Slurm job {found['job']}", found["state"]
    if state == "FAILED":
        return f"{job} failed; {found['log']} ends:\n{tail(Path(found['log']))}"
    mend = MENDS.get(state, f"ended as {state}").format(rule=found["stage"].split("/")[0])
    return f"{job} {mend}; run again, and it goes on"


def refused_by_slurm(log: str) -> list[str]:
    """What Slurm said of jobs that it did not take, each message once."""
    said = dict.fromkeys(REFUSED.findall(log))
    return [f"Slurm refused a job: {text}; mend the section cluster of the profile" for text in said]
