"""The full state of a training: the order of its cases, the average of its weights, what a resume needs."""

import random
import time
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from monai.transforms import Randomizable
from torch import nn
from torch.utils.data import Sampler

from lldm3d.errors import UserError
from lldm3d.files import load_checkpoint, save_checkpoint, write_json
from lldm3d.training import PROGRESS


class EpochSampler(Sampler[int]):
    """Draws `num_samples` case indices an epoch, in an order that follows from (seed, epoch) alone.

    Stock `RandomSampler` takes its order from the global generator, so a resumed run draws another one, and is not
    split over ranks; `DistributedSampler` is, but its epoch has the length of the data set, and regimes of different
    sizes would train for different numbers of steps.

    Args:
        num_cases: number of cases in the data set.
        num_samples: cases drawn by this rank in one epoch (iterations × batch size).
        seed: seed of the order, the same on every rank.
        labelled: whether each case has a label. Where fewer than half have one, every second case drawn has: half of
            each batch, however many scans without a label there are.
    """

    def __init__(self, num_cases: int, num_samples: int, seed: int = 0, labelled: Sequence[bool] | None = None) -> None:
        if num_cases < 1:
            raise ValueError(f"num_cases must be at least 1, got {num_cases}: the training split is empty")
        self.num_cases, self.num_samples, self.seed = num_cases, num_samples, seed
        known = torch.ones(num_cases, dtype=torch.bool) if labelled is None else torch.as_tensor(labelled)
        scarce = 0 < known.sum() < num_cases / 2
        self.groups = [known.nonzero()[:, 0], (~known).nonzero()[:, 0]] if scarce else [torch.arange(num_cases)]
        self.epoch = 1
        distributed = dist.is_available() and dist.is_initialized()
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if distributed else (0, 1)

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        orders = [self.shuffled(group, generator) for group in self.groups]  # taken in turn
        return iter(torch.stack(orders, dim=1).flatten()[: self.num_samples].tolist())

    def shuffled(self, cases: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """This rank's share of some cases [N], in an order in which each comes again only after all others."""
        total = -(-self.num_samples // len(self.groups)) * self.world
        rounds = -(-total // len(cases))
        order = torch.cat([torch.randperm(len(cases), generator=generator) for _ in range(rounds)])[:total]
        return cases[order[self.rank :: self.world]]


FIRST = 0.2  # momentum of the first step


class MovingAverage:
    """The exponential moving average of a network's weights, moved after each step of its optimizer.

    The first step copies the weights; then the momentum falls from 0.2 to `momentum` over the warm-up, so that the
    average forgets the start. Ignite's `EMAHandler` begins that warm-up anew in a resumed training, counts mini-batches
    where gradients are accumulated, and takes two kernels for each tensor; torch's `AveragedModel` hands the count to
    its average as a tensor, for which the processor would wait in every step. Buffers, such as the singular vectors of
    spectral norms, are copied.

    Args:
        network: on its device, and not wrapped by DistributedDataParallel.
        optimizer: of the network.
        momentum: share of the new weights in each step.
        warmup_steps: optimizer steps.
    """

    def __init__(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, momentum: float, warmup_steps: int
    ) -> None:
        self.network, self.momentum, self.warmup_steps = network, momentum, warmup_steps
        self.model = deepcopy(network).requires_grad_(False).eval()
        self.steps = 0
        optimizer.register_step_post_hook(self.update)

    def update(self, *_: object) -> None:
        done = self.steps / max(1, self.warmup_steps)
        momentum = max(self.momentum, FIRST + (self.momentum - FIRST) * done) if self.steps else 1.0
        current = [weight.detach() for weight in self.network.parameters()]
        torch._foreach_lerp_(list(self.model.parameters()), current, momentum)
        for ours, theirs in zip(self.model.buffers(), self.network.buffers(), strict=True):
            ours.copy_(theirs)
        self.steps += 1

    def state_dict(self) -> dict:
        return {"steps": self.steps, "model": self.model.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.steps = state["steps"]
        self.model.load_state_dict(state["model"])


@dataclass(eq=False)
class TrainingState:
    """Handler that saves everything at the end of each epoch and, at the start, goes on from what it finds.

    Stock `CheckpointSaver` and `CheckpointLoader` keep weights and optimizers, but neither the random numbers nor the
    order of the data. Here both follow from (seed, iteration): before each batch, and each step, every generator is
    seeded anew. On a CPU without loader workers a resumed training therefore ends with the weights of one that was
    never killed; one that stopped early does not go on.
    Attach it last, so that what other handlers do at the end of an epoch is in the state.

    Raises:
        UserError: when the state was made by another configuration (its tensors do not fit).
        FloatingPointError: when an epoch ends with weights that are no numbers. (Ignite's `TerminateOnNan` would end
            the training as if it were done.)
    """

    path: str  # the state file
    objects: dict[str, Any]  # name to object with `state_dict` and `load_state_dict`
    sampler: EpochSampler  # of the training, which is given the epoch
    seed: int = 0  # of the training

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.load)
        engine.add_event_handler(Events.EPOCH_STARTED, self.start_epoch)
        engine.add_event_handler(Events.GET_BATCH_STARTED, self.seed_batch)
        engine.add_event_handler(Events.ITERATION_STARTED, self.seed_step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)

    def load(self, engine: Engine) -> None:
        self.first, self.began = 0, time.monotonic()
        if not Path(self.path).is_file():
            return
        state = load_checkpoint(self.path, made_by="this training")
        try:
            for name, item in self.objects.items():
                item.load_state_dict(state[name])
        except (KeyError, ValueError, RuntimeError) as error:
            raise UserError(
                f"{self.path}: was made by another configuration ({error}); "
                "delete it to start this training anew, or restore the configuration"
            ) from None
        engine.state.epoch = self.first = state["epoch"]
        engine.state.iteration = state["iteration"]
        if state.get("stopped"):
            engine.terminate()
        engine.logger.info(f"resumed from {self.path} at epoch {state['epoch']}")

    def start_epoch(self, engine: Engine) -> None:
        self.sampler.epoch = engine.state.epoch

    def seed_batch(self, engine: Engine) -> None:
        """For what transforms draw."""
        seed = self.seed_step(engine)
        transform = getattr(engine.state.dataloader.dataset, "transform", None)
        if isinstance(transform, Randomizable):
            transform.set_random_state(seed)

    def seed_step(self, engine: Engine) -> int:
        """For what the step draws."""
        seed = (self.seed * 1_000_003 + engine.state.iteration * self.sampler.world + self.sampler.rank) % 2**32
        # not torch.manual_seed: without a GPU that keeps three stack traces each time, for a GPU that never comes
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(seed)
        np.random.seed(seed)
        random.seed(seed)
        return seed

    def save(self, engine: Engine) -> None:
        if self.sampler.rank > 0:
            return
        state = {name: item.state_dict() for name, item in self.objects.items()}
        if not all(value.isfinite().all() for value in state["network"].values()):
            raise FloatingPointError(
                f"epoch {engine.state.epoch} ends with weights that are no numbers; {self.path} holds the epoch "
                "before. Lower learning_rate, or set autocast: false"
            )
        state |= {"epoch": engine.state.epoch, "iteration": engine.state.iteration}
        save_checkpoint(self.path, {**state, "stopped": bool(engine.should_terminate)})
        done, epochs = engine.state.epoch, engine.state.max_epochs
        pace = (time.monotonic() - self.began) / (done - self.first)
        left = 0 if engine.should_terminate else pace * (epochs - done)
        write_json(Path(self.path).with_name(PROGRESS), {"epoch": done, "epochs": epochs, "seconds_left": left})
