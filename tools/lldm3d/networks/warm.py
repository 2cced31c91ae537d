"""Training that begins from the weights of an earlier one."""

from pathlib import Path

import torch
from torch import nn

from lldm3d.errors import UserError
from lldm3d.files import load_checkpoint

WEIGHTS = ("model", "autoencoder")  # where model.pt and codec.pt hold them


def warm_start(network: nn.Module, path: str) -> None:
    """Load the weights of `model.pt` or `codec.pt`, of a network of the same architecture, into `network`.

    Raises:
        UserError: where the file is missing, unreadable, holds no weights, or those of another architecture.
    """
    mend = "give the absolute path of a model.pt or codec.pt of the same architecture, or null to begin afresh"
    if not Path(path).is_file():
        raise UserError(f"init_path: no file {path}; {mend}")
    checkpoint = load_checkpoint(path, made_by=Path(path).parent.name)
    weights = next((checkpoint[key] for key in WEIGHTS if key in checkpoint), None)
    if weights is None:
        raise UserError(f"init_path: {path} holds {sorted(checkpoint)[:5]}, none of {WEIGHTS}; {mend}")
    if difference := first_difference(weights, network.state_dict()):
        raise UserError(f"init_path: {path} has another architecture: {difference}; {mend}")
    network.load_state_dict(weights)


def first_difference(given: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> str | None:
    """The first tensor that only one of them has, or that has another shape."""
    for name in {**wanted, **given}:
        shapes = [list(state[name].shape) if name in state else "absent" for state in (given, wanted)]
        if shapes[0] != shapes[1]:
            return f"{name} is {shapes[0]} there and {shapes[1]} here"
    return None
