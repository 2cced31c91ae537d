"""Work on many cases at once, and the device and place of each process that torchrun started."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import timedelta
from multiprocessing import active_children, get_context
from typing import TYPE_CHECKING

from threadpoolctl import threadpool_limits
from tqdm import tqdm

from lldm3d.children import tied_to_me
from lldm3d.errors import UserError

if TYPE_CHECKING:  # its import takes seconds, and who lists stages needs none
    import torch


def usable_cores() -> int:
    """The cores that this process may use: in a container or a cluster's job fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def in_processes(function: Callable, items: Sequence, description: str) -> Iterator:
    """What `function` returns for each item, in order, by as many processes as there are cores; with a progress bar.

    An error in a process is raised here as it is, and what has not begun is dropped; when this process is ended, so is
    what has begun. Raises UserError where the system ends a process.
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
        except (KeyboardInterrupt, SystemExit):  # their items, or imports, may take a minute
            for process in active_children():
                process.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _begin(tie: Callable[[], None]) -> None:
    """One thread for each process, which ends with its parent; Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # first: the limits take long enough to be interrupted in them
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the pool takes a SystemExit for an item's error, and waits for more
    tie()
    import torch

    torch.set_num_threads(1)
    threadpool_limits(1)  # numpy's


PATIENCE = timedelta(days=1)  # of the processes that are done first


def device() -> "torch.device":
    """The GPU of this process, or the CPU."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


def place() -> tuple[int, int]:
    """The number of this process, and of all processes."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def wait_for_all() -> None:
    """Return when all processes have come here."""
    if place()[1] > 1:
        import torch.distributed as dist

        dist.init_process_group("gloo", timeout=PATIENCE)
        dist.barrier()
        dist.destroy_process_group()
