"""A trained network in one file, restored and checked, and trainings that begin from one."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from lldm3d.data.dataset import load_schema
from lldm3d.errors import UserError
from lldm3d.files import load_checkpoint, read_json, save_checkpoint, sha256


def as_lists(value: object) -> object:
    """Tuples and lists as lists, so that a checkpoint loads with `weights_only=True`."""
    return [as_lists(item) for item in value] if isinstance(value, (tuple, list)) else value


def save_network(path: str, network: nn.Module, architecture: partial, dataset_dir: str, **further: object) -> None:
    """Save weights, the arguments of `architecture`, and what `latents.json` says: classes, codecs' hashes, sizes.

    Args:
        path: `model.pt` to write.
        network: the network (its EMA).
        architecture: `functools.partial` of the network's class; a bundle's `architecture`.
        dataset_dir: the latents folder that it was trained on.
        further: plain entries that sampling needs: `noise_scheduler`, `condition`, `gains` of the images.
    """
    latents = read_json(Path(dataset_dir) / "latents.json")
    learnt_from = {key: latents[key] for key in ("class_names", "codecs", "latent_shape", "roi_size", "spacing")}
    save_checkpoint(path, {**network_content(network, architecture), **learnt_from, **further})


def network_content(network: nn.Module, architecture: partial) -> dict:
    """Weights and arguments: what builds the network again."""
    arguments = {name: as_lists(value) for name, value in architecture.keywords.items()}
    return {"model": network.state_dict(), "network": arguments}


def save_model(path: str, network: nn.Module, architecture: partial, dataset_dir: str, **further: object) -> None:
    """As `save_network`, of a network that is trained on volumes, or reads the latents of its own autoencoder.

    `dataset_dir` is the prepared data set that it was trained on.
    """
    schema = load_schema(dataset_dir)
    learnt_from = {key: list(getattr(schema, key)) for key in ("class_names", "roi_size", "spacing")}
    save_checkpoint(path, {**network_content(network, architecture), **learnt_from, **further})


def load_model(path: str, architecture: Callable[..., nn.Module], made_by: str) -> tuple[nn.Module, dict]:
    """The network that `save_model` wrote, in evaluation mode, and its checkpoint.

    `architecture` is the network's class; its arguments are those in the file.

    Raises UserError, which names the training `made_by`, where the file is missing, unreadable or of another kind.
    """
    checkpoint = load_checkpoint(path, made_by)
    try:
        network = architecture(**checkpoint["network"])
        network.load_state_dict(checkpoint["model"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{path}: does not hold a network of the stage {made_by!r} ({error})") from None
    return network.eval(), checkpoint


WEIGHTS = ("model", "autoencoder")  # where model.pt and codec.pt hold them


def initialise_from(network: nn.Module, path: str) -> None:
    """Load the weights of `model.pt` or `codec.pt`, of a network of the same architecture, into `network`.

    A file of weights alone, as MONAI's CheckpointSaver writes them, will do as well. Raises UserError where the file is
    missing, unreadable, holds no weights, or those of another architecture.
    """
    remedy = "give the absolute path of a model.pt or codec.pt of the same architecture, or null to begin afresh"
    if not Path(path).is_file():
        raise UserError(f"init_path: no file {path}; {remedy}")
    checkpoint = load_checkpoint(path, made_by=Path(path).parent.name)
    bare = checkpoint if all(isinstance(value, torch.Tensor) for value in checkpoint.values()) else None
    weights = next((checkpoint[key] for key in WEIGHTS if key in checkpoint), bare)
    if weights is None:
        raise UserError(f"init_path: {path} holds {sorted(checkpoint)[:5]}, none of {WEIGHTS}; {remedy}")
    there, here = checkpoint.get("architecture"), type(network).__name__
    if there not in (None, *(kind.__name__ for kind in type(network).mro())):  # alike in names and shapes, perhaps
        raise UserError(f"init_path: {path} is of a {there}, and this network is a {here}; {remedy}")
    if fault := first_difference(network.state_dict(), weights):
        raise UserError(f"init_path: {path} has another architecture: {fault} here; {remedy}")
    network.load_state_dict(weights)


def first_difference(wanted: dict[str, torch.Tensor], weights: dict[str, torch.Tensor]) -> str | None:
    """The first tensor that is not in both, or of another size there, in words; None where all fit."""
    for name in {**wanted, **weights}:
        there, here = (list(state[name].shape) if name in state else "absent" for state in (weights, wanted))
        if there != here:
            return f"{name} is {there} there and {here}"
    return None


class Fingerprint:
    """The autoencoder's file by its hash: in the training's state, in the trained model, and compared when it draws.

    An object of `TrainingState`, so that a training does not go on with the latents of another autoencoder.

    Args:
        autoencoder_path: `model.pt` of the autoencoder; it is read at once.

    Raises:
        UserError: where there is no such file.
    """

    def __init__(self, autoencoder_path: str) -> None:
        self.path = autoencoder_path
        try:
            self.sha256 = sha256(autoencoder_path)
        except OSError as error:
            raise UserError(
                f"autoencoder_path {autoencoder_path}: cannot be read ({error.strerror}); train the autoencoder first"
            ) from None

    def state_dict(self) -> dict[str, str]:
        return {"autoencoder": self.sha256}

    def load_state_dict(self, state: dict[str, str]) -> None:
        if state != self.state_dict():
            raise ValueError(f"it learnt the latents of another autoencoder than {self.path}")

    def checked(self, checkpoint: dict, path: str) -> dict:
        """The checkpoint of `path` itself. Raises UserError where it was trained on another autoencoder, or none."""
        found = checkpoint.get("autoencoder")
        if found != self.sha256:
            other = f"another autoencoder ({found[:12]})" if found else "an autoencoder that it does not name"
            raise UserError(
                f"{path}: was trained on the latents of {other}, but {self.path} is {self.sha256[:12]}; delete the "
                "diffusion's folder and train it again, or give the autoencoder_path that belongs to it"
            )
        return checkpoint
