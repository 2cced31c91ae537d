"""Generations to measure: of a trained work directory, or of a profile's networks with random weights."""

from pathlib import Path

import torch
from monai.bundle import ConfigParser
from torch import nn

from lldm3d.bundle import bundle_path
from lldm3d.codec.codec import Codec
from lldm3d.diffusion.networks import ControlledDiffusion
from lldm3d.diffusion.noise import DDPM, RectifiedFlow
from lldm3d.pairs.generate import CHECKPOINTS
from lldm3d.pairs.sampling import Generation, LatentSampler, load_system
from lldm3d.pipeline.configs import bundle_and_configs, load_configs, overrides_of
from lldm3d.pipeline.profile import load_profile

NAMES = ["background", "liver", "portal vein", "hepatic vein", "HCC"]


def trained(workdir: Path, process: RectifiedFlow | DDPM) -> Generation:
    """The networks of a work directory, sampled by `process` on the CPU."""
    paths = {key: str(workdir / name) for key, name in CHECKPOINTS.items()}
    system = load_system("cpu", process.name, controlnet_path=paths.pop("ckpt_path"), **paths)
    label = LatentSampler(system.codecs["label"], system.label_ldm, process, system.latent_shape["label"])
    image = LatentSampler(system.codecs["image"], system.controlled, process, system.latent_shape["image"])
    return Generation(label, image, system.condition)


def untrained(profile: str, size: tuple[int, int, int], process: RectifiedFlow, device: str) -> Generation:
    """The profile's networks with random weights, for volumes of `size` voxels."""
    settings, codecs, channels = load_profile(profile), {}, {}
    for kind in ("image", "label"):
        autoencoder = network(f"autoencoder_{kind}", settings, class_names=NAMES)
        channels[kind] = settings[f"autoencoder_{kind}"]["latent_channels"]
        statistics = torch.zeros(channels[kind]), torch.ones(channels[kind])
        codecs[kind] = Codec(autoencoder, kind, NAMES, *statistics).to(device).eval()
    label_ldm = network("label_ldm", settings, latent_channels=channels["label"])
    image_ldm = network("image_ldm", settings, latent_channels=channels["image"])
    same = {key: settings["image_ldm"][key] for key in ("channels", "attention_levels")}
    controlnet = network("controlnet", settings, latent_channels=channels["image"], class_names=NAMES, **same)
    controlled = ControlledDiffusion(image_ldm, controlnet).to(device).eval()
    grid = [extent // codecs["image"].stride for extent in size]
    shapes = {kind: [channels[kind], *grid] for kind in codecs}
    label = LatentSampler(codecs["label"], label_ldm.to(device).eval(), process, shapes["label"])
    image = LatentSampler(codecs["image"], controlled, process, shapes["image"])
    return Generation(label, image, "label")


def network(stage: str, settings: dict, **injected: object) -> nn.Module:
    """The network that a training stage would build."""
    section = settings[stage]
    bundle, configs = bundle_and_configs(stage, section)
    parser = ConfigParser(load_configs(bundle_path(bundle), configs))
    parser.update({**overrides_of(section), **injected})
    return parser.get_parsed_content("architecture")()


def batch(*indices: int) -> dict:
    """What a generation is called with for these cases."""
    affine = torch.eye(4).repeat(len(indices), 1, 1)
    names = [f"synthetic_{index:05d}" for index in indices]
    return {"index": torch.tensor(indices), "name": names, "affine": affine, "source_affine": affine}
