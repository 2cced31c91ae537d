"""Locks that the death of their holder releases, so that no stale lock is ever left behind."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from lldm3d.errors import UserError


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path` for the block. Raises UserError that names the process which holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise UserError(f"{path}: {what} is in use by process {holder}; wait until it ends, or stop it") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextmanager
def at_work(work: Path, stage: str) -> Iterator[dict[str, str]]:
    """Hold the stage of a work directory and a GPU for it, and yield the environment that selects the GPU."""
    locks = work / ".locks"
    with locked(locks / f"{stage}.lock", f"the stage {stage}"), free_gpu(locks) as environment:
        yield environment


@contextmanager
def free_gpu(folder: Path) -> Iterator[dict[str, str]]:
    """Hold a GPU that no other stage of this work directory uses, and yield the environment that selects it.

    Snakemake counts GPUs, but does not say which one a job gets. With one GPU, or none, there is nothing to choose.
    """
    gpus = visible_gpus()
    with ExitStack() as held:
        yield choose(gpus, folder, held) if len(gpus) > 1 else {}


def choose(gpus: list[str], folder: Path, held: ExitStack) -> dict[str, str]:
    """Lock the first free GPU until `held` is closed."""
    for gpu in gpus:
        with suppress(UserError):
            held.enter_context(locked(folder / f"gpu_{gpu}.lock", f"GPU {gpu}"))
            return {"CUDA_VISIBLE_DEVICES": gpu}
    return {}


def visible_gpus() -> list[str]:
    """The names that `CUDA_VISIBLE_DEVICES` would list, for each GPU that torch may use."""
    import torch  # takes seconds, and only runs of the chain need it

    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return chosen.split(",") if chosen else [str(index) for index in range(torch.cuda.device_count())]
