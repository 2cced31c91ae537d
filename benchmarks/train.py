"""What a training step of each generative stage costs, beside the stock recipe of MONAI's Model Zoo.

    OMP_NUM_THREADS=1 python -m benchmarks.train --profile small   # a CPU: minutes
    python -m benchmarks.train --profile full                      # a GPU: the paper's size

`ours` is the stage's own trainer as the chain configures it, on latents of simulated cases; `stock` is that of
benchmarks/stock/training.py. Both run in turn, some steps in each round; a first round warms up. On a CPU seconds are
those of the process, which other work on the machine hardly changes. `ratio` is how many times as many steps ours
makes in the same time (median, lowest and highest of the rounds), `share` what is reached of the ceiling, the product
of two large matrices, and `busy` the share of the time in which the trainer does not wait for data. Prints JSON.
"""

import json
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path
from statistics import median

import fire
import psutil
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser
from monai.engines import SupervisedTrainer
from monai.utils import set_determinism

from benchmarks.flops import autocast_dtype, ceiling, count
from benchmarks.machine import describe
from benchmarks.plans import FOLDER, config, plan_of
from benchmarks.stock.training import stock_trainer
from lldm3d.bundle import defined
from lldm3d.codec.latents import encode
from lldm3d.data.dataset import load_schema
from lldm3d.data.prepare import prepare
from lldm3d.methods.registry import OURS
from lldm3d.phantom.write import write_phantom
from lldm3d.pipeline.cost import wait_for_gpu
from lldm3d.pipeline.plan import Plan
from lldm3d.pipeline.profile import overlays_of
from lldm3d.pipeline.training import data_ids
from lldm3d.training.checkpoints import save_network

COMPARED = ("autoencoder_image", "label_ldm", "image_ldm", "controlnet")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
clock = time.perf_counter if DEVICE == "cuda" else time.process_time


def parsed(work: Path, training: str, plan: Plan, **further: object) -> ConfigParser:
    """The training's config as the chain runs it in `work`, with further overrides."""
    schema, method, section = load_schema(work / "dataset"), plan.loaded[OURS], plan.section(OURS, training)
    configs = [*method.trainings[training].configs, *overlays_of(section)]
    data = data_ids(work, work / FOLDER, schema, section)
    data = defined(method.bundle_of(training), configs, data)
    return config(plan, training, schema, **data, output_dir=str(work / FOLDER / training), **further)


def make_work(work: Path, plan: Plan, cases: int) -> None:
    """Simulated cases, their latents from untrained codecs, and an untrained image LDM: a step takes as long."""
    write_phantom(output_dir=work / "data", **{**plan.settings["phantom"], "num_cases": cases})
    prepare(output_dir=work / "dataset", data=str(work / "data"), **plan.settings["prepare"])
    for training in ("autoencoder_image", "autoencoder_label"):
        parsed(work, training, plan).get_parsed_content("codec")
    codecs = [work / FOLDER / f"autoencoder_{kind}/codec.pt" for kind in ("image", "label")]
    latents = work / FOLDER / "latents/encoded"
    encode(work / "dataset", codecs[0], latents, codecs[1], views=2)
    parser = parsed(work, "image_ldm", plan)
    network, architecture = map(parser.get_parsed_content, ("network_def", "architecture"))
    model = work / FOLDER / "image_ldm/model.pt"
    save_network(model, network, architecture, latents, noise_scheduler="rectified_flow")


def our_trainer(stage: str, parser: ConfigParser) -> SupervisedTrainer:
    """The trainer of the bundle with what `training` hangs on it before it runs."""
    trainer, state, optimizer, lr_scheduler = map(
        parser.get_parsed_content, ("train#trainer", "state", "optimizer", "lr_scheduler")
    )
    optimizer.register_step_post_hook(lambda *_: lr_scheduler.step())
    state.attach(trainer)
    return trainer


class Side:
    """One of the two trainers, which is run epoch by epoch, with the times of its steps."""

    def __init__(self, trainer: SupervisedTrainer) -> None:
        self.trainer, self.rounds, self.peak = trainer, [], 0
        trainer.state.max_epochs = 0
        trainer.add_event_handler(Events.EPOCH_STARTED, self.begin)
        trainer.add_event_handler(Events.GET_BATCH_STARTED, self.ask)
        trainer.add_event_handler(Events.GET_BATCH_COMPLETED, self.receive)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self.end)

    def begin(self) -> None:
        self.ends, self.walls, self.waits = [], [], []

    def ask(self) -> None:
        self.asked = time.perf_counter()

    def receive(self) -> None:
        self.waits.append(time.perf_counter() - self.asked)

    def end(self) -> None:
        wait_for_gpu()
        self.ends.append(clock())
        self.walls.append(time.perf_counter())

    def run(self) -> None:
        """One epoch; the first step of each is not timed."""
        if DEVICE == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self.trainer.state.max_epochs += 1
        self.trainer.run()
        steps, waited = len(self.ends) - 1, sum(self.waits[1 : len(self.ends)])
        busy = 1 - waited / (self.walls[-1] - self.walls[0])
        self.rounds.append({"seconds": (self.ends[-1] - self.ends[0]) / steps, "busy": busy})
        self.peak = torch.cuda.max_memory_allocated() if DEVICE == "cuda" else psutil.Process().memory_info().rss

    def figures(self, steps: int, dtype: torch.dtype) -> dict:
        """Medians and spreads of the rounds after the first."""
        rounds = self.rounds[1:]
        seconds = [item["seconds"] for item in rounds]
        flops = count(self.run) / steps
        reached = flops / median(seconds)
        return {
            "steps_per_second": round(1 / median(seconds), 4),
            "seconds_per_step": [round(f(seconds), 4) for f in (median, min, max)],
            "gflop_per_step": round(flops / 1e9, 2),
            "gflops_reached": round(reached / 1e9, 1),
            "share": round(reached / ceiling(dtype), 3),
            "busy": round(median(item["busy"] for item in rounds), 3),
            "memory_gib": round(self.peak / 2**30, 2),
        }


def compare(stage: str, work: Path, plan: Plan, rounds: int, steps: int) -> dict:
    """Ratio and figures of one stage."""
    further = {"epochs": rounds + 2, "epoch_length": steps, "val_interval": rounds + 3}
    if plan.section(OURS, stage).get("adversarial_weight", 1):
        further |= {"adversarial_start": 0} if stage == "autoencoder_image" else {}
    set_determinism(0)
    ours = Side(our_trainer(stage, parsed(work, stage, plan, **further)))
    stock = Side(stock_trainer(stage, parsed(work, stage, plan, **further), steps))
    for _ in range(rounds + 1):
        stock.run()
        ours.run()
    halves = DEVICE == "cuda" and stage != "autoencoder_image"
    pairs = zip(stock.rounds[1:], ours.rounds[1:], strict=True)
    ratios = [theirs["seconds"] / mine["seconds"] for theirs, mine in pairs]
    return {
        "ratio": [round(f(ratios), 2) for f in (median, min, max)],
        "ours": ours.figures(steps, autocast_dtype(DEVICE)),
        "stock": stock.figures(steps, torch.float16 if halves else torch.float32),
    }


def main(
    stages: str = ",".join(COMPARED),
    profile: str = "small",
    size: str | None = None,
    cases: int = 10,
    rounds: int = 5,
    steps: int = 5,
) -> None:
    names = stages.split(",") if isinstance(stages, str) else stages
    plan = plan_of(profile)
    settings = plan.settings
    if size:
        voxels = [int(number) for number in (size.split(",") if isinstance(size, str) else size)]
        settings["phantom"]["size"] = voxels
        settings["prepare"] = {**settings["prepare"], "roi_size": voxels}
    with tempfile.TemporaryDirectory() as folder:
        with redirect_stdout(sys.stderr):
            make_work(Path(folder), plan, cases)
        found = {stage: compare(stage, Path(folder), plan, rounds, steps) for stage in names}
    used = {"profile": profile, "size": settings["phantom"]["size"], "rounds": rounds, "steps": steps}
    batches = {name: plan.section(OURS, name)["batch_size"] for name in names}
    used |= {"threads": torch.get_num_threads(), "batch_size": batches}
    ratios = {stage: figures.pop("ratio") for stage, figures in found.items()}
    print(json.dumps({"ratio": ratios, "stages": found, "settings": used, "machine": describe()}, indent=1))


if __name__ == "__main__":
    fire.Fire(main)
