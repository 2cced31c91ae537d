"""Time and memory of a command."""

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
    """Run a command: its status, seconds, and peak memory in GiB, the sum over all its processes every second."""
    started, peak = time.time(), 0
    child = subprocess.Popen(command, **keywords)

    def watch() -> None:
        nonlocal peak
        process = psutil.Process(child.pid)
        while child.poll() is None:
            peak = max(peak, memory(process))
            time.sleep(1)

    threading.Thread(target=watch, daemon=True).start()
    status = child.wait()
    return {"status": status, "seconds": round(time.time() - started, 1), "peak_memory_gib": round(peak / 2**30, 2)}
