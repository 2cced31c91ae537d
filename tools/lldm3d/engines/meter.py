"""What drawing volumes takes."""

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import torch
from ignite.engine import Engine, Events
from torch import nn

from lldm3d.files import write_json

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
    """Bytes: the most that torch held on a GPU, or this process on a CPU; None where that is not told."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * int(STATUS.read_text().split("VmHWM:")[1].split()[0]) if STATUS.exists() else None
