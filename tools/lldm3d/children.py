"""Child processes: their output reaches the terminal and a log, and none outlives its parent, however that ends."""

import ctypes
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from select import select

from lldm3d.errors import ChildError, UserError, unwritable

PR_SET_PDEATHSIG = 1  # linux/prctl.h
# what the system says, and torch of any file that takes no more
NO_ROOM = re.compile("No space left on|Disk quota|File too large|Read-only file|Permission denied|failed writing file")
USER_ERROR = re.compile(r"^lldm3d\.errors\.UserError: (.*)", re.MULTILINE)
TRACEBACK, PATIENCE = b"Traceback (most recent call last):", 10.0  # seconds
# Blocks under 32 MiB are kept when freed, up to 1 GiB in all. By default glibc gives them back to the system in each
# training step and takes them again page by page: a fifth of the time of a small network on a CPU
# (docs/reference/training.md).
KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**30)}


def end_with_parent(number: int, parent: int) -> None:
    """Have the kernel send the signal `number` to this process when its parent dies (on Linux).

    End at once where the process `parent`, which has started this one, has died by now.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def tied_to_me(number: int) -> Callable[[], None]:
    """A `preexec_fn` that ties the child to this process, also when this one dies before the child is ready.

    A child that is to be interrupted heeds it even where this process was started in the background to ignore it.
    """
    parent = os.getpid()

    def tie() -> None:
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        end_with_parent(number, parent)

    return tie


def source_environment() -> dict[str, str]:
    """This environment, with the package's folder on PYTHONPATH: it may be a relative path there, or not installed.

    A notebook's MPLBACKEND is for its own process; here figures are files.
    """
    source = str(Path(__file__).resolve().parents[1])
    return {
        **os.environ,
        "MPLBACKEND": "agg",
        "PYTHONPATH": os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")])),
    }


def run_logged(command: list[str], cwd: Path, log: Path, environment: dict[str, str]) -> None:
    """Run `command` in the folder `cwd`; its output goes to the terminal as it comes, and line by line to `log`.

    Raises:
        UserError: what the command raised, or where a file cannot be written.
        ChildError: with the log's path and the reason when it fails otherwise.
        SystemExit: when it was ended by SIGTERM: the cluster, or whoever did that, means this process as well.
    """
    shown = f"$ cd {quoted(str(cwd))} && {' '.join(map(quoted, command))}"
    print(shown, flush=True)
    environment = {**KEPT_MEMORY, **source_environment(), **environment, "PYTHONUNBUFFERED": "1"}
    try:
        with open(log, "ab") as file:
            file.write(f"{shown}\n".encode())
            file.flush()
            child = subprocess.Popen(
                command,
                cwd=cwd,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                preexec_fn=tied_to_me(signal.SIGTERM),
            )
            try:
                tee(child.stdout.fileno(), file)
                status = child.wait()
            finally:
                stop(child)
    except BrokenPipeError:  # of the terminal
        raise
    except OSError as error:  # of a write there is no name of a file
        raise unwritable(error.filename or log, error) from None
    if status == -signal.SIGTERM:
        sys.exit(f"{log}: the command in it was ended from outside (SIGTERM)")
    if status:
        cause = reason(log)
        if mistakes := USER_ERROR.findall(cause):
            raise UserError(mistakes[-1])
        kind = UserError if NO_ROOM.search(cause) else ChildError
        raise kind(f"{log}: the command in it failed with status {status}:\n{cause}")


def quoted(word: str | Path) -> str:
    """`word` for a shell, in double quotes where that reads better: MONAI's lists of files hold single ones."""
    word = str(word)
    return f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word)


def tee(source: int, log) -> None:
    """Copy the file descriptor `source` to the terminal, and to `log` by lines without what was drawn over.

    The terminal has all at once, but for a traceback: that is held back for `PATIENCE`. Of a user's mistake, which ends
    the command, the log alone has it, as the message follows as one line.
    """
    line, held, until = b"", b"", 0.0
    while True:
        if held and not says_more(source, until):
            to_terminal(held)
            held = b""
        if not (chunk := os.read(source, 65536)):
            break
        before, mark, after = (b"", b"", chunk) if held else chunk.partition(TRACEBACK)
        to_terminal(before)
        if mark:
            until = time.monotonic() + PATIENCE
        held += mark + after
        *whole, line = (line + chunk).split(b"\n")
        log.writelines(redrawn(text) + b"\n" for text in whole)
        log.flush()
        line = redrawn(line)
    log.write(line)
    if not USER_ERROR.search(held.decode(errors="replace")):
        to_terminal(held)


def says_more(source: int, until: float) -> bool:
    """Whether there is more to read, or the end, before the time `until` of the monotonic clock."""
    left = until - time.monotonic()
    return left > 0 and bool(select([source], [], [], left)[0])


def to_terminal(output: bytes) -> None:
    """Write to the terminal."""
    sys.stdout.buffer.write(output)
    sys.stdout.buffer.flush()


def redrawn(line: bytes) -> bytes:
    """What a terminal shows of a line that a progress bar draws again and again (each time after a carriage return)."""
    return line.rstrip(b"\r").rsplit(b"\r", 1)[-1]


def stop(child: subprocess.Popen, patience: float = 10) -> None:
    """End a child that still runs: SIGTERM, and SIGKILL after `patience` seconds."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(patience)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def reason(log: Path) -> str:
    """The exceptions of the last traceback in a log, cause first; without one, the last lines."""
    text = log.read_text(errors="replace").rpartition("\n$ cd ")[2]
    return "\n".join(re.findall(r"^[\w.]+(?:Error|Exception)\b.*", text, re.MULTILINE)) or tail(log)


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log file."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def raise_on_sigterm() -> None:
    """Turn SIGTERM into SystemExit, so that `finally` blocks run and the child is stopped before this process ends."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
