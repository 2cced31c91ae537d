"""Whether a run that is killed at random moments goes on to the same files, and leaves no process behind.

    python -m benchmarks.kills --workdir work/kills --kills 60

Runs all stages of `kills.yaml` once without a kill. Then it starts the run again in the same empty folder and kills it
after a random time, with a random signal to one of three: the run, one of its stages, or the whole process group. It
starts what was killed again, and kills that, until a run ends by itself; what that left is compared with the first. So
it goes on until there were so many kills. Prints JSON; the exit status is 1 where a file differs or a process is left.
Further arguments are those of `lldm3d run`.
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

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TARGETS = ("run", "stage", "group")
MARK = "LLDM3D_KILLS"  # a variable by which all processes of a run are found, whoever their parent is
EARLY = 0.15  # share of the kills whose time counts from the run's start, not from its first stage
PATIENCE = 60  # seconds for all processes to end
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, type=Path)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--longest", type=float, default=30, help="seconds from its first stage to a kill, at most")
    parser.add_argument("--seed", type=int, default=0)
    options, further = parser.parse_known_args()
    draw, mark = random.Random(options.seed), uuid.uuid4().hex
    work = options.workdir.resolve() / "run"
    work.parent.mkdir(parents=True, exist_ok=True)
    arguments = ["--profile", str(Path(__file__).with_suffix(".yaml")), *further]

    def begin() -> None:
        shutil.rmtree(work, ignore_errors=True)  # one name for all, as a path may stand in a result

    begin()
    began = time.monotonic()
    if status := start(work, arguments, mark).wait():
        sys.exit(f"{work.with_name('log.txt')}: the run without a kill ended with status {status}")
    expected, seconds = hashes(work), time.monotonic() - began
    kills, runs = [], []
    begin()
    first = 0
    while len(kills) < options.kills or len(kills) > first:
        run, moment = start(work, arguments, mark), draw.uniform(0, options.longest)
        if draw.random() > EARLY:
            await_stage(run, mark)
        try:
            status = run.wait(moment if len(kills) < options.kills else None)
        except subprocess.TimeoutExpired:
            kills.append({"after": moment, **kill(run, mark, draw)})
            continue
        found = hashes(work)
        names = sorted(name for name in expected | found if expected.get(name) != found.get(name))
        runs.append({"kills": len(kills) - first, "status": status, "different": names})
        first = len(kills)
        if status:
            break
        begin()
    counts = Counter(f"{item['signal']} to {item['target']}" for item in kills)
    content = {
        "seconds": seconds,
        "files": len(expected),
        "kills": len(kills),
        "runs": len(runs),
        "orphans": sum(item["orphans"] for item in kills),
        "different": sorted({name for item in runs for name in item["different"]}),
        "counts": dict(sorted(counts.items())),
        "stages": dict(Counter(item["stage"] or "between stages" for item in kills)),
        "each_run": runs,
        "each_kill": kills,
        "machine": describe(),
    }
    print(json.dumps(content, indent=1))
    sys.exit(bool(content["orphans"] or content["different"] or any(item["status"] for item in runs)))


if __name__ == "__main__":
    main()
