"""A trained network in one file: weights, architecture, and what it was trained on."""

from functools import partial
from pathlib import Path

from monai.networks.nets import ControlNet, DiffusionModelUNet
from torch import nn

from lldm3d.errors import UserError
from lldm3d.files import load_checkpoint, read_json, save_checkpoint

ARCHITECTURES = {"label_ldm": DiffusionModelUNet, "image_ldm": DiffusionModelUNet, "controlnet": ControlNet}


def plain(value: object) -> object:
    """Tuples and lists as lists, so that a checkpoint loads with `weights_only=True`."""
    return [plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def save_network(path: str, network: nn.Module, architecture: partial, dataset_dir: str, **further: object) -> None:
    """Save weights, the arguments of `architecture`, and what `latents.json` says: classes, codecs' hashes, sizes.

    Args:
        path: `model.pt` to write.
        network: the network (its EMA).
        architecture: `functools.partial` of the network's class; a bundle's `architecture`.
        dataset_dir: the latents folder that it was trained on.
        further: plain entries that sampling needs: `noise_scheduler`, the ControlNet's `condition`.
    """
    latents = read_json(Path(dataset_dir) / "latents.json")
    arguments = {name: plain(value) for name, value in architecture.keywords.items()}
    content = {
        "model": network.state_dict(),
        "network": arguments,
        "class_names": latents["class_names"],
        "codecs": latents["codecs"],
        "latent_shape": latents["latent_shape"],
        "roi_size": latents["roi_size"],
        "spacing": latents["spacing"],
    }
    save_checkpoint(path, {**content, **further})


def load_network(path: str, stage: str) -> tuple[nn.Module, dict]:
    """The network that `stage` (label_ldm, image_ldm or controlnet) trained, in evaluation mode, and its checkpoint.

    Raises:
        UserError: where the file is missing, unreadable or of another kind.
    """
    checkpoint = load_checkpoint(path, made_by=stage)
    try:
        network = ARCHITECTURES[stage](**checkpoint["network"])
        network.load_state_dict(checkpoint["model"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{path}: does not hold a network of the stage {stage!r} ({error})") from None
    return network.eval(), checkpoint
