"""Handlers: curves of losses, what drawing takes, and one progress bar."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.utils import CommonKeys
from torch import nn
from tqdm import tqdm

from lldm3d.errors import UserError
from lldm3d.files import write_json

LOOK = 10  # iterations between looks at the loss, each of which waits for the GPU


def output_of(engine: Engine) -> dict:
    return engine.state.output[0] if isinstance(engine.state.output, list) else engine.state.output


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
        self.sum = self.sum + output_of(engine)[CommonKeys.LOSS].detach().double()  # on its device
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
        before, now = self.curves["seconds"][-1] if self.curves["seconds"] else 0.0, perf_counter()
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


STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # of Linux


class Meter:
    """Handler that writes seconds, largest memory and number of parameters of a generating engine as JSON.

    Attach it last, so that the writing of files counts. The networks are loaded before it begins to count.

    Args:
        path: the file: `volumes`, `seconds` (of all of them), `batch_size`, `memory_gb` (None where the system does not
            tell), `parameters`, `device`.
        networks: all that are needed to draw a volume.
        device: where they run. On a CPU the memory is that of the process, with its libraries.
    """

    def __init__(self, path: str | Path, networks: Sequence[nn.Module], device: torch.device | str) -> None:
        self.path, self.device = Path(path), torch.device(device)
        self.parameters = sum(weight.numel() for network in networks for weight in network.parameters())

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.count)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def start(self, engine: Engine) -> None:
        self.volumes, self.batch_size, self.begin = 0, 0, perf_counter()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif RESET.exists():
            RESET.write_text("5")  # the peak of resident memory (man 5 proc)

    def count(self, engine: Engine) -> None:
        drawn = len(engine.state.output["name"])
        self.volumes, self.batch_size = self.volumes + drawn, max(self.batch_size, drawn)

    def write(self, engine: Engine) -> None:
        memory = peak_memory(self.device)
        content = {
            "volumes": self.volumes,
            "seconds": perf_counter() - self.begin,
            "batch_size": self.batch_size,
            "memory_gb": memory / 1e9 if memory is not None else None,
            "parameters": self.parameters,
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU",
        }
        write_json(self.path, content)


def peak_memory(device: torch.device) -> int | None:
    """Bytes: the most that torch held on a GPU, or this process on a CPU; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * int(STATUS.read_text().split("VmHWM:")[1].split()[0]) if STATUS.exists() else None


@dataclass(eq=False)
class ProgressBar:
    """Handler with one bar over all iterations of all epochs; ignite's `ProgressBar` begins a new one each epoch."""

    description: str  # text before the bar
    disable: bool = False  # True on all ranks but the first
    bar: tqdm | None = None

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.update)
        engine.add_event_handler(Events.COMPLETED, self.close)

    def start(self, engine: Engine) -> None:
        if self.bar is None:
            total = engine.state.max_epochs * (engine.state.epoch_length or 0)
            options = {"disable": self.disable, "mininterval": 1, "dynamic_ncols": True}
            self.bar = tqdm(total=total or None, initial=engine.state.iteration, desc=self.description, **options)

    def update(self, engine: Engine) -> None:
        output = output_of(engine)
        if engine.state.iteration % LOOK == 0 and CommonKeys.LOSS in output:
            self.bar.set_postfix(loss=f"{output[CommonKeys.LOSS].item():.4f}", refresh=False)
        self.bar.update()

    def close(self, engine: Engine) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
