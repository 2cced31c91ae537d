"""Configs, metadata and checkpoints of a packed bundle."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from monai.bundle import ConfigParser

from lldm3d.bundle import defines
from lldm3d.errors import UserError
from lldm3d.files import load_checkpoint, read_json, save_checkpoint, write_json

DEMO = re.compile(r"(?:\.\./)+work/demo(\S*)( #.*)?")  # where a checkout finds its data; a zip has them beside it
TWINS = ("train", "inference")  # `monai.bundle.load` reads these two, as JSON alone


def write_configs(
    folder: Path, settings: dict, checkpoints: dict[str, str], network: dict, overlays: Sequence[str] = ()
) -> None:
    """Change the configs of the bundle copied to `folder`.

    Args:
        settings: id (`a#b` for nested ones): value. Each config takes those that it defines.
        checkpoints: id of a path in inference.yaml: the file's name in `models/`.
        network: the arguments of `network_def` that the checkpoint carries, if it does.
        overlays: configs that are laid over inference.yaml, so that it alone draws.
    """
    inference = folder / "configs/inference.yaml"
    for overlay in overlays:
        inference.write_text(with_defaults(inference.read_text(), yaml.safe_load((folder / overlay).read_text())))
    paths = {key: f"$@bundle_root + '/models/{name}'" for key, name in checkpoints.items()}
    for path in sorted((folder / "configs").glob("*.yaml")):
        text = DEMO.sub(r".\1 # your data, see docs/README.md", path.read_text())
        content, wanted = yaml.safe_load(text), settings if path.stem in TWINS else {}
        wanted = wanted if path.stem == "train" else {**wanted, **paths}
        path.write_text(with_defaults(text, {key: value for key, value in wanted.items() if defines(content, key)}))
    parser, ids = read_config(inference), {f"network_def#{name}": value for name, value in network.items()}
    others = {k: value for k, value in ids.items() if k not in parser or parser.get_parsed_content(k) != value}
    inference.write_text(with_defaults(inference.read_text(), others))
    for name in TWINS:
        parser = read_config(folder / f"configs/{name}.yaml")
        content = {key: value for key, value in parser.get().items() if key != "_meta_"}
        ConfigParser.export_config_file(content, str(folder / f"configs/{name}.json"), fmt="json", indent=4)


def read_config(path: Path | Sequence[Path]) -> ConfigParser:
    """MONAI's parser of a config file, or of some that are laid over each other."""
    parser = ConfigParser()
    parser.read_config(path)
    return parser


def with_defaults(text: str, settings: dict) -> str:
    """The YAML text with other values; comments stay. New and nested ids come last; MONAI lays the latter over what is
    above."""
    for key, value in settings.items():
        value = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False)
        line = f"{key}: {value.strip().removesuffix('...').strip()}"  # dots end a scalar
        if "#" in key or "::" in key:
            text = f"{text.rstrip()}\n{line}\n"
        else:
            old = re.compile(rf"^{re.escape(key)}:.*?(?P<comment> +#.*)?$(?:\n[ -].*)*", re.MULTILINE)
            text, found = old.subn(lambda match, line=line: line + (match["comment"] or ""), text)
            text = text if found else f"{text.rstrip()}\n{line}\n"
    return text


def write_metadata(folder: Path, settings: dict, default_classes: list[str], stride: int | None) -> None:
    """Let the tensors of metadata.json have the classes and latent channels of `settings`.

    Args:
        folder: the bundle.
        settings: `class_names`, `latent_channels`; what is missing stays as it is.
        default_classes: the classes of the bundle's own configs.
        stride: voxels for each latent voxel; None where the bundle has no latents.
    """
    path = folder / "configs/metadata.json"
    content = read_json(path)
    formats = [part for key, part in content.items() if key.endswith("_data_format")]
    for tensor in [item for part in formats for side in part.values() for item in side.values()]:
        names = list(tensor["channel_def"].values())
        if names == default_classes:
            names = settings.get("class_names", names)
        elif tensor["format"] == "latent":
            names = [f"latent {number}" for number in range(settings.get("latent_channels", len(names)))]
            tensor["spatial_shape"] = [f"{16 // stride}*n"] * 3 if stride else tensor["spatial_shape"]
        tensor["num_channels"] = len(names)
        tensor["channel_def"] = {str(number): name for number, name in enumerate(names)}
    write_json(path, content)


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
    content = load_checkpoint(folder / "models/model.pt", made_by=folder.name)
    try:
        network = read_config(folder / "configs/inference.json").get_parsed_content("network_def")
        network.load_state_dict(content.get("model", content))
    except RuntimeError as error:  # of the network: MONAI's, where it has not the arguments that the weights tell
        fault = str(error).splitlines()[1 if "state_dict" in str(error) else 0].strip()
        raise UserError(
            f"{source}: does not fit the network_def of {folder.name} ({fault[:200]}); put the settings that it was "
            f"trained with into {source.with_name('overrides.yaml')}"
        ) from None
