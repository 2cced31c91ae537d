"""Whether each stage that cannot write says so, leaves nothing in part, and can be done later.

    python -m benchmarks.no_room --workdir work/no_room

Does the stages of `kills.yaml` one after another, each three times: with files of at most 2000 bytes, as on a full disk
or beyond a quota; on a file system that is read-only (only where root runs it); and as it is. The results are compared
with those of stages that nothing disturbed. Prints JSON; the exit status is 1 where a stage that could not write ended
with status 0 or without naming a file, left all that it was to write, or where a result differs.
"""

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.kills import hashes
from benchmarks.machine import ROOT, describe
from lldm3d.files import write_yaml
from lldm3d.pipeline.plan import Plan
from lldm3d.pipeline.run import planned
from lldm3d.pipeline.stages import Job, all_jobs

ROOM = 2000  # bytes of a file
READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'  # in a namespace of its own


def little_room() -> None:
    """Limit the size of files of the process that is about to start: what goes beyond is an error of writing."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, ROOM))


def do(work: Path, job: Job, before: Sequence[str] = (), **limits: object) -> subprocess.CompletedProcess:
    """Run a stage by hand, by the command `before` if there is one."""
    command = [*before, sys.executable, "-m", "lldm3d", "stage", "--workdir", str(work), job.name]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "tools"), "HOME": "/nonexistent"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd="/", **limits)


def tried(work: Path, job: Job, kind: str, **limits) -> dict:
    """What a stage that cannot write said, and what it left."""
    done = do(work, job, **limits)
    last = (done.stderr.strip().splitlines() or [""])[-1].replace(str(work), "W")
    return {
        "stage": job.name,
        "kind": kind,
        "status": done.returncode,
        "names_a_file": bool(re.search(r"W/\S+", last)),
        "traceback": "Traceback" in done.stderr,
        "taken_for_done": all((work / name).exists() for name in job.writes),
        "said": last[-300:],
    }


def begun(work: Path) -> list[Job]:
    """A new work directory with the settings alone; its jobs."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    content = planned(work, str(Path(__file__).with_name("kills.yaml")), None)
    write_yaml(work / "run.yaml", content)
    return all_jobs(Plan.of(content))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, type=Path)
    work = parser.parse_args().workdir.resolve() / "run"  # one name for both, as a path may stand in a result
    for job in begun(work):
        do(work, job).check_returncode()
    expected, found = hashes(work), []
    for job in begun(work):
        found.append(tried(work, job, "no room", preexec_fn=little_room))
        if os.geteuid() == 0:
            before = ["unshare", "--mount", "sh", "-c", READ_ONLY, str(work)]
            found.append(tried(work, job, "read-only", before=before))
        do(work, job).check_returncode()
    results = hashes(work)
    different = sorted(name for name in expected | results if expected.get(name) != results.get(name))
    wrong = [
        item
        for item in found
        if not item["status"] or not item["names_a_file"] or item["traceback"] or item["taken_for_done"]
    ]
    summary = {"tries": len(found), "wrong": len(wrong), "files": len(expected), "different": different}
    print(json.dumps({**summary, "each": found, "machine": describe()}, indent=1))
    sys.exit(bool(wrong or different))


if __name__ == "__main__":
    main()
