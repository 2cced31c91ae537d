"""Time and memory of a command."""

import resource
import subprocess
import threading
import time

import psutil


def memory(process: psutil.Process) -> int:
    """Bytes that the process and its children hold, shared pages counted once."""
    total = 0
    for item in [process, *process.children(recursive=True)]:
        try:
            total += item.memory_full_info().pss
        except psutil.Error:  # ended in the meantime
            continue
    return total


def watched(command: list[str], **keywords) -> dict:
    """Run a command: its status, seconds, seconds of processors, and peak memory in GiB.

    Seconds of processors hardly change when other work is beside it. Memory is the sum over all its processes, taken
    every second.
    """
    started, peak, before = time.time(), 0, processor_seconds()
    child = subprocess.Popen(command, **keywords)

    def watch() -> None:
        nonlocal peak
        process = psutil.Process(child.pid)
        while child.poll() is None:
            peak = max(peak, memory(process))
            time.sleep(1)

    threading.Thread(target=watch, daemon=True).start()
    status = child.wait()
    return {
        "status": status,
        "seconds": round(time.time() - started, 1),
        "processor_seconds": round(processor_seconds() - before, 1),
        "peak_memory_gib": round(peak / 2**30, 2),
    }


def processor_seconds() -> float:
    """What all ended children have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
