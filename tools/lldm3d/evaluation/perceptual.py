"""LPIPS of two images, slice by slice, by weights that the user gives (Zhang et al. 2018, arXiv:1801.03924).

torchmetrics and the package `lpips` have the formula, and both need torchvision for the trunk, whose wheels do not load
beside a CPU build of torch.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from lldm3d.errors import UserError
from lldm3d.files import load_checkpoint, sha256
from lldm3d.processes import device

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of each channel in [-1, 1], as version 0.1 has them
SLICES_AT_ONCE = 8  # of 160x160 voxels VGG's first layers take 0.4 GB
TRUNK, HEADS = "alexnet-owt-7be5be79.pth or vgg16-397923af.pth of torchvision", "alex.pth or vgg.pth of lpips 0.1"


def alexnet() -> nn.Sequential:
    """The convolutions of torchvision's AlexNet (Krizhevsky 2014), under its numbers, to the last one's ReLU."""
    layers = [nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    layers += [nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    for inputs, outputs in ((192, 384), (384, 256), (256, 256)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers)


def vgg16() -> nn.Sequential:
    """The convolutions of torchvision's VGG16 (Simonyan 2015, D), under its numbers, to the last one's ReLU."""
    layers: list[nn.Module] = []
    for inputs, outputs, number in ((3, 64, 2), (64, 128, 2), (128, 256, 3), (256, 512, 3), (512, 512, 3)):
        for place in range(number):
            layers += [nn.Conv2d(outputs if place else inputs, outputs, 3, padding=1), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers[:-1])


# what builds it, the layers whose outputs are compared, and the voxels that it needs along both axes of a slice
TRUNKS = {"AlexNet": (alexnet, (1, 4, 7, 9, 11), 31), "VGG16": (vgg16, (3, 8, 15, 22, 29), 16)}


@dataclass(frozen=True)
class Lpips:
    """Mean LPIPS over the slices of two volumes along their last axis: axial ones."""

    name: str  # of TRUNKS
    parts: tuple[nn.Sequential, ...]  # of the trunk: from one compared layer to the next
    heads: tuple[torch.Tensor, ...]  # [1, C, 1, 1] of each
    weights: str  # SHA-256 of both files

    @property
    def identity(self) -> dict[str, str]:
        """What rows of the table say of it."""
        return {"network": f"LPIPS 0.1, {self.name}", "weights": self.weights}

    @property
    def least(self) -> int:
        """Voxels that it needs along both axes of a slice."""
        return TRUNKS[self.name][2]

    @torch.no_grad()
    def __call__(self, image: torch.Tensor, other: torch.Tensor) -> float:
        """Of two images [1, 1, X, Y, Z] in [0, 1]; what lies beyond is cut, as the networks know no such pictures."""
        both = [volume[0, 0].movedim(-1, 0)[:, None].split(SLICES_AT_ONCE) for volume in (image, other)]
        return float(torch.cat([self.of_slices(*slices) for slices in zip(*both, strict=True)]).mean())

    def of_slices(self, image: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """[S] of slices [S, 1, H, W] in [0, 1]: equation 1 of the paper, the grey as all three colours in [-1, 1]."""
        shift, scale = (image.new_tensor(values).view(1, 3, 1, 1) for values in (SHIFT, SCALE))
        ours, theirs = (((2 * x.clamp(0, 1) - 1) - shift) / scale for x in (image, other))
        found = torch.zeros(len(image), device=image.device)
        for part, head in zip(self.parts, self.heads, strict=True):
            ours, theirs = part(ours), part(theirs)
            difference = nn.functional.normalize(ours, eps=1e-10) - nn.functional.normalize(theirs, eps=1e-10)
            found += nn.functional.conv2d(difference**2, head).mean((1, 2, 3))
        return found


def weights_in(path: str | Path, wanted: str) -> dict:
    """The weights in a file. Raises UserError, which says what file is wanted, where there are none."""
    try:
        return load_checkpoint(path, made_by=None)
    except UserError as error:
        raise UserError(f"--lpips: {error}; give {wanted}") from None


def load_lpips(trunk: str | Path, heads: str | Path) -> Lpips:
    """Load the weights of a trunk as torchvision has them, and of the linear heads as the package `lpips` has them.

    Raises:
        UserError: where a file is missing or holds something else, or the heads are those of another trunk.
    """
    content, first = weights_in(trunk, TRUNK), "features."
    state = {str(key).removeprefix(first): value for key, value in content.items() if str(key).startswith(first)}
    name = "VGG16" if "28.weight" in state else "AlexNet"
    build, compared, _ = TRUNKS[name]
    network = build()
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        fault = str(error).splitlines()[-1].strip()[:200]
        raise UserError(f"--lpips: {trunk} holds no {name} ({fault}); give {TRUNK}") from None
    layers = [network[start:end] for start, end in pairwise((0, *(place + 1 for place in compared)))]
    channels = [part[-2].out_channels for part in layers]
    found = weights_in(heads, HEADS)
    linear = [found.get(f"lin{number}.model.1.weight") for number in range(len(channels))]
    shapes = [[*weight.shape] if torch.is_tensor(weight) else None for weight in linear]
    if shapes != [[1, channel, 1, 1] for channel in channels]:
        raise UserError(f"--lpips: {heads} holds no heads of {name} (its shapes: {shapes}); give {HEADS}")
    parts = tuple(part.to(device()).eval() for part in layers)
    return Lpips(
        name, parts, tuple(weight.float().to(device()) for weight in linear), f"{sha256(trunk)}, {sha256(heads)}"
    )
