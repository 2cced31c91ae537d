"""What a study costs before it is run: trainings, hours from measured steps, disk."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from monai.bundle import ConfigParser

from lldm3d.bundle import bundle_path
from lldm3d.data.dataset import load_cases, load_schema
from lldm3d.pipeline.configs import SEGMENT_OVERLAY, TRAIN
from lldm3d.pipeline.limits import keep_limits
from lldm3d.pipeline.training import crop

WARM_UP, TIMED = 2, 5  # steps
COPIES = 4  # of the weights on the disk: the best ones, and the state with two moments of Adam
ZIPPED = 1 / 20  # of a label map's voxels in bytes
CACHED = 5  # bytes of a voxel of the cases that all trainings of a task share: image float32, label uint8


@dataclass(frozen=True)
class Cost:
    """Of one training."""

    steps: int
    step_seconds: float
    parameters: int

    @property
    def hours(self) -> float:
        return self.steps * self.step_seconds / 3600


def tell_cost(work: Path, plan: dict, stages: list[str]) -> None:
    """Print what the trainings `segment/<network>/...` take, from steps of each network on this machine.

    The longest is noted for a cluster's jobs.
    """
    schema, section = load_schema(work / "dataset"), plan["settings"]["segment"]["overrides"]
    overrides = {"class_names": list(schema.class_names), **section, "roi_size": crop(section, schema)}
    torch.set_num_threads(plan["threads"])
    voxels, tasks = torch.Size(schema.roi_size).numel(), {stage.split("/")[3] for stage in stages}
    predictions = len(load_cases(work / "dataset", "test")) * voxels * ZIPPED
    hours, longest, disk = 0.0, 0.0, len(tasks) * len(learnt_from(work)) * voxels * CACHED
    for network, count in Counter(stage.split("/")[2] for stage in stages).items():
        cost = measure(network, overrides)
        longest = max(longest, cost.hours)
        hours, disk = hours + count * cost.hours, disk + count * (4 * COPIES * cost.parameters + predictions)
        print(
            f"{network}: {count} trainings of {cost.steps} steps at {cost.step_seconds:.3g} s, {cost.hours:.3g} hours "
            f"each; {cost.parameters / 1e6:.3g} million parameters"
        )
    if longest:
        keep_limits(work, plan["settings"], {"segment": 60 * longest})
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU with {plan['threads']} threads each"
    print(
        f"{len(stages)} trainings, {hours:.3g} hours of this {where}, to be divided by the trainings at once, and "
        f"without loading, augmentation, validation and test; {disk / 1e9:.2g} GB of disk"
    )


def learnt_from(work: Path) -> list[dict]:
    """All cases that some training reads: the real ones but for the test, and the synthetic ones that there are."""
    found = [("dataset", "training"), ("dataset", "validation")]
    found += [("synthetic", "training")] if (work / "synthetic" / "dataset.json").is_file() else []
    return [case for folder, split in found for case in load_cases(work / folder, split)]


def measure(network: str, overrides: dict) -> Cost:
    """The cost of a training of the bundle `network` with these overrides, from some of its steps on random volumes."""
    parser = parsed(network, overrides)
    seconds = step_seconds(plain_step(parser))
    parameters = sum(item.numel() for item in parser.get_parsed_content("network").parameters())
    steps = parser.get_parsed_content("epochs") * parser.get_parsed_content("epoch_length")
    return Cost(steps, seconds, parameters)


def parsed(network: str, overrides: dict) -> ConfigParser:
    """The training config of a segmentation bundle as the chain runs it."""
    parser = ConfigParser()
    parser.read_config([str(bundle_path(network) / TRAIN), SEGMENT_OVERLAY])
    parser.update(overrides)
    return parser


def plain_step(parser: ConfigParser) -> Callable[[], None]:
    """One optimizer step of the config's network, loss and optimizer on a batch of random volumes in memory."""
    network, loss, optimizer, inferer, device, size, batch, names = (
        parser.get_parsed_content(key)
        for key in ("network", "loss", "optimizer", "train#inferer", "device", "roi_size", "batch_size", "class_names")
    )
    image = torch.rand(batch, 1, *size, device=device)
    label = torch.randint(len(names), (batch, 1, *size), device=device)

    def step() -> None:
        network.train()
        optimizer.zero_grad()
        loss(inferer(image, network), label).backward()
        optimizer.step()

    return step


def step_seconds(step: Callable[[], None], timed: int = TIMED) -> float:
    """The mean time of some calls of `step` after a warm-up."""
    for _ in range(WARM_UP):
        step()
    wait()
    start = time.perf_counter()
    for _ in range(timed):
        step()
    wait()
    return (time.perf_counter() - start) / timed


def wait() -> None:
    """Until the GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
