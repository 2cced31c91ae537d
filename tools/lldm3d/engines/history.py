"""The curve of losses and validation figures."""

import math
from pathlib import Path
from time import perf_counter

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.utils import CommonKeys

from lldm3d.errors import UserError
from lldm3d.files import write_json

LOOK = 10  # iterations between looks at the loss, each of which waits for the GPU


class History:
    """Handler that keeps the mean training loss of each epoch (over all processes), the seconds by its end, and each
    validation's figures.

    It goes on after a resume. `attach` goes to the trainer; the evaluator, if there is one, to the constructor.

    Args:
        evaluator: the validation engine, whose `state.metrics` are kept.

    Raises:
        UserError: soon after a loss is no number.
    """

    def __init__(self, evaluator: Engine | None = None) -> None:
        self.curves: dict[str, list[float]] = {"epoch": [], "loss": [], "seconds": []}
        self.sum: torch.Tensor | float = 0.0
        self.count = 0
        self.evaluator = evaluator

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.close_epoch)
        if self.evaluator is not None:
            self.evaluator.add_event_handler(Events.COMPLETED, self.validated)

    def start(self, engine: Engine) -> None:
        self.begin = perf_counter()

    def add(self, engine: Engine) -> None:
        output = engine.state.output
        loss = (output[0] if isinstance(output, list) else output)[CommonKeys.LOSS]
        self.sum = self.sum + loss.detach().double()  # on its device
        self.count += 1
        if engine.state.iteration % LOOK == 0:
            self.mean(engine)

    def mean(self, engine: Engine) -> float:
        """The mean loss of the epoch so far."""
        mean = float(self.sum) / max(self.count, 1)
        if not math.isfinite(mean):
            raise UserError(
                f"the loss became {mean} by iteration {engine.state.iteration}; lower learning_rate, or set autocast: "
                "false (torch's bfloat16 convolutions on a CPU give NaN gradients on latents of 2 voxels)"
            )
        return mean

    def close_epoch(self, engine: Engine) -> None:
        self.curves["epoch"].append(engine.state.epoch)
        self.curves["loss"].append(idist.all_reduce(self.mean(engine)) / idist.get_world_size())
        self.sum, self.count = 0.0, 0
        before = self.curves["seconds"][-1] if self.curves["seconds"] else 0.0
        now = perf_counter()
        self.curves["seconds"].append(before + now - self.begin)
        self.begin = now

    def validated(self, evaluator: Engine) -> None:
        for name, value in evaluator.state.metrics.items():
            self.curves.setdefault(name, []).append(float(value))

    def state_dict(self) -> dict:
        return {name: list(values) for name, values in self.curves.items()}

    def load_state_dict(self, state: dict) -> None:
        self.curves = {name: list(values) for name, values in state.items()}

    def write(self, path: str | Path, **further: object) -> None:
        """Write the curves, and `further` entries, as JSON."""
        write_json(path, {**further, **self.curves})
