"""Which cases are to be generated."""

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from torch.utils.data import Dataset

from lldm3d.data.sources import stem
from lldm3d.errors import UserError


class CaseDataset(Dataset):
    """The cases still to be made: drawn labels (`num_cases`), or images for labels of the user's own.

    Args:
        num_cases: number of cases with drawn labels; ignored where `label_paths` are given.
        output_dir: cases whose last file lies there already are left out.
        last: folder of the file that is written last, "imagesTr" or "labelsTr".
        class_names: with background.
        spacing: of the training set, mm.
        multiple: voxels of which the size of a label must be a multiple.
        label_paths: NIfTI label maps.
        first: the first case with a drawn label.
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
        multiple: int = 1,
        last: str = "imagesTr",
        label_paths: Sequence[str] = (),
        first: int = 0,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        if label_paths:
            items = [given_case(i, path, class_names, spacing, multiple) for i, path in enumerate(label_paths)]
        else:
            affine = torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64))
            item = {"affine": affine, "source_affine": affine}
            items = [{"index": i, "name": drawn_name(i), **item} for i in range(first, first + num_cases)]
        self.part = part
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
    index: int, path: str, class_names: Sequence[str], spacing: Sequence[float], multiple: int
) -> dict[str, object]:
    """A label map of the user's, turned to RAS: "label" [1, X, Y, Z], its affine there, and its own."""
    try:
        source = nib.load(path)
        label = np.asanyarray(source.dataobj)
    except Exception as error:  # nibabel, gzip and the file system each raise their own kinds
        raise UserError(f"{path}: cannot be read as NIfTI ({error})") from None
    if label.ndim != 3:
        raise UserError(f"{path}: has {label.ndim} dimensions; a label map has 3")
    image = nib.as_closest_canonical(source)
    label = np.asanyarray(image.dataobj)
    allowed = ", ".join(f"{value} {name}" for value, name in enumerate(class_names))
    wrong = sorted(set(np.unique(label).tolist()) - set(range(len(class_names))))
    if wrong:
        raise UserError(f"{path}: holds the values {wrong[:8]}; allowed are {allowed}")
    if not label.any():
        raise UserError(f"{path}: is empty; it must hold at least one of {allowed}")
    found = nib.affines.voxel_sizes(image.affine)
    if not np.allclose(found, spacing, rtol=0.05):
        raise UserError(
            f"{path}: has a spacing of {np.round(found, 3).tolist()} mm, but the model was trained at {list(spacing)} "
            "mm (5 % tolerance); resample the label first"
        )
    if any(size % multiple for size in label.shape):
        raise UserError(
            f"{path}: has {list(label.shape)} voxels; each must be a multiple of {multiple}: pad or crop the label"
        )
    name = stem(Path(path))
    volume = torch.from_numpy(label.astype(np.uint8))[None]
    affines = {"affine": torch.from_numpy(image.affine), "source_affine": torch.from_numpy(source.affine)}
    return {"index": index, "name": name, "label": volume, **affines}
