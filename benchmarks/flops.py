"""Floating-point operations of a call, and what the machine reaches at best."""

import time
from collections.abc import Callable
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode

from lldm3d.pipeline.cost import wait_for_gpu
from lldm3d.training.inferers import has_bfloat16

SIZES = {"cuda": 8192, "cpu": 1024}  # of the square matrices


def count(call: Callable[[], object]) -> int:
    """Operations of one call (a multiplication and an addition are two), as torch's counter knows them.

    It counts matrix products, convolutions and attention, forward and backward; the rest is small beside them.
    """
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def autocast_dtype(device: str) -> torch.dtype:
    """What our trainings and samplers compute in."""
    return torch.bfloat16 if has_bfloat16(device) else torch.float32


def ceiling(dtype: torch.dtype | None = None, device: str | None = None, rounds: int = 5) -> float:
    """Operations per second of a product of two square matrices of `dtype` (ours), the median of some rounds."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype or autocast_dtype(device)
    size = SIZES[device]
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / median(seconds(lambda: a @ b, device) for _ in range(rounds))


def seconds(call: Callable[[], object], device: str, calls: int = 10) -> float:
    """Of one call, the mean of some after a first; on a CPU of the process, which other work hardly changes."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    call()
    wait_for_gpu()
    started = clock()
    for _ in range(calls):
        call()
    wait_for_gpu()
    return (clock() - started) / calls
