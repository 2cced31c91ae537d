"""Whether stages that are killed at random moments go on to the same files, and leave no process behind.

    python -m benchmarks.kills --workdir work/kills --each 4

Runs all stages of `kills.yaml` once without a kill. Then it takes each stage in turn: it removes what the stage left,
has it run again, and kills that at a random moment, with a random signal to one of three: the run, one of its stages,
or the whole process group; so it goes on, until the stage was killed often enough, and is left to end. Then all files
must be those of the first run. Prints JSON; the exit status is 1 where a file differs or a process is left. Further
arguments are those of `lldm3d run`.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from pathlib import Path

import psutil

from benchmarks.machine import ROOT, describe
from lldm3d.files import PARTIAL, read_yaml
from lldm3d.pipeline.plan import Plan
from lldm3d.pipeline.stages import Job, all_jobs

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TARGETS = ("run", "stage", "group")
MARK = "LLDM3D_KILLS"  # a variable by which all processes of a run are found, whoever their parent is
EARLY = 0.15  # share of the kills whose time counts from the run's start, not from its stage's
PATIENCE = 240  # seconds, on busy cores, for all processes to end
# what must be the same; not logs, times, curves with seconds, and what holds them
RESULTS = ("data/*", "dataset/*", "methods/**/*.pt", "pairs/**/*.nii.gz", "segment/**/metrics.csv", "study/*.csv")
RESULTS += ("segment/**/*_pred.nii.gz", "evaluation/**/metrics.csv", "evaluation/**/label_statistics.csv")


def hashes(work: Path) -> dict[str, str]:
    """The SHA-256 of all results by their names."""
    files = {path for pattern in RESULTS for path in work.glob(f"{pattern}") if path.is_file()}
    files |= {path for kind in ("data", "dataset") for path in (work / kind).rglob("*.nii.gz")}
    kept = (path for path in sorted(files) if path.name not in ("state.pt", "state.old.pt"))
    return {path.relative_to(work).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


def start(work: Path, arguments: list[str], mark: str) -> subprocess.Popen:
    """Start the run in a process group of its own."""
    command = [sys.executable, "-m", "lldm3d", "run", "--workdir", str(work), "--cores", "1", *arguments]
    environment = {**os.environ, MARK: mark, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "tools")}
    with open(work.with_name("log.txt"), "ab") as log:
        keywords = {"stdout": log, "stderr": log, "env": environment, "start_new_session": True}
        return subprocess.Popen(command, preexec_fn=heed_interrupts, **keywords)


def heed_interrupts() -> None:
    """What a shell starts in the background ignores interrupts, and so would all that it starts itself."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def processes(mark: str) -> list[psutil.Process]:
    """All processes of the runs with this mark, the youngest first."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:  # it has ended, or is another user's
            continue
    return sorted(found, key=lambda process: -process.create_time())


def is_stage(process: psutil.Process) -> bool:
    """Whether it is `lldm3d stage`, or the bundle that one trains."""
    try:
        words = process.cmdline()
    except psutil.Error:
        return False
    return "stage" in words or "monai.bundle" in words


def await_stage(run: subprocess.Popen, mark: str) -> None:
    """Return when a stage has begun, or the run has ended."""
    while run.poll() is None and not any(map(is_stage, processes(mark))):
        time.sleep(0.2)


def kill(run: subprocess.Popen, mark: str, draw: random.Random) -> dict:
    """Send a random signal to a random target; what it was, how long all processes took to end, and who did not."""
    number, target = draw.choice(SIGNALS), draw.choice(TARGETS)
    stages = [process for process in processes(mark) if is_stage(process)]
    named = next((process.cmdline()[-1] for process in reversed(stages) if "stage" in process.cmdline()), None)
    began = time.monotonic()
    try:
        if target == "group":
            os.killpg(run.pid, number)
        elif target == "stage" and stages:
            draw.choice(stages).send_signal(number)
        else:
            target = "run"
            run.send_signal(number)
    except (psutil.Error, ProcessLookupError):  # it has ended just now
        target = "none"
    while time.monotonic() < began + PATIENCE and (run.poll() is None or processes(mark)):
        time.sleep(0.2)
    found = {"signal": number.name, "target": target, "stage": named, "seconds_to_end": time.monotonic() - began}
    orphans = processes(mark)
    for process in orphans:
        process.kill()
    run.kill()
    return {**found, "status": run.wait(), "orphans": len(orphans)}


def forget(work: Path, job: Job) -> None:
    """Remove what a job left, and the note that it is done."""
    (work / ".done" / f"{job.name}.json").unlink(missing_ok=True)
    shutil.rmtree(work / job.name, ignore_errors=True)
    for name in job.writes:
        (work / name).unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, type=Path)
    parser.add_argument("--each", type=int, default=4, help="kills of each stage, at most")
    parser.add_argument("--longest", type=float, default=30, help="seconds from a stage's begin to a kill, at most")
    parser.add_argument("--seed", type=int, default=0)
    options, further = parser.parse_known_args()
    draw, mark = random.Random(options.seed), uuid.uuid4().hex
    work = options.workdir.resolve() / "run"
    work.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(work, ignore_errors=True)
    began = time.monotonic()
    if status := start(work, ["--profile", str(Path(__file__).with_suffix(".yaml")), *further], mark).wait():
        sys.exit(f"{work.with_name('log.txt')}: the run without a kill ended with status {status}")
    expected, seconds = hashes(work), time.monotonic() - began
    kills, ends = [], []
    for job in all_jobs(Plan.of(read_yaml(work / "run.yaml", "run again"))):
        forget(work, job)
        for _ in range(options.each):
            run, moment = start(work, ["--until", job.name, *further], mark), draw.uniform(0, options.longest)
            if draw.random() > EARLY:
                await_stage(run, mark)
            try:
                run.wait(moment)
                break
            except subprocess.TimeoutExpired:
                kills.append({"after": moment, **kill(run, mark, draw)})
        status = start(work, ["--until", job.name, *further], mark).wait()
        found, half = hashes(work), [path.relative_to(work).as_posix() for path in work.rglob(f"{PARTIAL}*")]
        names = sorted(name for name in expected | found if expected.get(name) != found.get(name))
        ends.append({"stage": job.name, "status": status, "different": names, "half_written": half})
    counts = Counter(f"{item['signal']} to {item['target']}" for item in kills)
    content = {
        "seconds": seconds,
        "files": len(expected),
        "kills": len(kills),
        "orphans": sum(item["orphans"] for item in kills),
        "different": sorted({name for item in ends for name in item["different"]}),
        "counts": dict(sorted(counts.items())),
        "stages": dict(Counter(item["stage"] or "between stages" for item in kills)),
        "each_stage": ends,
        "each_kill": kills,
        "machine": describe(),
    }
    print(json.dumps(content, indent=1))
    sys.exit(bool(content["orphans"] or content["different"] or any(item["status"] for item in ends)))


if __name__ == "__main__":
    main()
