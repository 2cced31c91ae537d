"""Crops round lesions: what networks learn them from, and what they see of a scan in which they draw one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lldm3d.errors import UserError
from lldm3d.lesions.pool import LesionPool, RealLesion, Scans, lesion_classes

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
        lengths: from which long axis on, and below which, lesions are taken, mm.

    Raises:
        UserError: where the split has no such lesion.
    """

    def __init__(
        self,
        dataset_dir: str,
        split: str,
        crop_size: Sequence[int],
        lesion: str | None = None,
        organ: Sequence[str] | None = None,
        lengths: tuple[float, float] = (0, np.inf),
    ) -> None:
        scans = Scans(dataset_dir, (split,))
        self.pool = LesionPool(scans, lesion_classes(scans.schema, dataset_dir, lesion, organ))
        held = [lesion for lesion in self.pool.lesions if lengths[0] <= lesion.long_axis < lengths[1]]
        self.items = [self.item(index, one, tuple(crop_size)) for index, one in enumerate(held)]
        if not held:
            found = ", ".join(
                f"{one.long_axis:.0f}" for one in sorted(self.pool.lesions, key=lambda one: one.long_axis)
            )
            raise UserError(f"lengths {list(lengths)}: {dataset_dir} has no {split} lesion so long, but of {found} mm")

    def item(self, index: int, lesion: RealLesion, size: tuple[int, ...]) -> dict:
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


@dataclass(frozen=True)
class CropWindow:
    """The crop [x, y, z] of a scan that a network sees round a new lesion."""

    centre: tuple[int, int, int]  # voxel of the scan
    size: tuple[int, int, int]  # voxels

    @classmethod
    def around(
        cls, centre: tuple[int, int, int], held: Sequence[int], crop_size: Sequence[int], multiple: int
    ) -> "CropWindow":
        """The window of `crop_size`, larger where it has to hold so many voxels, then a multiple of `multiple`."""
        return cls(centre, tuple(max(n, -(-h // multiple) * multiple) for n, h in zip(crop_size, held, strict=True)))

    def tensor(self, volume: np.ndarray, device: torch.device | str) -> Tensor:
        """The part [1, 1, x, y, z] of a volume [X, Y, Z], its edge repeated beyond it."""
        part = np.ascontiguousarray(crop_around(volume, self.centre, self.size))
        return torch.as_tensor(part, device=device)[None, None]

    def values(self, drawn: Tensor, voxels: np.ndarray) -> np.ndarray:
        """Of what is drawn [1, 1, x, y, z], at voxels [N, 3] of the scan."""
        low = np.array(self.centre) - np.array(self.size) // 2
        return drawn[0, 0].cpu().numpy()[tuple((voxels - low).T)]
