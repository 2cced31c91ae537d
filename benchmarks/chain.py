"""Wall-clock time and peak memory of a whole chain, and the time of each stage.

    python -m benchmarks.chain --workdir work/demo --profile demo

Runs `lldm3d run` with the same arguments in a new work directory and prints JSON. Memory is the sum over all processes
of the run (proportional set size), sampled every second.
"""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

from benchmarks.machine import describe


def memory(process: psutil.Process) -> int:
    """Bytes that the process and its children hold, shared pages counted once."""
    total = 0
    for item in [process, *process.children(recursive=True)]:
        try:
            total += item.memory_full_info().pss
        except psutil.Error:  # ended in the meantime
            continue
    return total


def main() -> None:
    started, stages, peak = time.time(), [], 0
    command = [sys.executable, "-m", "lldm3d", "run", *sys.argv[1:]]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def watch() -> None:
        nonlocal peak
        process = psutil.Process(child.pid)
        while child.poll() is None:
            peak = max(peak, memory(process))
            time.sleep(1)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    for line in child.stdout:
        print(line, end="", file=sys.stderr)
        if line.startswith("lldm3d: stage "):
            stages.append((line.split()[2], time.time()))
    status = child.wait()
    ends = [*(start for _, start in stages[1:]), time.time()]
    result = {
        "command": "lldm3d run " + " ".join(Path(item).name if "/" in item else item for item in sys.argv[1:]),
        "status": status,
        "seconds": round(time.time() - started, 1),
        "peak_memory_gib": round(peak / 2**30, 2),
        "stage_seconds": {name: round(end - start, 1) for (name, start), end in zip(stages, ends, strict=True)},
        "machine": describe(),
    }
    print(json.dumps(result, indent=1))
    sys.exit(status)


if __name__ == "__main__":
    main()
