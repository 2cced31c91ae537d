"""Feature spaces, and the segmentation network (regime R) whose predictions and features the metrics use."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import yaml
from monai.bundle import ConfigParser
from torch import nn

from lldm3d.bundle import bundle_path, read_literal
from lldm3d.errors import UserError
from lldm3d.files import load_checkpoint, sha256
from lldm3d.processes import device

CONTENT, TEXTURE = "content", "texture"  # of the segmentation network


@dataclass(frozen=True)
class FeatureSpace:
    """A space of features: [D] of an image, or [S, D] of its slices; and what a figure in it carries with it."""

    name: str
    network: str
    weights: str | None  # SHA-256; None for features that nothing was trained for
    neighbours: bool = False  # whether copies and the measures of neighbourhoods are looked for in it
    scaled: bool = False  # whether features count in standard deviations from the mean of the real training cases

    @property
    def identity(self) -> dict[str, str | None]:
        """What rows of the table say of it."""
        variant = None if self.name == CONTENT else self.name
        return {"variant": variant, "network": self.network, "weights": self.weights}


@dataclass(frozen=True)
class Layers:
    """The layers of an encoder-decoder network that its features come from."""

    texture: str  # the finest level of the encoder
    content: str  # the deepest


@dataclass(frozen=True)
class Segmenter:
    """A trained network that maps an image [B, 1, X, Y, Z] in [0, 1] to logits [B, K, X, Y, Z]."""

    name: str  # of its bundle
    weights: str  # SHA-256 of model.pt
    network: nn.Module
    inferer: Callable  # the bundle's own, which gives the network windows of the size it was trained on
    device: torch.device
    layers: Layers

    @property
    def spaces(self) -> list[FeatureSpace]:
        layers = {CONTENT: self.layers.content, TEXTURE: self.layers.texture}
        return [
            FeatureSpace(name, f"{self.name}:{layer}", self.weights, neighbours=name == CONTENT)
            for name, layer in layers.items()
        ]

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Features of each space [D] and predicted label [X, Y, Z] uint8 of one image [X, Y, Z]; float32 throughout.

        Content is the mean of each channel of the deepest layer over all its positions. (On 120 hippocampus scans its
        FID told a blur of 2 voxels from sampling noise better than with standard deviations beside it.) It hardly sees
        how sharp an image is: texture, the standard deviation of each channel of the first level, does. (On 40 scans
        blurred by half a voxel the FID of content fell by 4 %, that of texture rose by half.)
        """
        volume = torch.as_tensor(image, dtype=torch.float32, device=self.device)[None, None]
        kept: dict[str, list[torch.Tensor]] = {CONTENT: [], TEXTURE: []}
        handles = [
            self.network.get_submodule(layer).register_forward_hook(
                lambda module, inputs, output, space=space: kept[space].append(output.transpose(0, 1).flatten(1))
            )
            for space, layer in ((CONTENT, self.layers.content), (TEXTURE, self.layers.texture))
        ]
        try:
            logits = self.inferer(volume, self.network)
        finally:
            for handle in handles:
                handle.remove()
        activations = {space: torch.cat(windows, 1).double() for space, windows in kept.items()}  # [C, positions]
        features = {CONTENT: activations[CONTENT].mean(1), TEXTURE: activations[TEXTURE].std(1)}
        pred = logits[0].argmax(0).to(torch.uint8).cpu().numpy()
        return {space: values.cpu().numpy() for space, values in features.items()}, pred


def load_segmenter(stage_dir: str | Path, class_names: tuple[str, ...]) -> Segmenter:
    """Load the network of a segmentation stage folder: `model.pt` and `overrides.yaml` (or the path of its `model.pt`).

    Raises:
        UserError: where a file is missing, or the network was trained for other classes than `class_names`.
    """
    folder = Path(stage_dir)
    folder = folder.parent if folder.is_file() else folder
    overrides = read_overrides(folder / "overrides.yaml")
    trained = list(read_literal(overrides["class_names"]))
    if trained != list(class_names):
        raise UserError(
            f"{folder}: was trained for the classes {trained}, but the data set has "
            f"{list(class_names)}; give a segmentation network trained on this data set"
        )
    # else the bundle is <network> of segment/<until>/<network>/<task>/<regime>/<pairs>/seed_<k>
    root = Path(read_literal(overrides.get("bundle_root")) or bundle_path(folder.resolve().parents[3].name))
    config = root / "configs" / "inference.yaml"
    if not config.is_file():
        raise UserError(f"{config}: no such file; run the segmentation stage {folder} again with a bundle that has it")
    parser = ConfigParser(ConfigParser.load_config_file(str(config)))
    parser.update({key: value for key, value in overrides.items() if key.split("#")[0] in parser.config})
    network = parser.get_parsed_content("network_def")
    load_weights(network, folder / "model.pt")
    network = network.to(device()).eval()
    inferer = parser.get_parsed_content("inferer")
    volume = torch.zeros(1, 1, *parser.get_parsed_content("roi_size"), device=device())
    layers = find_layers(network, lambda: inferer(volume, network))
    return Segmenter(root.resolve().name, sha256(folder / "model.pt"), network, inferer, device(), layers)


def read_overrides(path: Path) -> dict:
    """The overrides of a segmentation stage. Raises UserError where they or an entry are missing."""
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; give the folder of a segmentation, segment/steps/<network>/multi/R/real/seed_0"
        )
    content = yaml.safe_load(path.read_text()) or {}
    if "class_names" not in content:
        raise UserError(f"{path}: has no 'class_names'; run the segmentation stage again")
    return content


def load_weights(network: nn.Module, path: Path) -> None:
    """Load a checkpoint: a state dict, or one under the key `model` or `network` (MONAI's CheckpointSaver)."""
    content = load_checkpoint(path, "segment")
    for key in ("model", "network"):
        if isinstance(content.get(key), dict):
            content = content[key]
    try:
        network.load_state_dict(content)
    except RuntimeError as error:
        raise UserError(f"{path}: does not fit its overrides.yaml ({error}); run the segmentation again") from None


@torch.no_grad()
def find_layers(network: nn.Module, forward: Callable[[], object]) -> Layers:
    """Find the first and the deepest level by watching one forward pass, so for any encoder-decoder network.

    Of all modules whose output [B, C, x, y, z] has the coarsest grid, take the widest that single layers reach (a
    module that only joins several, such as a skip connection, is wider), and of those the last to finish: for a
    residual block that is the block itself, after its sum. The first level is found in the same way among the modules
    with the finest grid that finish before the deepest one.
    """
    seen: list[Seen] = []
    handles = [
        module.register_forward_hook(lambda module, inputs, output, name=name: watch(seen, name, module, output))
        for name, module in network.named_modules()
        if name
    ]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    deepest = widest_last(seen, min(item.positions for item in seen))
    encoder = seen[: seen.index(deepest)] or seen
    return Layers(widest_last(encoder, max(item.positions for item in encoder)).name, deepest.name)


class Seen(NamedTuple):
    """What a forward pass shows of a module."""

    name: str
    positions: int
    channels: int
    single: bool  # without children


def widest_last(seen: list[Seen], positions: int) -> Seen:
    """Of the modules with that many positions, the last of the widest that single layers reach."""
    width = max(item.channels for item in seen if item.single and item.positions == positions)
    return [item for item in seen if (item.positions, item.channels) == (positions, width)][-1]


def watch(seen: list[Seen], name: str, module: nn.Module, output: object) -> None:
    """Note a module when its output is a volume."""
    if isinstance(output, torch.Tensor) and output.ndim == 5:
        seen.append(Seen(name, output[0, 0].numel(), output.shape[1], not any(module.children())))
