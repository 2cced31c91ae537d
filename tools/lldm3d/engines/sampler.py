"""The order in which cases are drawn."""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch.utils.data import Sampler


class EpochSampler(Sampler[int]):
    """Draws `num_samples` case indices an epoch, in an order that follows from (seed, epoch) alone.

    Stock `RandomSampler` takes its order from the global generator, so a resumed run draws another one, and is not
    split over ranks; `DistributedSampler` is, but its epoch has the length of the data set, and regimes of different
    sizes would train for different numbers of steps.

    Args:
        num_cases: number of cases in the data set.
        num_samples: cases drawn by this rank in one epoch (iterations × batch size).
        seed: seed of the order, the same on every rank.
    """

    def __init__(self, num_cases: int, num_samples: int, seed: int = 0) -> None:
        if num_cases < 1:
            raise ValueError(f"num_cases must be at least 1, got {num_cases}: the training split is empty")
        self.num_cases, self.num_samples, self.seed = num_cases, num_samples, seed
        self.epoch = 1
        distributed = dist.is_available() and dist.is_initialized()
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if distributed else (0, 1)

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        total = self.num_samples * self.world
        rounds = -(-total // self.num_cases)
        order = torch.cat([torch.randperm(self.num_cases, generator=generator) for _ in range(rounds)])[:total]
        return iter(order[self.rank :: self.world].tolist())
