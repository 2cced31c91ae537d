"""Generations to measure: of a trained work directory, or of a profile's networks with random weights."""

from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.plans import FOLDER, TRAININGS, config, livers, plan_of
from lldm3d.codec.codec import Codec
from lldm3d.diffusion.networks import ControlledDiffusion
from lldm3d.diffusion.noise import DDPM, RectifiedFlow
from lldm3d.pairs.cases import drawn_name
from lldm3d.pairs.sampling import Generation, LatentSampler, load_system
from lldm3d.phantom.case import CLASS_NAMES

KINDS, DIFFUSIONS = ("image", "label"), TRAININGS[2:]


def trained(workdir: Path, process: RectifiedFlow | DDPM) -> Generation:
    """The networks of a work directory, sampled by `process` on the CPU."""
    models = workdir / FOLDER
    codecs = {kind: str(models / f"autoencoder_{kind}/codec.pt") for kind in KINDS}
    system = load_system("cpu", process.name, codecs, {name: str(models / f"{name}/model.pt") for name in DIFFUSIONS})
    networks, shapes = {"label": system.networks["label_ldm"], "image": system.controlled}, system.learnt_from
    samplers = {
        kind: LatentSampler(system.codecs[kind], networks[kind], process, shapes["latent_shape"][kind])
        for kind in KINDS
    }
    return Generation(**samplers, condition=system.checkpoints["controlnet"]["condition"])


def untrained(profile: str, size: Sequence[int], process: RectifiedFlow, device: str) -> Generation:
    """The profile's networks with random weights, for volumes of `size` voxels."""
    plan, schema = plan_of(profile), livers(size)
    configs = {name: config(plan, name, schema) for name in TRAININGS}
    made = {name: parser.get_parsed_content("architecture")() for name, parser in configs.items()}
    networks = {"label": made["label_ldm"], "image": ControlledDiffusion(made["image_ldm"], made["controlnet"])}
    samplers = {}
    for kind in KINDS:
        channels = configs[f"autoencoder_{kind}"]["latent_channels"]
        statistics = torch.zeros(channels), torch.ones(channels)
        codec = Codec(made[f"autoencoder_{kind}"], kind, CLASS_NAMES, *statistics).to(device).eval()
        shape = [channels, *(extent // codec.stride for extent in size)]
        samplers[kind] = LatentSampler(codec, networks[kind].to(device).eval(), process, shape)
    return Generation(**samplers, condition="label")


def batch(*indices: int) -> dict:
    """What a generation is called with for these cases."""
    affine = torch.eye(4).repeat(len(indices), 1, 1)
    names = [drawn_name(index) for index in indices]
    return {"index": torch.tensor(indices), "name": names, "affine": affine}
