"""Drawing pairs beside the stock recipe: time, operations and memory.

    taskset -c 0 python -m benchmarks.sample times --profile benchmarks/sampling.yaml --size 32,32,16
    python -m benchmarks.sample size --profile full --size 160,160,64
    taskset -c 0 python -m benchmarks.sample size --profile benchmarks/sampling.yaml --size 32,32,16 --measure

Both take a profile's networks with random weights, on which time does not depend, and print JSON. `times`: a pair by
rectified flow and by the stock recipe (1000 steps of DDPM in float32), each alone, in turns, in seconds of processor
time (on a GPU: of the clock). `size`: operations and estimates without computing, and with `--measure` (on a GPU
always) seconds and memory of drawing plain, with channels last, and compiled.
`benchmarks.sample_quality` has what few steps are worth.
"""

import json
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import fire
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.flops import ceiling, count
from benchmarks.machine import describe
from benchmarks.pairs import batch, untrained
from benchmarks.stock import sampling as stock
from lldm3d.diffusion.noise import RectifiedFlow
from lldm3d.pairs.memory import estimate
from lldm3d.pairs.sampling import Generation
from lldm3d.pipeline.cost import wait_for_gpu

STEPS = (20, 8)
BATCH = 8
IN_BATCH, STOCK = f"{STEPS[0]} steps, {BATCH} pairs at once", "stock"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def seconds(call: Callable[[], object]) -> float:
    """Of processor time, which other programs on the machine do not lengthen; on a GPU by the clock."""
    clock = time.perf_counter if DEVICE == "cuda" else time.process_time
    wait_for_gpu()
    started = clock()
    call()
    wait_for_gpu()
    return clock() - started


def in_turns(calls: dict[str, Callable[[int], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call in each round; they take turns and are given the number of the round."""
    found = {name: [] for name in calls}
    for index in range(rounds):
        for name, call in calls.items():
            found[name].append(seconds(partial(call, index)))
    return found


def times(profile: str, size: tuple[int, int, int], rounds: int = 3) -> None:
    """A pair by each side in turns, after a first short one of each."""
    torch.set_num_threads(1)
    generation = untrained(profile, tuple(size), RectifiedFlow(), DEVICE)

    def ours(index: int, steps: int, cases: int = 1) -> None:
        for sampler in (generation.label, generation.image):
            sampler.noise_scheduler = RectifiedFlow(steps)
        generation(None, batch(*range(cases * index, cases * (index + 1))))

    def theirs(index: int, steps: int = stock.STEPS) -> None:
        stock.draw_pairs(generation, [index], steps)

    calls = {f"{steps} steps": partial(ours, steps=steps) for steps in STEPS}
    calls[IN_BATCH] = partial(ours, steps=STEPS[0], cases=BATCH)
    calls[STOCK] = theirs
    ours(0, 2), ours(0, 2, BATCH), theirs(0, 2)
    found = in_turns(calls, rounds)
    found[IN_BATCH] = [value / BATCH for value in found[IN_BATCH]]
    middle = {name: median(values) for name, values in found.items()}
    step = (count(partial(theirs, 0, 4)) - count(partial(theirs, 0, 2))) / 2
    work = {STOCK: count(partial(theirs, 0, 2)) + (stock.STEPS - 2) * step}
    work |= {name: count(partial(calls[name], 0)) for name in calls if name not in (STOCK, IN_BATCH)}
    most = {"ours": ceiling(), STOCK: ceiling(torch.float32)}
    result = {
        "ratio": {name: round(middle[STOCK] / value, 1) for name, value in middle.items() if name != STOCK},
        "seconds_of_a_pair": {name: [round(value, 3) for value in sorted(values)] for name, values in found.items()},
        "gflop_of_a_pair": {name: round(value / 1e9, 2) for name, value in work.items()},
        "gflops_per_second": {name: round(value / middle[name] / 1e9, 1) for name, value in work.items()},
        "ceiling_gflops_per_second": {name: round(value / 1e9, 1) for name, value in most.items()},
        "profile": profile,
        "size": size,
        "machine": describe(),
    }
    print(json.dumps(result, indent=1))


def size(
    profile: str = "full",
    size: tuple[int, int, int] = (160, 160, 64),
    steps: int = 20,
    number: int = 8,
    measure: bool = DEVICE == "cuda",
) -> None:
    """Operations and memory of a pair; with `measure` also seconds: plain, channels-last, and compiled as well."""
    torch.set_num_threads(1)
    generation = untrained(profile, tuple(size), RectifiedFlow(steps), DEVICE)
    result = {
        "tflop": operations(generation, tuple(size), steps),
        "estimated_gb": {
            f"{cases} at once, {'in slabs' if in_slabs else 'whole'}": estimate(generation, cases, size, in_slabs) / 1e9
            for cases in (1, number)
            for in_slabs in (False, True)
        },
    }
    if measure:
        result |= {"plain": measured(generation, number)}
        networks = [generation.label.network, generation.image.network]
        for network in networks:
            network.to(memory_format=torch.channels_last_3d)
        result |= {"channels_last_3d": measured(generation, number)}
        for network in networks:
            network.compile(mode="reduce-overhead")  # on a GPU: CUDA graphs
        result |= {"compiled": measured(generation, number), "ceiling_tflops_per_second": ceiling() / 1e12}
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


def measured(generation: Generation, number: int, rounds: int = 5) -> dict[str, float]:
    """Seconds of a pair, alone and in a batch, and on a GPU the peak memory."""
    found = {}
    for cases in (1, number):
        draw = partial(generation, None, batch(*range(cases)))
        draw()
        if DEVICE == "cuda":
            torch.cuda.reset_peak_memory_stats()
        found[f"seconds_of_a_pair_of_{cases}"] = median(seconds(draw) for _ in range(rounds)) / cases
        if DEVICE == "cuda":
            found[f"peak_gb_of_{cases}"] = torch.cuda.max_memory_allocated() / 1e9
    return found


if __name__ == "__main__":
    fire.Fire({"times": times, "size": size})
