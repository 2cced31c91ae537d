"""LeFusion: a diffusion of voxels that draws a lesion into a real background, which stays (SYSTEMS 3.11).

Zhang et al., *LeFusion: Controllable Pathology Synthesis via Lesion-Focused Diffusion Models*. Written from its text;
the departures are in the bundle's document.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lldm3d.diffusion.batches import generators_of, noised
from lldm3d.diffusion.gaussian import GaussianDiffusion
from lldm3d.diffusion.noise import noise_like
from lldm3d.diffusion.repaint import repaint
from lldm3d.lesions.crops import CropWindow, histogram
from lldm3d.lesions.editor import Edit, Editor
from lldm3d.lesions.placement import in_volume
from lldm3d.lesions.textures import relative_brightness
from lldm3d.training.inferers import AutocastInferer


@dataclass(eq=False)
class LesionBatch:
    """Noisy crops, and the histograms of their lesions as one token of the network's context."""

    noise_scheduler: GaussianDiffusion
    seed: int | None = None  # given, noise and times depend on the case alone (validation): losses can be compared

    def __call__(self, batch: dict, device=None, non_blocking: bool = False, **_) -> tuple:
        image, mask, context = (
            batch[key].to(device, non_blocking=non_blocking) for key in ("image", "mask", "histogram")
        )
        generators = generators_of(batch, self.seed)
        noisy, target, timesteps = noised(image, self.noise_scheduler, generators, non_blocking)
        return noisy, target | {"mask": mask}, (), {"timesteps": timesteps, "context": context}


@dataclass(eq=False)
class LesionLoss:
    """Mean absolute error of the answer within each lesion, whatever its size: the authors' favours large ones."""

    process: GaussianDiffusion

    def __call__(self, output: Tensor, target: dict[str, Tensor]) -> Tensor:
        error, mask = (output - self.process.target(target)).abs(), target["mask"]
        return ((error * mask).flatten(1).sum(1) / mask.flatten(1).sum(1).clamp_min(1)).mean()


class LesionPainter:
    """Draws a lesion into its mask by RePaint; all other voxels stay bit by bit.

    Args:
        network: called with (x, timesteps, context [1, 1, 16]).
        noise_scheduler: as in training.
        crop_size: voxels of what the network sees round a lesion; more where the lesion needs them.
        multiple: voxels of which a crop's sides are multiples.
        device: of the network.
        jump, resample: of `lldm3d.diffusion.repaint.resampling_path`.
        autocast: bfloat16.
    """

    def __init__(
        self,
        network: nn.Module,
        noise_scheduler: GaussianDiffusion,
        crop_size: Sequence[int],
        multiple: int,
        device: torch.device | str,
        jump: int = 2,
        resample: int = 2,
        autocast: bool = True,
    ) -> None:
        self.network, self.noise_scheduler, self.device = network, noise_scheduler, device
        self.crop_size, self.multiple, self.path = crop_size, multiple, (jump, resample)
        self.inferer = AutocastInferer(device, autocast)

    def predict(self, context: Tensor) -> Callable:
        """What the process calls."""
        return lambda x, timesteps: self.inferer(x, self.network, timesteps, context)

    def __call__(
        self, editor: Editor, image: np.ndarray, label: np.ndarray, edit: Edit, generator: torch.Generator
    ) -> np.ndarray:
        """The image [X, Y, Z] in [0, 1] with a new lesion, whose histogram is that of the edit's donor."""
        small, donor = editor.mask(edit), editor.donor_of(edit)
        mask = in_volume(small, edit.centre, label.shape)
        factor = relative_brightness(image, mask, np.isin(label, editor.classes.organ), donor)
        wanted = histogram(donor.image[donor.lesion] * factor * 2 - 1)
        window = CropWindow.around(edit.centre, small.shape, self.crop_size, self.multiple)
        known, kept = window.tensor(image, self.device) * 2 - 1, window.tensor(~mask, self.device)
        context = torch.as_tensor(wanted, device=self.device)[None, None]
        noise = noise_like(known, [generator])
        drawn = repaint(self.noise_scheduler, self.predict(context), noise, known, kept, *self.path, [generator])
        found = image.copy()
        found[mask] = ((window.values(drawn, np.argwhere(mask)) + 1) / 2).clip(0, 1)
        return found
