"""The segmentation network trained on real data (regime R): its predictions, and its features."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from monai.bundle import ConfigParser
from torch import nn

from lldm3d.bundle import bundle_path
from lldm3d.errors import UserError
from lldm3d.files import load_checkpoint, sha256


@dataclass
class Segmenter:
    """A trained network that maps an image [B, 1, X, Y, Z] in [0, 1] to logits [B, K, X, Y, Z]."""

    name: str  # of its bundle
    weights: str  # SHA-256 of model.pt
    class_names: tuple[str, ...]
    network: nn.Module
    inferer: object  # the bundle's own, which gives the network windows of the size it was trained on
    device: torch.device
    layer: str = ""  # found with the first image

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features [D] and predicted label [X, Y, Z] uint8 of one image [X, Y, Z]; float32 throughout.

        The features are the mean of each channel of the deepest layer over all its positions. (On 120 hippocampus
        scans their FID told a blur of 2 voxels from sampling noise better than with standard deviations beside them.)
        """
        volume = torch.as_tensor(image, dtype=torch.float32, device=self.device)[None, None]
        if not self.layer:
            self.layer = deepest_layer(self.network, lambda: self.inferer(volume, self.network))
        kept: list[torch.Tensor] = []
        handle = self.network.get_submodule(self.layer).register_forward_hook(
            lambda module, inputs, output: kept.append(output.flatten(2).transpose(0, 1).flatten(1).double().cpu())
        )
        try:
            logits = self.inferer(volume, self.network)
        finally:
            handle.remove()
        activations = torch.cat(kept, 1)  # [C, windows * positions]
        return activations.mean(1).numpy(), logits[0].argmax(0).to(torch.uint8).cpu().numpy()


def load_segmenter(stage_dir: str | Path, class_names: tuple[str, ...]) -> Segmenter:
    """Load the network of a segmentation stage folder: `model.pt` and `overrides.yaml` (or the path of its `model.pt`).

    Raises:
        UserError: where a file is missing, or the network was trained for other classes than `class_names`.
    """
    folder = Path(stage_dir)
    folder = folder.parent if folder.is_file() else folder
    overrides = read_overrides(folder / "overrides.yaml")
    if tuple(overrides["class_names"]) != tuple(class_names):
        raise UserError(
            f"{folder}: was trained for the classes {list(overrides['class_names'])}, but the data set has "
            f"{list(class_names)}; give a segmentation network trained on this data set"
        )
    root = bundle_root(folder, overrides)
    config = root / "configs" / "inference.yaml"
    if not config.is_file():
        raise UserError(f"{config}: no such file; run the segmentation stage {folder} again with a bundle that has it")
    parser = ConfigParser(ConfigParser.load_config_file(str(config)))
    parser.update({key: value for key, value in overrides.items() if key.split("#")[0] in parser.config})
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = parser.get_parsed_content("network_def")
    load_weights(network, folder / "model.pt")
    inferer = parser.get_parsed_content("inferer")
    return Segmenter(
        root.resolve().name,
        sha256(folder / "model.pt"),
        tuple(class_names),
        network.to(device).eval(),
        inferer,
        device,
    )


def read_overrides(path: Path) -> dict:
    """The overrides of a segmentation stage. Raises UserError where they or an entry are missing."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the folder of a trained segmentation, segment/<network>/R/seed_0")
    content = yaml.safe_load(path.read_text()) or {}
    if "class_names" not in content:
        raise UserError(f"{path}: has no 'class_names'; run the segmentation stage again")
    return content


def bundle_root(folder: Path, overrides: dict) -> Path:
    """The bundle of a stage: `bundle_root` of its overrides, or <network> of segment/<network>/<task>/...."""
    if "bundle_root" in overrides:
        return Path(overrides["bundle_root"])
    return bundle_path(folder.resolve().parents[2].name)


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


def deepest_layer(network: nn.Module, forward) -> str:
    """Name of the bottleneck: found by watching one forward pass, so it holds for any encoder-decoder network.

    Of all modules whose output [B, C, x, y, z] has the coarsest grid, take the widest that single layers reach (a
    module that only joins several, such as a skip connection, is wider), and of those the last to finish: for a
    residual block that is the block itself, after its sum.
    """
    seen: list[tuple[str, int, int, bool]] = []
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
    coarsest = min(positions for _, positions, _, _ in seen)
    width = max(channels for _, positions, channels, leaf in seen if leaf and positions == coarsest)
    return [name for name, positions, channels, _ in seen if (positions, channels) == (coarsest, width)][-1]


def watch(seen: list, name: str, module: nn.Module, output: object) -> None:
    """Note a module's (name, positions, channels, has no children) when its output is a volume."""
    if isinstance(output, torch.Tensor) and output.ndim == 5:
        seen.append((name, output[0, 0].numel(), output.shape[1], not any(module.children())))
