"""LeFusion: a diffusion of voxels that draws a lesion into a real background, which stays (SYSTEMS 3.11).

Zhang et al., *LeFusion: Controllable Pathology Synthesis via Lesion-Focused Diffusion Models*. Written from its text;
the departures are in the bundle's document.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from lldm3d.diffusion.batches import generators_of, noised
from lldm3d.diffusion.gaussian import GaussianDiffusion
from lldm3d.diffusion.noise import noise_like
from lldm3d.diffusion.repaint import repaint
from lldm3d.lesions.editor import Edit, Editor
from lldm3d.lesions.placement import in_volume
from lldm3d.lesions.pool import LesionPool, Scans, lesion_classes
from lldm3d.lesions.textures import relative_brightness
from lldm3d.training.inferers import AutocastInferer

BINS = 16  # of the histogram of a lesion's intensities in [-1, 1]


def histogram(intensities: np.ndarray) -> np.ndarray:
    """Shares [`BINS`] of intensities in [-1, 1], float32; what lies beyond counts at the ends."""
    counts, _ = np.histogram(np.clip(intensities, -1, 1), BINS, (-1, 1))
    return np.float32(counts / max(counts.sum(), 1))


def crop_around(volume: np.ndarray, centre: Sequence[int], size: Sequence[int], mode: str = "edge") -> np.ndarray:
    """A crop of some size [x, y, z] round a voxel of a volume [X, Y, Z], padded as numpy's `mode` says."""
    low = np.array(centre) - np.array(size) // 2
    high = low + size
    pads = [(max(-a, 0), max(b - n, 0)) for a, b, n in zip(low, high, volume.shape, strict=True)]
    padded = np.pad(volume, pads, mode=mode)
    starts = np.maximum(low, 0)
    return padded[tuple(slice(start, start + n) for start, n in zip(starts, size, strict=True))]


class LesionCrops(Dataset):
    """A crop round each lesion of a split: "image" [1, x, y, z] in [-1, 1], "mask" like it, "histogram" [1, 16].

    All are held in memory: a thousand of 64x64x32 voxels take 1 GB.

    Args:
        dataset_dir: prepared data set.
        split: training, or validation.
        crop_size: voxels; what of a lesion lies beyond is not learnt.
        lesion: its class, and the organ's; see `lldm3d.lesions.pool.lesion_classes`.
        organ: likewise.

    Raises:
        UserError: where the split has no lesion.
    """

    def __init__(
        self,
        dataset_dir: str,
        split: str,
        crop_size: Sequence[int],
        lesion: str | None = None,
        organ: Sequence[str] | None = None,
    ) -> None:
        scans = Scans(dataset_dir, (split,))
        self.pool = LesionPool(scans, lesion_classes(scans.schema, dataset_dir, lesion, organ))
        self.items = [self.item(index, tuple(crop_size)) for index in range(len(self.pool.lesions))]

    def item(self, index: int, size: tuple[int, ...]) -> dict:
        lesion = self.pool.lesions[index]
        scan, mask = self.pool.scans.read(lesion.scan), self.pool.mask(lesion.scan, lesion.number)
        centre = np.rint(np.argwhere(mask).mean(0)).astype(int)
        image = crop_around(scan.image, centre, size) * 2 - 1
        inside = crop_around(mask, centre, size, "constant")
        volumes = {"image": image, "mask": np.float32(inside)}
        return {
            **{key: torch.as_tensor(np.ascontiguousarray(volume))[None] for key, volume in volumes.items()},
            "histogram": torch.as_tensor(histogram(scan.image[mask] * 2 - 1))[None],
            "index": index,
        }

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict:
        return self.items[index]


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
        self.crop_size, self.multiple, self.path = np.array(crop_size), multiple, (jump, resample)
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
        size = np.maximum(self.crop_size, -(-np.array(small.shape) // self.multiple) * self.multiple)
        crop, inside = (crop_around(*what) for what in ((image, edit.centre, size), (mask, edit.centre, size)))
        known = torch.as_tensor(np.ascontiguousarray(crop), device=self.device)[None, None] * 2 - 1
        kept = torch.as_tensor(np.ascontiguousarray(~inside), device=self.device)[None, None]
        context = torch.as_tensor(wanted, device=self.device)[None, None]
        noise = noise_like(known, [generator])
        drawn = repaint(self.noise_scheduler, self.predict(context), noise, known, kept, *self.path, [generator])
        found = image.copy()
        values = ((drawn[0, 0].cpu().numpy() + 1) / 2).clip(0, 1)
        low = np.array(edit.centre) - size // 2
        found[mask] = values[tuple((np.argwhere(mask) - low).T)]
        return found
