"""What the trainings of a profile compute, counted without computing it, and how long that takes a GPU.

    python -m benchmarks.hour --profile full
    python -m benchmarks.hour --profile benchmarks/full_hour.yaml

Networks and batches are meta tensors, which have a shape and no content, so that a laptop counts the paper's size.
`minutes` are those of a GPU at each of `shares` of its `peak` (H200: 989e12 bfloat16 operations a second, as NVIDIA's
data sheet says). Operations are those of benchmarks/flops.py; validation, statistics and waiting are
left out. Prints JSON.
"""

import json

import fire
import torch
from monai.bundle import ConfigParser
from torch import nn

from benchmarks.flops import count
from benchmarks.machine import describe
from benchmarks.plans import TRAININGS, config, livers, plan_of
from lldm3d.data.dataset import Schema
from lldm3d.methods.registry import OURS
from lldm3d.pipeline.cost import network_and_inputs
from lldm3d.pipeline.plan import Plan

AUTOENCODERS = TRAININGS[:2]


def on_meta(plan: Plan, training: str, schema: Schema) -> tuple[nn.Module, list[torch.Tensor]]:
    """Network and inputs of a step, without content."""
    with torch.device("meta"):
        return network_and_inputs(plan, plan.loaded[OURS], training, schema, training not in AUTOENCODERS)


def backward(*outputs: torch.Tensor) -> None:
    sum(output.sum() for output in outputs).backward()


def autoencoder(plan: Plan, training: str, schema: Schema) -> dict:
    """Parameters and operations of steps: on crops, then on whole volumes, the last part with the discriminator."""
    parser, (model, (crops,)) = config(plan, training, schema), on_meta(plan, training, schema)
    steps, full = steps_of(parser), parser["whole_epochs"] * parser["epoch_length"]
    volumes = crops.new_empty(*crops.shape[:2], *schema.roi_size)
    crop, scan = (count(lambda batch=batch: backward(*model(batch))) for batch in (crops, volumes))
    flops = (steps - full) * crop + full * scan
    if training == "autoencoder_image" and parser["adversarial_weight"] > 0:
        flops += (steps - parser.get_parsed_content("adversarial_start")) * judged(parser, crops)
    with torch.no_grad():
        encode = count(lambda: model.encode(volumes[:1]))
    return {"parameters": parameters(model), "steps": steps, "flops": flops, "encode": encode}


def judged(parser: ConfigParser, image: torch.Tensor) -> int:
    """Operations of the discriminator in a step on crops: it learns from two batches, and the autoencoder from it."""
    judge = parser.get_parsed_content("discriminator_def").to("meta")
    learning = count(lambda: backward(judge(image)[-1], judge(image)[-1]))
    judge.requires_grad_(False)
    return learning + count(lambda: backward(judge(image.clone().requires_grad_())[-1]))


def diffusion(plan: Plan, training: str, schema: Schema) -> dict:
    """Parameters and operations of the steps of an LDM or of the ControlNet."""
    model, inputs = on_meta(plan, training, schema)
    steps = steps_of(config(plan, training, schema))
    return {"parameters": parameters(model), "steps": steps, "flops": steps * count(lambda: backward(model(*inputs)))}


def steps_of(parser: ConfigParser) -> int:
    return parser["epochs"] * parser["epoch_length"]


def parameters(model: nn.Module) -> int:
    """Those that learn."""
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


def latents(plan: Plan, encode: list[int], cases: int) -> dict:
    """Operations of the encoders, which see each view of each training case once."""
    entries = cases * plan.section(OURS, "latents").get("views", 1)
    return {"parameters": 0, "steps": entries, "flops": entries * sum(encode)}


def main(profile: str = "full", cases: int = 504, peak: float = 989e12, shares: str = "0.05,0.1,0.2,0.4") -> None:
    plan = plan_of(profile)
    schema = livers(plan.settings["prepare"].get("roi_size") or plan.settings["phantom"]["size"])
    found = {name: autoencoder(plan, name, schema) for name in AUTOENCODERS}
    found["latents"] = latents(plan, [found[name].pop("encode") for name in AUTOENCODERS], cases)
    found |= {name: diffusion(plan, name, schema) for name in TRAININGS[2:]}
    used = [float(share) for share in (shares.split(",") if isinstance(shares, str) else shares)]
    for stage in found.values():
        stage["tflop_per_step"] = round(stage["flops"] / stage["steps"] / 1e12, 3)
        stage["petaflop"] = round(stage.pop("flops") / 1e15, 1)
    total = sum(stage["petaflop"] for stage in found.values())
    minutes = {str(share): round(total * 1e15 / (peak * share) / 60, 1) for share in used}
    result = {"minutes_at_share": minutes, "petaflop": round(total, 1), "stages": found}
    result |= {"settings": {"profile": profile, "peak": peak, "cases": cases}, "machine": describe()}
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    fire.Fire(main)
