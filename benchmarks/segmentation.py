"""What the chain costs beside a plain loop: seconds per training step of each segmentation network.

    python -m benchmarks.segmentation --workdir work/demo --networks seg_unet,seg_resunet

`chain` is the stage's own trainer, which draws, crops and augments each batch and has its handlers; what it does once
an epoch is left out, and so is the first reading of each volume (benchmarks/data.py). `plain` is a PyTorch step with
the same network, loss, optimizer, autocast and batch, which lies ready in memory. The two take turns step by step, so
other work on the machine meets both alike; each is the median of the steps, `overhead` that of the pairs. `processor`
is in seconds of the process itself, `wall` of the clock; `workers` are processes beside the trainer that draw and crop.
The chain starts its trainings with the environment of `lldm3d.children.KEPT_MEMORY`; here both have it, or
neither, as it was when this was called. Prints JSON.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import fire
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser

from benchmarks.data import touch
from benchmarks.machine import describe
from lldm3d.bundle import TRAIN, bundle_path
from lldm3d.children import KEPT_MEMORY
from lldm3d.data.dataset import load_schema
from lldm3d.pipeline.cost import WARM_UP, wait_for_gpu
from lldm3d.pipeline.profile import SEGMENT_OVERLAY, load_profile

CLOCKS = ("processor", "wall")


def clock() -> np.ndarray:
    """Seconds by CLOCKS, after all that the GPU was given."""
    wait_for_gpu()
    return np.array([time.process_time(), time.perf_counter()])


def config(network: str, work: Path, profile: str, folder: str, workers: int, steps: int) -> ConfigParser:
    """The training of a stage of regime R, without validation."""
    schema, section = load_schema(work / "dataset"), load_profile(profile)["segment"]["overrides"]
    overrides = {"dataset_dir": str(work / "dataset"), "output_dir": folder, "class_names": list(schema.class_names)}
    overrides |= {**section, "roi_size": schema.crop(section.get("roi_size")), "cache_dir": str(work / "cache")}
    overrides |= {"num_workers": workers, "epochs": 1, "epoch_length": WARM_UP + steps, "val_interval": 2}
    parser = ConfigParser()
    parser.read_config([str(bundle_path(network) / TRAIN), SEGMENT_OVERLAY])
    parser.update(overrides)
    return parser


def plain_step(parser: ConfigParser) -> Callable[[torch.Tensor, torch.Tensor], None]:
    """A step of the config's network, loss and optimizer."""
    names = ("network", "loss", "optimizer", "train#inferer")
    network, loss, optimizer, inferer = map(parser.get_parsed_content, names)
    network.train()

    def step(image: torch.Tensor, label: torch.Tensor) -> None:
        optimizer.zero_grad()
        loss(inferer(image, network), label).backward()
        optimizer.step()

    return step


def alternate(chain: ConfigParser, plain: ConfigParser) -> np.ndarray:
    """Seconds of each step [steps, chain or plain, CLOCKS]."""
    trainer, step = chain.get_parsed_content("train#trainer"), plain_step(plain)
    touch(chain.get_parsed_content("train#dataset"))
    chain.get_parsed_content("training_state").attach(trainer)
    found, begun = [], [clock()]

    def turn(engine: Engine) -> None:
        ended = clock()
        batch = [engine.state.batch[key].to(engine.state.device) for key in ("image", "label")]
        started = clock()
        step(*batch)
        found.append([ended - begun[-1], clock() - started])
        begun.append(clock())

    trainer.add_event_handler(Events.ITERATION_COMPLETED, turn)
    trainer.run()
    return np.array(found[WARM_UP:])


def measure(network: str, workers: int, work: Path, profile: str, steps: int) -> dict:
    """The figures of one network."""
    with tempfile.TemporaryDirectory() as folder:
        times = alternate(*(config(network, work, profile, folder, workers, steps) for _ in range(2)))
    found = {}
    for place, name in enumerate(CLOCKS):
        chain, plain = times[:, 0, place], times[:, 1, place]
        found[name] = {
            "overhead": float(np.median(chain / plain) - 1),
            "median": {"chain": float(np.median(chain)), "plain": float(np.median(plain))},
            "quartiles": {"chain": quartiles(chain), "plain": quartiles(plain)},
        }
    return {"network": network, "workers": workers, **found}


def quartiles(values: np.ndarray) -> list[float]:
    return np.quantile(values, [0.25, 0.75]).tolist()


def main(
    workdir: str, networks: str = "seg_unet", profile: str = "small", workers: tuple[int, ...] = (0, 1), steps: int = 60
) -> None:
    names, work = networks.split(",") if isinstance(networks, str) else networks, Path(workdir).resolve()
    found = [measure(name, number, work, profile, steps) for name in names for number in workers]
    settings = {"profile": profile, "steps": steps, "threads": torch.get_num_threads()}
    settings["kept_memory"] = all(os.environ.get(key) == value for key, value in KEPT_MEMORY.items())
    print(json.dumps({"seconds_per_step": found, "settings": settings, "machine": describe()}, indent=1))


if __name__ == "__main__":
    fire.Fire(main)
