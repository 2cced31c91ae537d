"""`lldm3d convert`: weights of monai-generative or the Model Zoo's networks as a checkpoint that `init_path` takes.

MONAI's `load_old_state_dict` leaves what it does not find as it was initialised, without an error
(docs/reference/training.md says where). Here each tensor finds its place or the checkpoint is refused, and the outputs
of both networks are compared before anything is written.
"""

import importlib
import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
import yaml
from monai.networks import nets
from torch import nn

from lldm3d.bundle import TRAIN, bundle_path, load_configs
from lldm3d.codec.codec import TrilinearAutoencoder
from lldm3d.data.dataset import read_description
from lldm3d.errors import UserError, needs_package
from lldm3d.files import output_folder, read_yaml, save_checkpoint
from lldm3d.methods.folding import fold_inputs
from lldm3d.training.checkpoints import as_lists, first_difference

GENERATIVE = "generative.networks.nets"
TOLERANCE = 1e-5  # largest difference of an output
MAISI = {  # class: module, and the kind of network that it is
    "AutoencoderKlMaisi": ("autoencoderkl_maisi", "AutoencoderKlMaisi"),
    "DiffusionModelUNetMaisi": ("diffusion_model_unet_maisi", "DiffusionModelUNet"),
    "ControlNetMaisi": ("controlnet_maisi", "ControlNet"),
}
# how a network computes, not what: the comparison needs neither a GPU nor half precision
COMPUTING = {"use_flash_attention": False, "norm_float16": False, "num_splits": 1, "save_mem": False}
COMPUTING |= {"use_checkpointing": False, "use_checkpoint": False}
OURS = {"num_channels": "channels"}  # monai-generative's and MAISI's names of settings
LEFT_OUT = (*COMPUTING, "include_fc", "use_combined_linear", "num_class_embeds")  # of the settings that are written
# names there and here: self-attention, cross-attention, the convolution after an upsampling, MAISI's wrappers
NAMES = (
    (r"\.to_([qkv])\.", r".attn.to_\1."),
    (r"\.to_out\.0\.", ".out_proj."),
    (r"\.conv\.conv\.(\w+)$", r".postconv.conv.\1"),
    (r"\.conv\.conv\.conv\.", ".postconv.conv."),
    (r"\.conv\.conv\.", ".conv."),
)


@dataclass(frozen=True)
class Kind:
    """A kind of network that bundles have."""

    architecture: type[nn.Module]
    bundle: str
    file: str = "model.pt"
    weights: str = "model"  # where the file holds them
    config: str = TRAIN


KINDS = {
    "AutoencoderKL": Kind(nets.AutoencoderKL, "autoencoder", "codec.pt", "autoencoder"),
    "AutoencoderKlMaisi": Kind(TrilinearAutoencoder, "autoencoder", "codec.pt", "autoencoder"),
    "DiffusionModelUNet": Kind(nets.DiffusionModelUNet, "image_ldm"),
    "ControlNet": Kind(nets.ControlNet, "controlnet"),
    "VQVAE": Kind(nets.VQVAE, "baselines/ldm_vqvae", config="configs/train_autoencoder.yaml"),
}


def convert(
    checkpoint: str,
    config: str,
    output_dir: str,
    network: str | None = None,
    key: str | None = None,
    class_label: int | None = None,
    spacing: tuple[float, float, float] | None = None,
    overwrite: bool = False,
) -> None:
    """Turn weights of monai-generative, or of the Model Zoo's BraTS and MAISI networks, into a file for `init_path`.

    Nothing is written unless the outputs of the new network are those of the original one.

    Args:
        checkpoint: file of the weights.
        config: JSON or YAML file with the class (`_target_`) and the settings of the network, as a bundle's
            configs/inference.json; expressions in it are not run.
        output_dir: folder for model.pt, or codec.pt of an AutoencoderKL.
        network: name of the network in the config, as autoencoder_def; default: the only one there.
        key: name of the weights in the checkpoint, as unet_state_dict; default: the only ones there.
        class_label: of a network that takes one (MAISI: 1 for CT); from then on all it draws has it.
        spacing: mm, of a network that takes it; likewise.
        overwrite: replace files that this command has written.

    Raises:
        UserError: for a checkpoint of another architecture, or outputs that differ.
    """
    given = network_settings(Path(config), network)
    kind, original, settings = load_original(checkpoint, key, config, given)
    fixed = fixed_inputs(original, class_label, spacing)
    settings = {key: as_lists(value) for key, value in settings.items()}
    converted = kind.architecture(**settings)
    converted.load_state_dict(renamed(fold_inputs(original, fixed), converted.state_dict(), checkpoint))
    difference = largest_difference(kind, settings, original, converted, fixed)
    if not difference <= TOLERANCE:
        raise UserError(
            f"{checkpoint}: the outputs of the converted network differ by {difference:.2g}, nothing is written"
        )
    source = {
        "class": f"{type(original).__module__}.{type(original).__name__}",
        "class_label": class_label,
        "spacing": as_lists(spacing),
    }
    with output_folder(output_dir, overwrite, [checkpoint, config]) as folder:
        save_checkpoint(folder / kind.file, content_of(kind, converted, settings, source))
    path = Path(output_dir).resolve() / kind.file
    print(f"{path}: outputs differ from the original's by {difference:.2g} at most; for the section in a profile:")
    section = {"init_path": str(path), **section_for(kind, settings)}
    print(yaml.safe_dump(section, sort_keys=False, default_flow_style=None, width=120), end="")


def content_of(kind: Kind, network: nn.Module, settings: dict, source: dict) -> dict:
    """What the file holds: as that of a training of the bundle, with the network's class, and what it was made from."""
    found = {kind.weights: network.state_dict(), "network": settings, "architecture": kind.architecture.__name__}
    return {**found, "converted": source}


def network_settings(path: Path, name: str | None) -> dict:
    """The class and the plain settings of the network `name` in a config, or of the only one there."""
    content = read_description(path) if path.suffix == ".json" else read_yaml(path, "give the config of the network")
    there = {key: node for key, node in {**content, "": content}.items() if kind_name(node)}
    if name is None and len(there) != 1:
        found = f"has {', '.join(there)}; choose one with --network" if there else f"has none of {', '.join(KINDS)}"
        raise UserError(f"{path}: {found}")
    if name is not None and name not in there:
        raise UserError(f"--network {name}: {path} has {', '.join(there) or 'no network that can be converted'}")
    node = there[name if name is not None else next(iter(there))]
    return {key: without_references(path, value, content) for key, value in node.items()}


def kind_name(node: object) -> str | None:
    """The kind of network that a part of a config describes."""
    target = node.get("_target_") if isinstance(node, dict) else None
    name = target.rpartition(".")[2] if isinstance(target, str) else ""
    return name if name in KINDS else MAISI.get(name, (None, None))[1]


def without_references(path: Path, value: object, content: dict, depth: int = 9) -> object:
    """A value of a config with its references to others resolved; nothing in it is run."""
    if isinstance(value, list):
        return [without_references(path, item, content, depth) for item in value]
    if isinstance(value, str) and value.startswith("@") and value[1:] in content and depth:
        return without_references(path, content[value[1:]], content, depth - 1)
    if isinstance(value, str) and value[:1] in ("$", "@", "%"):
        raise UserError(f"{path}: {value!r} is an expression, which is not run; write the value itself there")
    return value


def load_original(checkpoint: str, key: str | None, config: str, given: dict) -> tuple[Kind, nn.Module, dict]:
    """As `build_original`, with the weights in it.

    The Model Zoo's BraTS configs name MONAI's classes since 1.1, and their weights are still monai-generative's.

    Raises UserError for weights of another architecture, or whose upsampling no network of MONAI repeats.
    """
    weights, faults = read_weights(checkpoint, key), []
    for candidate in (given, *as_generative(given)):
        kind, original, settings = build_original(config, candidate)
        fault = first_difference(original.state_dict(), weights)
        if not fault:
            break
        faults.append(fault)
    else:
        remedy = (
            "" if find_spec("generative") else "; weights of monai-generative need `pip install 'lldm3d[generative]'`"
        )
        raise UserError(
            f"{checkpoint}: is not the network of {config}: {faults[0]} in the config; correct one of them{remedy}"
        )
    if settings.get("use_convtranspose") and not type(original).__module__.startswith("monai.networks."):
        raise UserError(
            f"{config}: use_convtranspose: {candidate['_target_']} upsamples by kernels of 3 voxels and MONAI's "
            "AutoencoderKL by such of 2; no weights of the one are those of the other"
        )
    original.load_state_dict(weights)
    return kind, original, settings


def as_generative(given: dict) -> list[dict]:
    """The same network of monai-generative, for one of MONAI's own; none where that package is not installed."""
    target = given["_target_"]
    name = target.rpartition(".")[2]
    if name in MAISI or target.startswith("generative.") or not find_spec("generative"):
        return []
    taken = inspect.signature(getattr(needs_package(GENERATIVE, "generative"), name)).parameters
    theirs = {ours: name for name, ours in OURS.items()}
    kept = {theirs.get(key, key): value for key, value in given.items()}
    return [{"_target_": f"{GENERATIVE}.{name}", **{key: value for key, value in kept.items() if key in taken}}]


def build_original(config: str, given: dict) -> tuple[Kind, nn.Module, dict]:
    """The kind and the network that a config describes, and the settings of ours with the same outputs."""
    target, name = given["_target_"], given["_target_"].rpartition(".")[2]
    if target.startswith("generative."):
        module = needs_package(GENERATIVE, "generative")
    elif name in MAISI:
        module = importlib.import_module(f"monai.apps.generation.maisi.networks.{MAISI[name][0]}")
    else:
        module = nets
    architecture, kind = getattr(module, name), KINDS[kind_name(given)]
    parameters = inspect.signature(architecture).parameters
    settings = {name: item.default for name, item in parameters.items() if item.default is not item.empty}
    settings |= {key: value for key, value in given.items() if not key.startswith("_")}
    settings |= {key: value for key, value in COMPUTING.items() if key in parameters}
    try:
        network = architecture(**settings)
    except Exception as error:  # of settings that do not go together each network raises its own kind
        raise UserError(f"{config}: {target} cannot be built with these settings ({error})") from None
    wanted = inspect.signature(kind.architecture).parameters
    renamed = {OURS.get(key, key): value for key, value in settings.items() if key not in LEFT_OUT}
    return kind, network, {key: value for key, value in renamed.items() if key in wanted}


def read_weights(path: str, key: str | None) -> dict[str, torch.Tensor]:
    """The weights in a checkpoint, those of `key` or the only ones."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"--checkpoint {path}: there is no such file") from None
    except Exception as error:  # pickle, zip and torch each raise their own kinds
        cause = str(error).partition("\n")[0]
        raise UserError(f"{path}: is no file of plain tensors ({cause}); save the network's state_dict alone") from None
    content = content if isinstance(content, dict) else {}
    there = {name: item for name, item in {"": content, **content}.items() if holds_weights(item)}
    if key is not None and key not in there or key is None and len(there) != 1:
        asked = f"--key {key}: " if key else ""
        raise UserError(f"{asked}{path} holds {', '.join(there) or 'no weights'}; choose the weights with --key")
    weights = there[key] if key is not None else next(iter(there.values()))
    return {name.removeprefix("module."): tensor.float() for name, tensor in weights.items()}


def holds_weights(item: object) -> bool:
    return isinstance(item, dict) and bool(item) and all(isinstance(value, torch.Tensor) for value in item.values())


def fixed_inputs(
    original: nn.Module, class_label: int | None, spacing: Sequence[float] | None
) -> dict[str, torch.Tensor]:
    """What the original is called with besides what a bundle's networks take.

    Raises UserError for what is missing, or not taken.
    """
    classes = getattr(original, "num_class_embeds", None)
    takes_spacing = getattr(original, "include_spacing_input", False)
    for name in ("top_region_index", "bottom_region_index"):
        if getattr(original, f"include_{name}_input", False):
            raise UserError(f"the network takes {name}, which changes along a scan and no bundle's network takes")
    for option, value, taken in (("class_label", class_label, classes), ("spacing", spacing, takes_spacing)):
        if bool(taken) != (value is not None):
            raise UserError(f"--{option}: the network takes {'one; give it' if taken else 'none; leave it out'}")
    if classes and not 0 <= class_label < classes:
        raise UserError(f"--class_label {class_label}: the network has the classes 0 to {classes - 1}")
    found = {"class_labels": torch.tensor([class_label])} if classes else {}
    return found | ({"spacing_tensor": 100 * torch.tensor([spacing])} if takes_spacing else {})  # as MAISI scales it


def renamed(weights: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], path: str) -> dict[str, torch.Tensor]:
    """The weights under MONAI's names. monai-generative's self-attention has an output projection that it never uses.

    Raises UserError for a tensor that finds no place, or a place that gets none.
    """
    found = {}
    for name, tensor in split_projections(weights).items():
        if ".proj_attn." in name:
            continue
        names = [name, *(re.sub(pattern, ours, name) for pattern, ours in NAMES)]
        place = next((n for n in names if n in wanted and n not in found and wanted[n].shape == tensor.shape), None)
        if place is None:
            raise UserError(f"{path}: {name} {list(tensor.shape)} has no place in MONAI's network")
        found[place] = tensor
    for name in wanted.keys() - found.keys():
        if not name.endswith((".attn.out_proj.weight", ".attn.out_proj.bias")):
            raise UserError(f"{path}: holds nothing for {name} of MONAI's network")
        shape = wanted[name].shape
        found[name] = torch.eye(shape[0]) if len(shape) == 2 else torch.zeros(shape)
    return found


def split_projections(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Query, key and value of self-attention each by itself, where one layer has all (`use_combined_linear`)."""
    found = {}
    for name, tensor in weights.items():
        parts = zip("qkv", tensor.chunk(3), strict=True) if ".attn.qkv." in name else [("", tensor)]
        found |= {name.replace(".qkv.", f".to_{part}."): item for part, item in parts}
    return found


@torch.no_grad()
def largest_difference(
    kind: Kind, settings: dict, original: nn.Module, converted: nn.Module, fixed: dict[str, torch.Tensor]
) -> float:
    """Of all outputs for the same random inputs, in double precision where no network casts to single."""
    casts = type(original).__name__ in ("VQVAE", "AutoencoderKlMaisi") or settings.get("upcast_attention")
    precision = torch.float32 if casts else torch.float64
    theirs = outputs(kind, settings, original.eval().to(precision), fixed, precision)
    ours = outputs(kind, settings, converted.eval().to(precision), {}, precision)
    converted.float()
    return max(float((a - b).abs().max()) for a, b in zip(theirs, ours, strict=True))


def outputs(
    kind: Kind, settings: dict, network: nn.Module, fixed: dict[str, torch.Tensor], precision: torch.dtype
) -> list[torch.Tensor]:
    """What a network gives for small random inputs, the same for each network of these settings."""
    generator, dims = torch.Generator().manual_seed(0), settings["spatial_dims"]
    length = 2 ** len(settings["channels"])

    def noise(channels: int, size: int = length) -> torch.Tensor:
        return torch.randn(1, channels, *[size] * dims, generator=generator).to(precision)

    x = noise(settings["in_channels"])
    if issubclass(kind.architecture, nets.AutoencoderKL):
        mean, sigma = network.encode(x)
        return [mean, sigma, network.decode(mean)]
    if kind.architecture is nets.VQVAE:
        return [network.encode(x), network(x)[0]]
    inputs = {"x": x, "timesteps": torch.tensor([321.0]), **fixed}
    inputs |= {"spacing_tensor": fixed["spacing_tensor"].to(precision)} if "spacing_tensor" in fixed else {}
    if settings["with_conditioning"]:
        inputs["context"] = torch.randn(1, 3, settings["cross_attention_dim"], generator=generator).to(precision)
    if kind.architecture is nets.DiffusionModelUNet:
        return [network(**inputs)]
    halvings = len(settings["conditioning_embedding_num_channels"]) - 1
    condition = noise(settings["conditioning_embedding_in_channels"], length * 2**halvings)
    down, middle = network(**inputs, controlnet_cond=condition)
    return [*down, middle]


def section_for(kind: Kind, settings: dict) -> dict:
    """The ids of the bundle's config that give its network these settings, where they differ."""
    content = load_configs(bundle_path(kind.bundle), [kind.config])
    found = {}
    if kind.architecture is TrilinearAutoencoder:
        found["architecture#_target_"] = f"{TrilinearAutoencoder.__module__}.{TrilinearAutoencoder.__name__}"
    for name, value in settings.items():
        there = content["architecture"].get(name, inspect.signature(kind.architecture).parameters[name].default)
        if isinstance(there, str) and there.startswith("@"):
            name, there = there[1:], content.get(there[1:])
        else:
            name = f"architecture#{name}"
        if as_lists(there) != value:
            found[name] = value
    return found
