"""LN-Gen: shapes of lesions drawn by a latent diffusion of signed distances, and mended by an adapter (SYSTEMS 3.10).

Written from its text; what it leaves open is ours, and told in the bundle's document.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm

from lldm3d.codec.codec import Codec
from lldm3d.data.labels import signed_distance
from lldm3d.diffusion.batches import generators_of
from lldm3d.diffusion.gaussian import GaussianDiffusion
from lldm3d.diffusion.noise import noise_like
from lldm3d.errors import UserError
from lldm3d.files import write_json
from lldm3d.lesions.masks import Shape, packed
from lldm3d.lesions.pool import LesionPool, Scans, lesion_classes
from lldm3d.phantom.painting import largest_component

SIDE = 1.5  # of a shape's cube, in its long axes
TRUNCATED = 0.2  # halves of the cube's side, beyond which all distances are the same
SURFACE = 0.5  # of `distance_volume`, which is less inside
DRAWN_AT_ONCE = 16  # shapes
MOST_PARTS = 3  # of an invented shape


@dataclass(frozen=True)
class Blocks:
    """Ellipsoids and boxes that overlap: shapes to learn distances from, as real ones are few."""

    centres: np.ndarray  # [N, 3], mm
    radii: np.ndarray  # [N, 3], mm
    powers: np.ndarray  # [N]: 2 for an ellipsoid; the higher, the more it is a box

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Blocks":
        """One to `MOST_PARTS` parts of 10 mm or less, of which each covers the origin."""
        parts = rng.integers(1, MOST_PARTS + 1)
        radii = rng.uniform(3, 10, (parts, 3))
        return cls(rng.uniform(-0.5, 0.5, (parts, 3)) * radii, radii, rng.choice([2.0, 20.0], parts))

    @property
    def reach(self) -> float:
        """A corner of a box lies √3 radii from its centre."""
        stretch = np.where(self.powers > 2, 3**0.5, 1)
        return float((np.linalg.norm(self.centres, axis=1) + stretch * self.radii.max(1)).max())

    @property
    def long_axis(self) -> float:
        return 4 / 3 * self.reach  # so that all of it lies in its cube

    def __call__(self, points: np.ndarray) -> np.ndarray:
        each = points[None] - self.centres.reshape(-1, 3, *[1] * (points.ndim - 1))
        inside = np.abs(each) / self.radii.reshape(each.shape[0], 3, *[1] * (points.ndim - 1))
        return (inside ** self.powers.reshape(-1, *[1] * points.ndim)).sum(1).min(0) <= 1


def distance_volume(shape: Shape, sides: int, rotation: Rotation | None = None) -> np.ndarray:
    """Truncated signed distance [n, n, n] of a turned shape: 0 deep inside, 0.5 at its surface, 1 far from it.

    Its cube's side is 1.5 times the long axis, the shape's origin in the middle; distances beyond 0.2 halves of the
    side are cut. The paper gives 0.2 without a unit.

    Args:
        sides: n, voxels.
    """
    length = SIDE * shape.long_axis / sides
    axis = (np.arange(sides) - (sides - 1) / 2) * length
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij")).reshape(3, -1)
    points = points if rotation is None else rotation.inv().as_matrix() @ points
    inside = shape(points).reshape(sides, sides, sides)
    distance = signed_distance(inside, (length,) * 3) / (TRUNCATED * SIDE * shape.long_axis / 2)
    return np.float32((distance.clip(-1, 1) + 1) / 2)


class ShapeVolumes(Dataset):
    """Turned shapes of the lesions of a split, and invented ones: "image" [1, n, n, n], see `distance_volume`.

    Args:
        dataset_dir: prepared data set.
        split: training, or validation.
        sides: n.
        num_items: turns in all; each follows from its index alone.
        invented: share of shapes that are no patient's.
        lesion: its class, and the organ's; see `lldm3d.lesions.pool.lesion_classes`.
        organ: likewise.

    Raises:
        UserError: where the split has no lesion.
    """

    def __init__(
        self,
        dataset_dir: str,
        split: str,
        sides: int,
        num_items: int,
        invented: float = 0.0,
        lesion: str | None = None,
        organ: Sequence[str] | None = None,
    ) -> None:
        scans = Scans(dataset_dir, (split,))
        pool = LesionPool(scans, lesion_classes(scans.schema, dataset_dir, lesion, organ))
        self.shapes = [pool.shape(item.scan, item.number) for item in pool.lesions]
        self.sides, self.num_items, self.invented = sides, num_items, invented

    def __len__(self) -> int:
        return self.num_items

    def __getitem__(self, index: int) -> dict:
        rng = np.random.default_rng(index)
        real = self.shapes[rng.integers(len(self.shapes))]
        shape = Blocks.draw(rng) if rng.random() < self.invented else real
        volume = distance_volume(shape, self.sides, Rotation.random(rng=rng))
        return {"image": torch.as_tensor(volume)[None], "index": index}


@dataclass(eq=False)
class AdapterBatch:
    """What the decoder makes of a code with noise, and the mask that it shall be: the adapter's training."""

    codec: Codec
    noise: float = 0.1  # standard deviations of the codes
    seed: int | None = None  # given, noise depends on the case alone (validation): losses can be compared

    def __call__(self, batch: dict, device=None, non_blocking: bool = False, **_) -> tuple[Tensor, Tensor]:
        volume = batch["image"].to(device, non_blocking=non_blocking)
        latent, _ = self.codec.encode(volume)
        noisy = latent + self.noise * noise_like(latent, generators_of(batch, self.seed))
        return self.codec.decode(noisy), (volume < SURFACE).float()


@dataclass(eq=False)
class ShapeDrawing:
    """Draws masks of lesions: a code by diffusion, its distances by the decoder, the mask by the adapter.

    Args:
        codec: of `distance_volume`.
        network: called with (x, timesteps).
        process: as in training.
        adapter: answers a logit.
        latent_shape: [C, n, n, n].
        device: of all.
    """

    codec: Codec
    network: nn.Module
    process: GaussianDiffusion
    adapter: Callable[[Tensor], Tensor]
    latent_shape: Sequence[int]
    device: torch.device | str

    @torch.no_grad()
    def __call__(self, seeds: Sequence[int]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each seed the masks [n, n, n] by the adapter and, to compare with, by the distances' own surface.

        Of each the largest component; empty where nothing was drawn.
        """
        generators = [torch.Generator(self.device).manual_seed(seed) for seed in seeds]
        noise = noise_like(torch.empty(len(seeds), *self.latent_shape, device=self.device), generators)
        volume = self.codec.decode(self.process.sample(self.network, noise, generators))
        both = (inside[:, 0].cpu().numpy() for inside in (self.adapter(volume) > 0, volume < SURFACE))
        return [tuple(largest_component(one) if one.any() else one for one in pair) for pair in zip(*both, strict=True)]


def write_shapes(
    draw: Callable[[Sequence[int]], list], path: str, unmended_path: str, num_shapes: int, seed: int
) -> None:
    """Draw shapes into a file, from which edits take their masks, and those without an adapter into another.

    Those that are empty or reach the edge of their cube are drawn anew, four times as many in all.

    Raises:
        UserError: where there are fewer: the networks have not learnt enough.
    """
    mended, unmended, tries = [], [], 0
    for begin in tqdm(range(0, 4 * num_shapes, DRAWN_AT_ONCE), desc="shapes", mininterval=1):
        masks = draw([1_000_000 * seed + number for number in range(begin, begin + DRAWN_AT_ONCE)])
        for rows, drawn in zip((mended, unmended), zip(*masks, strict=True), strict=True):
            rows += [packed(mask) for mask in drawn if mask.any() and not edge(mask).any()]
        tries = begin + DRAWN_AT_ONCE
        if len(mended) >= num_shapes:
            break
    if len(mended) < num_shapes:
        raise UserError(f"{path}: {len(mended)} of {tries} drawn shapes are whole; train the shape networks longer")
    for name, rows in ((path, mended), (unmended_path, unmended)):
        write_json(Path(name), {"tries": tries, "shapes": rows[:num_shapes]})


def edge(mask: np.ndarray) -> np.ndarray:
    """What of a mask [n, n, n] lies in its outermost voxels."""
    return mask & ~np.pad(np.ones(np.array(mask.shape) - 2, bool), 1)
