"""DiffTumor: latent diffusion of a tumour into a scan whose tumour is cut out, blended at its rim (SYSTEMS 3.9).

Chen et al. 2024, *Towards Generalizable Tumor Synthesis*, arXiv:2402.19470. Written from its text; the departures are
in the bundle's document.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn.functional import avg_pool3d

from lldm3d.codec.codec import Codec
from lldm3d.diffusion.batches import generators_of, noised
from lldm3d.diffusion.gaussian import GaussianDiffusion
from lldm3d.diffusion.noise import noise_like
from lldm3d.lesions.crops import CropWindow
from lldm3d.lesions.editor import Edit, Editor
from lldm3d.lesions.placement import in_volume
from lldm3d.lesions.textures import RIM, with_rim
from lldm3d.training.inferers import AutocastInferer

HOLE = 0.5  # brightness where the tumour is cut out: the authors' 0 of [-1, 1]
WIDEST = 4.0  # mm: the blur of a mask by which a tumour is blended is drawn from 0 to this (the authors' voxels)


def cut_out(codec: Codec, image: Tensor, mask: Tensor) -> Tensor:
    """What the network knows: the latent of the image without the tumour, and the mask, [B, C + 1, x, y, z].

    Each latent voxel has the share of its own voxels that the mask covers; the authors take the nearest, which loses
    small tumours.

    Args:
        image: [B, 1, X, Y, Z] in [0, 1].
        mask: bool, like it.
    """
    known, _ = codec.encode(torch.where(mask, HOLE, image))
    return torch.cat([known, avg_pool3d(mask.float(), codec.stride)], 1)


@dataclass(eq=False)
class TumourBatch:
    """Noisy latents of crops, and as their condition the crops without tumours."""

    noise_scheduler: GaussianDiffusion
    codec: Codec
    seed: int | None = None  # given, noise and times depend on the case alone (validation): losses can be compared

    def __call__(self, batch: dict, device=None, non_blocking: bool = False, **_) -> tuple:
        image, mask = (batch[key].to(device, non_blocking=non_blocking) for key in ("image", "mask"))
        image = (image + 1) / 2
        latent, _ = self.codec.encode(image)
        noisy, target, timesteps = noised(latent, self.noise_scheduler, generators_of(batch, self.seed), non_blocking)
        return noisy, target, (), {"timesteps": timesteps, "condition": cut_out(self.codec, image, mask > 0)}


def clip_by(codec: Codec) -> Callable[[Tensor], Tensor]:
    """Latents as those of an image in [0, 1] can be, for a `GaussianDiffusion` of latents."""
    return lambda latent: codec.encode(codec.decode(latent))[0]


class TumourPainter:
    """Draws a tumour into its mask and blends it; beyond the rim all voxels stay bit by bit.

    Args:
        models: from the long axis (mm) on from which each draws: network, called with (x, timesteps, condition
            [1, C + 1, x, y, z]), and its process.
        codec: of images.
        crop_size: voxels of what a network sees round a tumour; more where the tumour needs them.
        multiple: voxels of which a crop's sides are multiples.
        device: of networks and codec.
        autocast: bfloat16.
    """

    def __init__(
        self,
        models: dict[float, tuple[nn.Module, GaussianDiffusion]],
        codec: Codec,
        crop_size: Sequence[int],
        multiple: int,
        device: torch.device | str,
        autocast: bool = True,
    ) -> None:
        self.models, self.codec, self.device = models, codec, device
        self.crop_size, self.multiple = crop_size, multiple
        self.inferer = AutocastInferer(device, autocast)

    def drawn(self, condition: Tensor, length: float, generator: torch.Generator) -> Tensor:
        """An image [1, 1, X, Y, Z] in [0, 1] with a tumour of some long axis (mm), for what `cut_out` gives."""
        network, process = self.models[max(least for least in self.models if least <= length)]
        noise = noise_like(condition[:, :-1], [generator])
        latent = process.sample(lambda x, t: self.inferer(x, network, t, condition), noise, [generator])
        return self.codec.decode(latent)

    def __call__(
        self, editor: Editor, image: np.ndarray, label: np.ndarray, edit: Edit, generator: torch.Generator
    ) -> np.ndarray:
        """The image [X, Y, Z] in [0, 1] with a new tumour."""
        small = editor.mask(edit)
        mask = in_volume(small, edit.centre, label.shape)
        window = CropWindow.around(edit.centre, np.array(small.shape) + 2 * RIM, self.crop_size, self.multiple)
        condition = cut_out(self.codec, *(window.tensor(volume, self.device) for volume in (image, mask)))
        blur = WIDEST * float(torch.rand(1, generator=generator, device=generator.device))
        near, drawn = with_rim(mask), self.drawn(condition, edit.long_axis, generator)
        share = ndimage.gaussian_filter(np.float32(mask), blur / np.array(editor.spacing))[near]
        share, found = share / share.max(), image.copy()  # else nothing were left of a small tumour under its label
        found[near] = share * window.values(drawn, np.argwhere(near)) + (1 - share) * image[near]
        return found
