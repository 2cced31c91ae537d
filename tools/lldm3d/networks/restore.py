"""A trained network in one file: weights, architecture, and what it was trained on."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from monai.networks.nets import ControlNet, DiffusionModelUNet
from torch import nn

from lldm3d.data.dataset import load_schema
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
    learnt_from = {key: latents[key] for key in ("class_names", "codecs", "latent_shape", "roi_size", "spacing")}
    save_checkpoint(path, {**whole_network(network, architecture), **learnt_from, **further})


def whole_network(network: nn.Module, architecture: partial) -> dict:
    """Weights and arguments: what builds the network again."""
    arguments = {name: plain(value) for name, value in architecture.keywords.items()}
    return {"model": network.state_dict(), "network": arguments}


def save_model(path: str, network: nn.Module, architecture: partial, dataset_dir: str, **further: object) -> None:
    """As `save_network`, of a network that is trained on volumes, or reads the latents of its own autoencoder.

    Args:
        path: file to write.
        network: what is to be sampled.
        architecture: `functools.partial` of the network's class; a bundle's `architecture`.
        dataset_dir: the prepared data set that it was trained on.
        further: plain entries that sampling needs.
    """
    schema = load_schema(dataset_dir)
    learnt_from = {key: list(getattr(schema, key)) for key in ("class_names", "roi_size", "spacing")}
    save_checkpoint(path, {**whole_network(network, architecture), **learnt_from, **further})


def load_model(path: str, architecture: Callable[..., nn.Module], made_by: str) -> tuple[nn.Module, dict]:
    """The network that `save_model` wrote, in evaluation mode, and its checkpoint.

    Args:
        path: file to read.
        architecture: the network's class; its arguments are those in the file.
        made_by: the training that the error message names.

    Raises:
        UserError: where the file is missing, unreadable or of another kind.
    """
    checkpoint = load_checkpoint(path, made_by)
    return restored(path, architecture, checkpoint, made_by), checkpoint


def load_network(path: str, stage: str) -> tuple[nn.Module, dict]:
    """The network that `stage` (label_ldm, image_ldm or controlnet) trained, in evaluation mode, and its checkpoint.

    Raises:
        UserError: where the file is missing, unreadable or of another kind.
    """
    return load_model(path, ARCHITECTURES[stage], stage)


def restored(path: str, architecture: Callable[..., nn.Module], checkpoint: dict, made_by: str) -> nn.Module:
    try:
        network = architecture(**checkpoint["network"])
        network.load_state_dict(checkpoint["model"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{path}: does not hold a network of the stage {made_by!r} ({error})") from None
    return network.eval()
