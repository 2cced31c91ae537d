"""What the chain costs beside a plain loop: seconds per training step of each segmentation network.

    python -m benchmarks.segmentation --workdir work/demo --networks seg_unet,seg_resunet

`plain` is a PyTorch loop with the same network, loss, optimizer, autocast and batches, which lie ready in memory.
`chain` is the stage's own trainer, which draws, crops and augments each batch and has its handlers; `data` is the time
to draw and crop a batch alone, `chain_one_worker` the trainer with a process beside it that does this. Each is the
median of some rounds: `processor` in seconds of the process itself, which other work on the machine hardly changes,
`wall` in seconds of the clock. Prints JSON, the overhead first.
"""

import json
import tempfile
import time
from itertools import islice
from pathlib import Path
from statistics import median

import fire
import numpy as np
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser

from benchmarks.machine import describe
from lldm3d.chain.profile import load_profile
from lldm3d.chain.training import crop
from lldm3d.data.dataset import load_schema
from lldm3d.study.cost import WARM_UP, parsed, wait

ROUNDS, STEPS = 3, 20
CLOCKS = ("processor", "wall")


def clock() -> np.ndarray:
    """Seconds by CLOCKS."""
    return np.array([time.process_time(), time.perf_counter()])


def config(network: str, work: Path, profile: str, folder: str, workers: int = 0) -> ConfigParser:
    """The training of a stage of regime R, without validation."""
    schema, section = load_schema(work / "dataset"), load_profile(profile)["segment"]["overrides"]
    overrides = {"dataset_dir": str(work / "dataset"), "output_dir": folder, "class_names": list(schema.class_names)}
    overrides |= {**section, "roi_size": crop(section, schema)}
    overrides |= {"cache_dir": str(work / "cache"), "num_workers": workers}
    return parsed(network, overrides | {"epochs": 1, "epoch_length": WARM_UP + STEPS, "val_interval": 2})


def chain_seconds(parser: ConfigParser) -> np.ndarray:
    """Of a step of the stage's trainer."""
    trainer, times = parser.get_parsed_content("train#trainer"), []
    parser.get_parsed_content("training_state").attach(trainer)

    def note() -> None:
        wait()
        times.append(clock())

    trainer.add_event_handler(Events.ITERATION_COMPLETED, note)
    trainer.run()
    return (times[-1] - times[WARM_UP - 1]) / STEPS


def plain_seconds(parser: ConfigParser) -> tuple[np.ndarray, np.ndarray]:
    """Of a step of the plain loop, and of drawing a batch."""
    names = ("network", "loss", "optimizer", "train#inferer", "device", "train#dataloader")
    network, loss, optimizer, inferer, device, loader = map(parser.get_parsed_content, names)
    start = clock()
    drawn = list(islice(loader, WARM_UP + STEPS))
    data = (clock() - start) / len(drawn)
    batches = [(torch.as_tensor(item["image"]).to(device), torch.as_tensor(item["label"]).to(device)) for item in drawn]
    network.train()
    for index, (image, label) in enumerate(batches):
        if index == WARM_UP:
            wait()
            start = clock()
        optimizer.zero_grad()
        loss(inferer(image, network), label).backward()
        optimizer.step()
    wait()
    return (clock() - start) / STEPS, data


def measure_once(network: str, work: Path, profile: str) -> dict[str, np.ndarray]:
    """One round of each."""
    with tempfile.TemporaryDirectory() as folder:
        plain, data = plain_seconds(config(network, work, profile, folder))
        chain = chain_seconds(config(network, work, profile, folder))
    with tempfile.TemporaryDirectory() as folder:  # where it finds no state to go on from
        one_worker = chain_seconds(config(network, work, profile, folder, workers=1))
    return {"plain": plain, "data": data, "chain": chain, "chain_one_worker": one_worker}


def measure(network: str, work: Path, profile: str) -> dict:
    """The figures of one network."""
    rounds = [measure_once(network, work, profile) for _ in range(ROUNDS)]
    found = {}
    for place, name in enumerate(CLOCKS):
        values = {key: [float(item[key][place]) for item in rounds] for key in rounds[0]}
        middle = {key: median(value) for key, value in values.items()}
        overhead = middle["chain"] / middle["plain"] - 1
        found[name] = {"overhead": overhead, "median": middle, "rounds": values}
    found["wall"]["overhead_one_worker"] = middle["chain_one_worker"] / middle["plain"] - 1
    return {"network": network, **found}


def main(workdir: str, networks: str = "seg_unet", profile: str = "small") -> None:
    names = networks.split(",") if isinstance(networks, str) else networks
    found = [measure(name, Path(workdir).resolve(), profile) for name in names]
    settings = {"profile": profile, "steps": STEPS, "threads": torch.get_num_threads()}
    print(json.dumps({"seconds_per_step": found, "settings": settings, "machine": describe()}, indent=1))


if __name__ == "__main__":
    fire.Fire(main)
