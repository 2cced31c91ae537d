"""Which cases are to be generated."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from lldm3d.data.dataset import axes_of, stem
from lldm3d.data.volumes import load_volume, spacing_of
from lldm3d.errors import UserError


class CaseDataset(Dataset):
    """The cases still to be made: drawn labels (`num_cases`), or images for labels of the user's own.

    Args:
        num_cases: number of cases with drawn labels; ignored where `label_paths` are given.
        output_dir: cases whose last file lies there already are left out.
        last: folder of the file that is written last, "imagesTr" or "labelsTr".
        class_names: with background.
        spacing: of the training set, mm.
        multiple: voxels of which the size of a label must be a multiple, the same or one for each axis.
        label_paths: NIfTI label maps.
        first: the first case with a drawn label.
        orientation: of the training set, ras or stored.
        part: number of this process, and of all that share the cases; each has its own, whatever the others have made.

    Raises:
        UserError: naming every label that does not fit.
    """

    def __init__(
        self,
        num_cases: int,
        output_dir: str,
        class_names: Sequence[str],
        spacing: Sequence[float],
        multiple: int | Sequence[int] = 1,
        last: str = "imagesTr",
        label_paths: Sequence[str] = (),
        first: int = 0,
        orientation: str = "ras",
        part: tuple[int, int] = (0, 1),
    ) -> None:
        if label_paths:
            axes = axes_of(orientation)
            items = [given_case(i, path, class_names, spacing, multiple, axes) for i, path in enumerate(label_paths)]
        else:
            affine = torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64))
            items = [{"index": i, "name": drawn_name(i), "affine": affine} for i in range(first, first + num_cases)]
        self.part, self.orientation = part, orientation
        number, processes = part
        items = items[number::processes]
        self.data = [item for item in items if not Path(output_dir, last, f"{item['name']}.nii.gz").is_file()]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, number: int) -> dict:
        return self.data[number]


def drawn_name(index: int) -> str:
    """Name of the case `index` with a drawn label."""
    return f"synthetic_{index:05d}"


def given_case(
    index: int,
    path: str,
    class_names: Sequence[str],
    spacing: Sequence[float],
    multiple: int | Sequence[int],
    axes: np.ndarray | None,
) -> dict[str, object]:
    """A label map of the user's, turned to the axes of the training set: "label" [1, X, Y, Z] and its affine there."""
    label, affine = load_volume(path, axes=axes)
    allowed = ", ".join(f"{value} {name}" for value, name in enumerate(class_names))
    wrong = sorted(set(np.unique(label).tolist()) - set(range(len(class_names))))
    if wrong:
        raise UserError(f"{path}: holds the values {wrong[:8]}; allowed are {allowed}")
    if not label.any():
        raise UserError(f"{path}: is empty; it must hold at least one of {allowed}")
    require_spacing(path, affine, spacing)
    if (np.array(label.shape) % multiple).any():
        raise UserError(
            f"{path}: has {list(label.shape)} voxels; each must be a multiple of {multiple}: pad or crop the label"
        )
    name = stem(Path(path))
    volume = torch.from_numpy(label.astype(np.uint8))[None]
    return {"index": index, "name": name, "label": volume, "affine": torch.from_numpy(affine)}


def require_spacing(path: str, affine: np.ndarray, spacing: Sequence[float]) -> None:
    """Raises UserError where a label map of `affine` [4, 4] has voxels of another size than `spacing` (mm)."""
    found = spacing_of(affine)
    if not np.allclose(found, spacing, rtol=0.05):
        raise UserError(
            f"{path}: has a spacing of {np.round(found, 3).tolist()} mm, but the model was trained at {list(spacing)} "
            "mm (5 % tolerance); resample the label first"
        )
