"""Drawing pairs beside the stock recipe: time, operations, memory, and quality against the number of steps.

    lldm3d run --workdir W/flow --profile benchmarks/sampling.yaml      # and its DDPM twin:
    lldm3d run --workdir W/ddpm --profile benchmarks/sampling_ddpm.yaml
    taskset -c 0 python -m benchmarks.sample times --workdir W
    python -m benchmarks.sample_quality --workdir W
    python -m benchmarks.sample size --profile full --size 160,160,64

`times`: a pair by 20 steps of rectified flow and by the stock recipe (1000 steps of DDPM in float32), each alone, in
turns, in seconds of processor time (on a GPU: of the clock). `size`: a pair of a profile's networks with random
weights; on a GPU seconds and memory, on a CPU only what needs no computation. Both print JSON.
"""

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import fire
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks import stock
from benchmarks.flops import ceiling, count, wait
from benchmarks.machine import describe
from benchmarks.pairs import batch, trained, untrained
from lldm3d.diffusion import DDPM, RectifiedFlow
from lldm3d.generate import Generation
from lldm3d.generate.memory import estimate
from lldm3d.generate.samplers import case_noise

STEPS = (20, 8)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def stock_pair(generation: Generation, index: int, steps: int = stock.STEPS) -> None:
    """One pair as the stock recipe draws it."""
    samplers = {"label": generation.label, "image": generation.image}
    noise = {k: case_noise(0, index, k, sampler.latent_shape)[None].to(DEVICE) for k, sampler in samplers.items()}
    label = stock.draw_labels(generation, noise["label"], steps)
    stock.draw_images(generation, noise["image"], label, steps)


def seconds(call: Callable[[], object]) -> float:
    """Of processor time, which other programs on the machine do not lengthen; on a GPU by the clock."""
    clock = time.perf_counter if DEVICE == "cuda" else time.process_time
    wait(DEVICE)
    started = clock()
    call()
    wait(DEVICE)
    return clock() - started


def times(workdir: str, rounds: int = 3) -> None:
    """A pair by each side in turns, after a first short one of each."""
    torch.set_num_threads(1)
    ours = {steps: trained(Path(workdir, "flow"), RectifiedFlow(steps), DEVICE) for steps in STEPS}
    theirs = trained(Path(workdir, "ddpm"), DDPM(), DEVICE)
    calls = {f"{steps} steps": lambda i, g=generation: g(None, batch(i)) for steps, generation in ours.items()}
    calls["20 steps, a pair of 8 at once"] = lambda i: ours[20](None, batch(*range(8 * i, 8 * i + 8)))
    calls["stock, 1000 steps"] = lambda i: stock_pair(theirs, i)
    stock_pair(theirs, 0, steps=2)
    for name in list(calls)[:-1]:
        calls[name](0)
    found = {name: [] for name in calls}
    for index in range(rounds):
        for name, call in calls.items():
            found[name].append(seconds(lambda c=call, i=index: c(i)) / (8 if "of 8" in name else 1))
    middle = {name: median(values) for name, values in found.items()}
    slowest = middle["stock, 1000 steps"]
    work = count(lambda: calls["20 steps"](0)), count(lambda: stock_pair(theirs, 0, 10)) - count_decoding(theirs)
    result = {
        "ratio": {name: round(slowest / value, 1) for name, value in middle.items() if name != "stock, 1000 steps"},
        "seconds": {name: [round(value, 3) for value in sorted(values)] for name, values in found.items()},
        "gflop": {"20 steps": work[0] / 1e9, "stock": (100 * work[1] + count_decoding(theirs)) / 1e9},
        "gflops_per_second": {"20 steps": work[0] / middle["20 steps"] / 1e9},
        "ceiling_gflops_per_second": ceiling() / 1e9,
        "machine": describe(),
    }
    print(json.dumps(result, indent=1))


def count_decoding(generation: Generation) -> int:
    """Operations of decoding a pair."""
    return sum(
        count(lambda s=sampler: s.codec.decode(torch.zeros(1, *s.latent_shape, device=DEVICE)))
        for sampler in (generation.label, generation.image)
    )


def size(profile: str = "full", size: tuple[int, int, int] = (160, 160, 64), steps: int = 20, number: int = 8) -> None:
    """Operations and memory of a pair; on a GPU also seconds: plain, channels-last, and compiled as well."""
    generation = untrained(profile, tuple(size), RectifiedFlow(steps), DEVICE)
    result = {
        "tflop": operations(generation, tuple(size), steps),
        "estimated_gb": {
            f"{cases} at once, {'in slabs' if in_slabs else 'whole'}": estimate(generation, cases, size, in_slabs) / 1e9
            for cases in (1, number)
            for in_slabs in (False, True)
        },
    }
    if DEVICE == "cuda":
        result |= {"plain": on_gpu(generation, number)}
        networks = [generation.label.network, generation.image.network]
        for network in networks:
            network.to(memory_format=torch.channels_last_3d)
        result |= {"channels_last_3d": on_gpu(generation, number)}
        for network in networks:
            network.compile(mode="reduce-overhead")  # CUDA graphs
        result |= {"compiled": on_gpu(generation, number), "ceiling_tflops_per_second": ceiling() / 1e12}
    print(json.dumps({"profile": profile, "size": size, "steps": steps, **result, "machine": describe()}, indent=1))


def operations(generation: Generation, extent: tuple[int, int, int], steps: int) -> dict[str, float]:
    """TFLOP of the parts of a pair, counted on tensors without data."""
    parts = {}
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        time_of = torch.zeros(1, device=DEVICE)
        condition = torch.empty(1, len(generation.image.codec.class_names), *extent, device=DEVICE)
        for kind, sampler in {"label": generation.label, "image": generation.image}.items():
            latent = torch.empty(1, *sampler.latent_shape, device=DEVICE)
            predict = sampler.predictor(condition if kind == "image" else None)
            parts[f"{kind} step"] = count(lambda p=predict, x=latent: p(x, time_of)) / 1e12
            parts[f"{kind} decoding"] = count(lambda s=sampler, x=latent: s.decode(x)) / 1e12
    parts["pair"] = sum(value * (steps if "step" in name else 1) for name, value in parts.items())
    return {name: round(value, 4) for name, value in parts.items()}


def on_gpu(generation: Generation, number: int, rounds: int = 5) -> dict[str, float]:
    """Seconds of a pair, alone and in a batch, and peak memory."""
    found = {}
    for cases in (1, number):
        draw = partial(generation, None, batch(*range(cases)))
        draw()
        torch.cuda.reset_peak_memory_stats()
        taken = median(seconds(draw) for _ in range(rounds))
        found[f"seconds_of_a_pair_of_{cases}"] = taken / cases
        found[f"peak_gb_of_{cases}"] = torch.cuda.max_memory_allocated() / 1e9
    return found


if __name__ == "__main__":
    fire.Fire({"times": times, "size": size})
