"""The trained networks of one chain, checked against each other."""

from dataclasses import dataclass

import torch
from torch import nn

from lldm3d.codec import Codec, load_codec
from lldm3d.errors import UserError
from lldm3d.files import sha256
from lldm3d.networks import ControlledDiffusion, load_network


@dataclass(frozen=True)
class System:
    """Codecs and networks that belong together; parts that were not asked for are None."""

    codecs: dict[str, Codec]
    label_ldm: nn.Module | None
    image_ldm: nn.Module | None
    controlled: ControlledDiffusion | None
    class_names: list[str]
    latent_shape: dict[str, list[int]]
    spacing: list[float]
    condition: str | None
    multiple: int


def load_system(
    device: torch.device | str,
    noise_scheduler: str,
    image_codec_path: str | None = None,
    label_codec_path: str | None = None,
    label_ldm_path: str | None = None,
    image_ldm_path: str | None = None,
    controlnet_path: str | None = None,
) -> System:
    """Load the networks of the given paths and check that they were trained on each other.

    Args:
        device: where they shall run.
        noise_scheduler: name of the process that will sample them, "rectified_flow" or "ddpm".
        image_codec_path, label_codec_path: `codec.pt` files.
        label_ldm_path, image_ldm_path, controlnet_path: `model.pt` files.

    Raises:
        UserError: naming the file that does not fit and the stage to run again.
    """
    codec_paths = {"image": image_codec_path, "label": label_codec_path}
    codec_paths = {kind: path for kind, path in codec_paths.items() if path}
    codecs = {kind: load_codec(path, kind).to(device) for kind, path in codec_paths.items()}
    hashes = {kind: sha256(path) for kind, path in codec_paths.items()}
    paths = {"label_ldm": label_ldm_path, "image_ldm": image_ldm_path, "controlnet": controlnet_path}
    networks, checkpoints = {}, {}
    for stage, path in paths.items():
        if path:
            network, checkpoints[stage] = load_network(path, stage)
            networks[stage] = network.to(device)
            check_checkpoint(path, stage, checkpoints[stage], hashes, noise_scheduler)
    controlled = None
    if "controlnet" in networks:
        controlled = ControlledDiffusion(networks["image_ldm"], networks["controlnet"], initialise=False).eval()
    first = next(iter(checkpoints.values()))
    levels = max(len(checkpoint["network"]["channels"]) for checkpoint in checkpoints.values())
    return System(
        codecs=codecs,
        label_ldm=networks.get("label_ldm"),
        image_ldm=networks.get("image_ldm"),
        controlled=controlled,
        class_names=first["class_names"],
        latent_shape=first["latent_shape"],
        spacing=first["spacing"],
        condition=checkpoints.get("controlnet", {}).get("condition"),
        multiple=max(codec.stride for codec in codecs.values()) * 2 ** (levels - 1),
    )


def check_checkpoint(path: str, stage: str, checkpoint: dict, hashes: dict[str, str], noise_scheduler: str) -> None:
    """Raise UserError where a model was trained on other codecs or by another process than it will be sampled with."""
    for kind, digest in hashes.items():
        if checkpoint["codecs"][kind] != digest:
            raise UserError(
                f"{path}: was trained on the latents of another {kind} codec ({checkpoint['codecs'][kind][:12]}, this "
                f"one is {digest[:12]}); run the stages 'latents' and {stage!r} again"
            )
    if checkpoint["noise_scheduler"] != noise_scheduler:
        raise UserError(
            f"{path}: was trained as {checkpoint['noise_scheduler']!r} but would be sampled as {noise_scheduler!r}; "
            "use the same noise_scheduler overlay for training and inference"
        )
