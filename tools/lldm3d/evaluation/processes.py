"""Several processes of one evaluation, as torchrun starts them."""

import os
from datetime import timedelta

import torch
import torch.distributed as dist

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
