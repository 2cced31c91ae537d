"""The checkpoints in a packed bundle."""

import shutil
from pathlib import Path

import torch
from monai.bundle import ConfigParser

from lldm3d.errors import UserError
from lldm3d.files import load_checkpoint, save_checkpoint


def write_weights(folder: Path, checkpoints: dict[str, Path]) -> dict[str, str]:
    """Copy the checkpoints into `models/`; returns id: file name. The network's own is `model.pt`."""
    names = {key: "model.pt" if key == "ckpt_path" else f"{key.removesuffix('_path')}.pt" for key in checkpoints}
    (folder / "models").mkdir()
    for key, path in checkpoints.items():
        if key == "ckpt_path":
            save_checkpoint(folder / "models/model.pt", readable(load_checkpoint(path, made_by=path.parent.name)))
        else:
            shutil.copyfile(path, folder / "models" / names[key])  # byte for byte: others hold its hash
    return names


def readable(checkpoint: dict) -> dict:
    """The checkpoint with its weights where stock MONAI looks for them as well.

    `monai.bundle.load` takes the weights from the top level of the file and, where they lie deeper, returns a random
    network without an error; others read the entry `model`. Tensors that are the same are stored once.
    """
    if all(map(torch.is_tensor, checkpoint.values())):
        return checkpoint
    weights = next(v for v in checkpoint.values() if isinstance(v, dict) and all(map(torch.is_tensor, v.values())))
    return {**checkpoint, **weights, "model": weights}


def latent_stride(checkpoint: dict) -> int | None:
    """Voxels for each latent voxel along an axis, as a codec or a diffusion model tells; None for other networks."""
    if "latent_shape" in checkpoint:
        return checkpoint["roi_size"][0] // next(iter(checkpoint["latent_shape"].values()))[1]
    return 2 ** (len(checkpoint["network"]["channels"]) - 1) if "latent_mean" in checkpoint else None


def check_weights(folder: Path, source: Path) -> None:
    """Raise UserError where the weights do not fit the network that the packed inference builds."""
    parser = ConfigParser()
    parser.read_config(folder / "configs/inference.json")
    content = load_checkpoint(folder / "models/model.pt", made_by=folder.name)
    try:
        parser.get_parsed_content("network_def").load_state_dict(content.get("model", content))
    except RuntimeError as error:
        fault = str(error).splitlines()[1].strip()
        raise UserError(
            f"{source}: does not fit the network_def of {folder.name} ({fault[:200]}); put the settings that it was "
            f"trained with into {source.with_name('overrides.yaml')}"
        ) from None
