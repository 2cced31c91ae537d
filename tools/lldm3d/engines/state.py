"""The full state of a training, so that a killed one goes on as if nothing had happened."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.transforms import Randomizable

from lldm3d.engines.sampler import EpochSampler
from lldm3d.errors import UserError
from lldm3d.files import load_checkpoint, save_checkpoint


class TrainingState:
    """Handler that saves everything at the end of each epoch and, at the start, goes on from what it finds.

    Stock `CheckpointSaver` and `CheckpointLoader` keep weights and optimizers, but neither the random numbers nor the
    order of the data. Here both follow from (seed, iteration): before each batch, and each step, every generator is
    seeded anew. On a CPU without loader workers a resumed training therefore ends with the weights of one that was
    never killed; one that stopped early does not go on.
    Attach it last, so that what other handlers do at the end of an epoch is in the state.

    Args:
        path: the state file.
        objects: name to object with `state_dict` and `load_state_dict`.
        sampler: the training sampler, which is told the epoch.
        seed: seed of the training.

    Raises:
        UserError: when the state was made by another configuration (its tensors do not fit).
        FloatingPointError: when an epoch ends with weights that are no numbers. (Ignite's `TerminateOnNan` would end
            the training as if it were done.)
    """

    def __init__(self, path: str, objects: dict[str, Any], sampler: EpochSampler, seed: int = 0) -> None:
        self.path, self.objects, self.sampler, self.seed = Path(path), objects, sampler, seed

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.load)
        engine.add_event_handler(Events.EPOCH_STARTED, self.start_epoch)
        engine.add_event_handler(Events.GET_BATCH_STARTED, self.seed_batch)
        engine.add_event_handler(Events.ITERATION_STARTED, self.seed_step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)

    def load(self, engine: Engine) -> None:
        if not self.path.is_file():
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
        engine.state.epoch = state["epoch"]
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
