"""From how many voxels an autoencoder pays: operations of a method's trainings with one, and on Haar bands without.

    python -m benchmarks.codecs --profile small

Counted as in benchmarks/hour.py, without computing anything: all trainings of networks of `lldm` (autoencoders that
learn from crops of one size, then small latents) and of `haar_ldm` (no autoencoder, latents of half the size), but
without label generators, as for warped training labels. `crossing` is the volume, in voxels, from which the first takes
fewer operations. Which pairs are worth more is another question (docs/results.md). Prints JSON.
"""

import json

import fire
import torch

from benchmarks.flops import count
from benchmarks.hour import backward, steps_of
from benchmarks.machine import describe
from benchmarks.plans import livers
from lldm3d.data.dataset import Schema
from lldm3d.pairs.sources import DRAWN
from lldm3d.pipeline.cost import network_and_inputs, training_config
from lldm3d.pipeline.plan import Plan
from lldm3d.pipeline.profile import load_profile

SIDES = (16, 24, 32, 48, 64, 96, 128, 160)  # of cubes, voxels


def teraflop(plan: Plan, schema: Schema) -> float:
    """All steps of the networks that one method trains to draw an image for a given label."""
    (method,) = plan.loaded.values()
    total = 0
    for name, training in method.trainings.items():
        parser = training_config(plan, method, name, schema)
        if "label_ldm" in (name, training.bundle) or training.run != "training":
            continue
        latent = bool(training.repeats)
        with torch.device("meta"):
            model, inputs = network_and_inputs(plan, method, name, schema, latent)
        total += steps_of(parser) * count(lambda model=model, inputs=inputs: backward(*forward(model, inputs)))
    return total / 1e12


def forward(model: torch.nn.Module, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """The outputs as a list, whether the network gives one or several."""
    outputs = model(*inputs)
    return [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)


def crossing(sides: list[int], first: list[float], second: list[float]) -> float | None:
    """Voxels where `first` begins to be the smaller one, linear in between; None where it never is."""
    for index in range(1, len(sides)):
        before, after = (first[i] - second[i] for i in (index - 1, index))
        if before > 0 >= after:
            low, high = (sides[i] ** 3 for i in (index - 1, index))
            return round(low + (high - low) * before / (before - after))
    return None


def main(profile: str = "small") -> None:
    settings, found = load_profile(profile), {}
    for method in ("lldm", "haar_ldm"):
        plan = Plan(None, (method,), (DRAWN,), settings)
        found[method] = [round(teraflop(plan, livers((side,) * 3)), 1) for side in SIDES]
    result = {"sides": list(SIDES), "teraflop": found, "crossing": crossing(list(SIDES), *found.values())}
    print(json.dumps(result | {"settings": {"profile": profile}, "machine": describe()}, indent=1))


if __name__ == "__main__":
    fire.Fire(main)
