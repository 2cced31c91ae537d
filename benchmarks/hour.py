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
from lldm3d.bundle import bundle_path
from lldm3d.diffusion.networks import ControlledDiffusion
from lldm3d.phantom.case import CLASS_NAMES
from lldm3d.pipeline.configs import bundle_and_configs, overrides_of
from lldm3d.pipeline.profile import load_profile

AUTOENCODERS = ("autoencoder_image", "autoencoder_label")


def parsed(stage: str, settings: dict, **further: object) -> ConfigParser:
    """The stage's training config with the profile's section, on simulated livers."""
    bundle, configs = bundle_and_configs(stage, settings[stage])
    parser = ConfigParser()
    parser.read_config([str(bundle_path(bundle) / config) for config in configs])
    parser.update({"class_names": list(CLASS_NAMES), **overrides_of(settings[stage]), **further})
    return parser


def network(parser: ConfigParser) -> nn.Module:
    """The network of a config, without its weights."""
    architecture = parser.get_parsed_content("architecture")
    with torch.device("meta"):
        return architecture()


def volume(batch: int, channels: int, size: list[int]) -> torch.Tensor:
    return torch.empty(batch, channels, *size, device="meta")


def times(batch: int) -> torch.Tensor:
    return torch.empty(batch, device="meta")


def backward(*outputs: torch.Tensor) -> None:
    sum(output.sum() for output in outputs).backward()


def autoencoder(stage: str, settings: dict) -> dict:
    """Parameters and operations of steps: on crops, then on whole volumes, the last part with the discriminator."""
    parser, size = parsed(stage, settings), settings["prepare"]["roi_size"]
    model, steps = network(parser), steps_of(parser)
    whole = parser["whole_epochs"] * parser["epoch_length"]
    batches = [volume(parser["batch_size"], model.encoder.in_channels, shape) for shape in (parser["roi_size"], size)]
    crop, scan = (count(lambda batch=batch: backward(*model(batch))) for batch in batches)
    flops = (steps - whole) * crop + whole * scan
    if stage == "autoencoder_image" and parser["adversarial_weight"] > 0:
        flops += (steps - parser.get_parsed_content("adversarial_start")) * judged(parser)
    with torch.no_grad():
        encode = count(lambda: model.encode(volume(1, model.encoder.in_channels, size)))
    return {"parameters": parameters(model), "steps": steps, "flops": flops, "encode": encode}


def judged(parser: ConfigParser) -> int:
    """Operations of the discriminator in a step on crops: it learns from two batches, and the autoencoder from it."""
    judge = parser.get_parsed_content("discriminator_def").to("meta")
    image = volume(parser["batch_size"], 1, parser["roi_size"])
    learning = count(lambda: backward(judge(image)[-1], judge(image)[-1]))
    judge.requires_grad_(False)
    return learning + count(lambda: backward(judge(image.clone().requires_grad_())[-1]))


def diffusion(stage: str, settings: dict) -> dict:
    """Parameters and operations of the steps of an LDM or of the ControlNet."""
    kind = "label" if stage == "label_ldm" else "image"
    latent = parsed(f"autoencoder_{kind}", settings)
    channels, halvings = latent["latent_channels"], len(latent["channels"]) - 1
    size = settings["prepare"]["roi_size"]
    image = parsed("image_ldm", settings, latent_channels=channels)
    repeated = {key: image[key] for key in ("channels", "attention_levels", "num_res_blocks")}
    parser = parsed(stage, settings, latent_channels=channels, **(repeated if stage == "controlnet" else {}))
    model, batch, steps = network(parser), parser["batch_size"], steps_of(parser)
    trained, inputs = model, [volume(batch, channels, [voxels // 2**halvings for voxels in size]), times(batch)]
    if stage == "controlnet":
        trained = ControlledDiffusion(network(image), model).train()
        inputs.append(volume(batch, len(CLASS_NAMES), size))
    flops = count(lambda: backward(trained(*inputs)))
    return {"parameters": parameters(model), "steps": steps, "flops": steps * flops}


def steps_of(parser: ConfigParser) -> int:
    return parser["epochs"] * parser["epoch_length"]


def parameters(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def latents(settings: dict, encode: list[int], cases: int) -> dict:
    """Operations of the encoders, which see each view of each training case once."""
    entries = cases * settings["latents"].get("views", 1)
    return {"parameters": 0, "steps": entries, "flops": entries * sum(encode)}


def main(profile: str = "full", cases: int = 504, peak: float = 989e12, shares: str = "0.05,0.1,0.2,0.4") -> None:
    settings = load_profile(profile)
    found = {stage: autoencoder(stage, settings) for stage in AUTOENCODERS}
    found["latents"] = latents(settings, [found[stage].pop("encode") for stage in AUTOENCODERS], cases)
    found |= {stage: diffusion(stage, settings) for stage in ("label_ldm", "image_ldm", "controlnet")}
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
