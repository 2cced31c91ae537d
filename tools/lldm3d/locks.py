"""Locks that the death of their holder releases, so that no stale lock is ever left behind.

`filelock` 3 takes the same flock, but keeps no word of who holds it, and where a file system has none it goes on with a
lock that a dead process leaves behind. To add the one and prevent the other takes more lines than the lock itself.
"""

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TextIO

from lldm3d.errors import UserError, unwritable

LOCKS = ".locks"  # folder of a work directory
RUN_LOCK = f"{LOCKS}/run.lock"


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path` for the block, against processes of other machines too where the file system is shared.

    Raises UserError that names the process which holds it, or when the file system has no locks.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path.parent, error) from None
    with open(path, "a+") as file:
        try:
            lock(file)
        except BlockingIOError:
            file.seek(0)
            raise in_use(path, what, file.read().strip() or "unknown") from None
        except OSError as error:
            raise UserError(
                f"{path}: this file system gives no locks ({error.strerror}); mount it with them (Lustre: -o flock, "
                "NFS: with lockd), or choose a --workdir elsewhere"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def in_use(path: Path, what: str, by: str) -> UserError:
    """What is said of a lock file that the process `by` holds."""
    return UserError(f"{path}: {what} is in use by process {by}; wait until it ends, or stop it")


def lock(file: TextIO) -> None:
    """Lock an open file for this process. Raises BlockingIOError where another one holds it, after a second try:
    `holder` looks for a moment."""
    for patience in (0.1, 0):
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not patience:
                raise
            time.sleep(patience)


def holder(path: Path) -> str | None:
    """Who holds a lock file now, as "<process> on <machine>"; None: nobody. Only reads."""
    try:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # until it is closed
    except BlockingIOError:
        return path.read_text().strip() or "unknown"
    except OSError:  # no such file, or no locks
        pass
    return None


def stage_lock(work: Path, stage: str) -> Path:
    """The lock file of a stage of a work directory."""
    return work / LOCKS / f"{stage}.lock"


@contextmanager
def free_gpus(work: Path, number: int = 1) -> Iterator[dict[str, str]]:
    """Hold GPUs of this machine that no other stage of the work directory uses; yield what selects them.

    Snakemake counts GPUs, but does not say which ones a job gets. With one GPU, or none, there is nothing to choose. So
    it is in a job of Slurm, which sees only what it was given. Where too few are free, all are left to the stage.
    """
    gpus, chosen = visible_gpus(), []
    with ExitStack() as held:
        for gpu in gpus if len(gpus) > 1 else []:
            if len(chosen) < number:
                with suppress(UserError):
                    held.enter_context(locked(work / LOCKS / f"gpu_{socket.gethostname()}_{gpu}.lock", f"GPU {gpu}"))
                    chosen.append(gpu)
        yield {"CUDA_VISIBLE_DEVICES": ",".join(chosen)} if len(chosen) == number else {}


def visible_gpus() -> list[str]:
    """The names that `CUDA_VISIBLE_DEVICES` would list, for each GPU that torch may use."""
    import torch  # takes seconds, and only runs of the chain need it

    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return chosen.split(",") if chosen else [str(index) for index in range(torch.cuda.device_count())]
