"""Drawing training crops of cached volumes."""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import torch
from monai.transforms import MapTransform, RandomizableTransform

from lldm3d.data.crop import window

FOREGROUND = "foreground"


class ForegroundIndicesd(MapTransform):
    """Adds `foreground`: where the label is above 0, int32 [n], indices of the flattened volume.

    Args:
        keys: the label, [1, X, Y, Z].
    """

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict:
        label = np.asarray(data[self.first_key(data)])
        indices = np.flatnonzero(label > 0).astype(np.int32)  # torch's nonzero takes four times as long
        return {**data, FOREGROUND: torch.from_numpy(indices)}


class PosNegCropd(RandomizableTransform, MapTransform):
    """A crop of all keys, as often round a voxel of the foreground as round one of the background.

    What stock `RandCropByPosNegLabeld` draws with `pos=1, neg=1, num_samples=1`. That looks through the whole label in
    each draw or, given the indices, copies all of them; this draws the background by trial.

    Args:
        keys: volumes [C, X, Y, Z], of which the last is the label.
        spatial_size: voxels of the crop, at most those of the volumes.
    """

    def __init__(self, keys: Sequence[str], spatial_size: Sequence[int]) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self)
        self.spatial_size = tuple(spatial_size)

    def randomize(self, data: Mapping) -> None:
        """Draw the first voxel [3] of the crop."""
        label, foreground = data[self.keys[-1]], data[FOREGROUND]
        share = len(foreground) / label.numel()
        if share == 1 or (share > 0 and self.R.rand() < 0.5):
            index = int(foreground[self.R.randint(len(foreground))])
        else:
            flat = label.flatten()
            while flat[index := self.R.randint(len(flat))] > 0:
                pass
        center = np.array(np.unravel_index(index, label.shape[1:]))
        self.start = window(center, label.shape[1:], self.spatial_size)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict:
        self.randomize(data)
        box = tuple(slice(low, low + size) for low, size in zip(self.start, self.spatial_size, strict=True))
        return {key: data[key][(slice(None), *box)] for key in self.keys}
