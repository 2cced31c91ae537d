"""Work on many cases at once, child processes that end with their parent, and the device of each process."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import timedelta
from multiprocessing import get_context

import torch
import torch.distributed as dist
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from lldm3d.errors import UserError


def usable_cores() -> int:
    """The cores that this process may use: in a container or a cluster's job fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def in_processes(function: Callable, items: Sequence, description: str) -> Iterator:
    """What `function` returns for each item, in order, by as many processes as there are cores; with a progress bar.

    An error in a process is raised here as it is, and what has not begun is dropped. Raises UserError where the system
    ends a process.
    """
    processes = max(1, min(usable_cores(), len(items)))  # in one process too: more threads would round otherwise
    # forked, as an import of torch in each would take longer than many data sets
    with ProcessPoolExecutor(processes, get_context("fork"), _begin, (tied_to_me(signal.SIGTERM),)) as pool:
        try:
            yield from tqdm(pool.map(function, items), desc=description, total=len(items), mininterval=1)
        except BrokenProcessPool:
            raise UserError(
                f"{description}: the system ended one of {processes} processes, most likely for want of memory; "
                f"let fewer work at once: `taskset -c 0 lldm3d ...` for one, `taskset -c 0-3` for four"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _begin(tie: Callable[[], None]) -> None:
    """One thread for each process, which ends with its parent; Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # first: the limits take long enough to be interrupted in them
    tie()
    torch.set_num_threads(1)
    threadpool_limits(1)  # numpy's


PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent(number: int = signal.SIGTERM) -> None:
    """Have the kernel send the signal `number` to this process when its parent dies (on Linux; nothing elsewhere)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def tied_to_me(number: int) -> Callable[[], None]:
    """A `preexec_fn` that ties the child to this process, also when this one dies before the child is ready.

    A child that is to be interrupted heeds it even where this process was started in the background to ignore it.
    """
    parent = os.getpid()

    def tie() -> None:
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        end_with_parent(number)
        if os.getppid() != parent:
            os._exit(1)

    return tie


PATIENCE = timedelta(days=1)  # of the processes that are done first


def device() -> torch.device:
    """The GPU of this process, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


def place() -> tuple[int, int]:
    """The number of this process, and of all processes."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def wait_for_all() -> None:
    """Return when all processes have come here."""
    if place()[1] > 1:
        dist.init_process_group("gloo", timeout=PATIENCE)
        dist.barrier()
        dist.destroy_process_group()
