"""Slices of volumes, for networks of two dimensions: the pairs (case, axial index) of a data set, and stacks again."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from monai.transforms import Compose
from torch.utils.data import Dataset

from lldm3d.data.cache import MappedDataset
from lldm3d.errors import UserError

AXIS = 2  # of a prepared volume [X, Y, Z], which an axial slice fixes
LEAST = 0.01  # share of labelled voxels from which a slice is always taken
EVERY = 10  # of the other slices, each tenth


def slices_of(volume: torch.Tensor) -> torch.Tensor:
    """Volumes [B, C, X, Y, Z] as slices [B·Z, C, X, Y], those of a volume one after the other."""
    return volume.movedim(-1, 1).flatten(0, 1)


def stack_slices(slices: torch.Tensor, depth: int) -> torch.Tensor:
    """Slices [B·Z, C, X, Y] as the volumes [B, C, X, Y, Z] of `depth` Z that they are of."""
    return slices.unflatten(0, (-1, depth)).movedim(1, -1)


def chosen_slices(label: torch.Tensor) -> list[int]:
    """Of a label map [1, X, Y, Z] the slices with 1 % of labelled voxels or more, and each tenth of the others."""
    enough = (label[0] > 0).float().mean((0, 1)) >= LEAST
    few = (~enough).nonzero()[:, 0].tolist()
    return sorted([*enough.nonzero()[:, 0].tolist(), *few[::EVERY]])


class SliceDataset(Dataset):
    """The axial slices of labelled cases: "image" and "label" [1, X, Y], "index", the number of the slice, and its
    "position" in the volume, from 0 to 1.

    MONAI's `PatchDataset` draws patches at random and forgets whose they are, and `GridPatchDataset` is an iterable, of
    which no sampler can take (case, index); here each slice has a number, so that a resumed training takes the same.

    Args:
        data: cases as dicts of paths.
        preprocessing: of volumes, not random: done once, as `MappedDataset` does.
        cache_dir: of its files.
        augmentation: random transforms of slices; none in validation.
    """

    def __init__(
        self, data: Sequence[dict], preprocessing: Compose, cache_dir: str | Path, augmentation: Compose | None = None
    ) -> None:
        self.cases = MappedDataset(data, preprocessing, cache_dir).cases
        self.transform = augmentation if augmentation is not None else Compose([])
        self.places = [(case, index) for case, item in enumerate(self.cases) for index in chosen_slices(item["label"])]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> dict:
        case, index = self.places[number]
        pair = {key: self.cases[case][key].select(AXIS + 1, index).contiguous() for key in ("image", "label")}
        position = index / max(self.cases[case]["label"].shape[AXIS + 1] - 1, 1)
        return {**self.transform(pair), "index": number, "position": position}


def labelled_cases(cases: Iterable[dict], split: str) -> list[dict]:
    """Those cases of a Decathlon list that have a label. Raises UserError where none has one."""
    found = [case for case in cases if case.get("label")]
    if not found:
        raise UserError(f"no {split} case has a label, which this method learns from; add label maps to the data")
    return found


def check_classes(cases: Sequence[dict], class_names: Sequence[str]) -> None:
    """Raise UserError where labels hold values that are no class, or a class is in no case at all.

    Args:
        cases: with "label", class indices.
        class_names: with background.
    """
    found = {int(value) for case in cases for value in case["label"].unique()}
    allowed = ", ".join(f"{value} {name}" for value, name in enumerate(class_names))
    if wrong := sorted(found - set(range(len(class_names)))):
        raise UserError(
            f"the training labels hold the values {wrong[:8]}; allowed are {allowed}: prepare the data anew"
        )
    if lacking := [name for value, name in enumerate(class_names) if value not in found]:
        raise UserError(
            f"no training case has {', '.join(lacking)}: an image of what was never seen cannot be learnt; leave the "
            "class out (lldm3d prepare --label_map), or add cases that have it"
        )
