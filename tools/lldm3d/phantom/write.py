"""Writing the phantom as a raw data set in Decathlon layout."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from lldm3d.errors import UserError
from lldm3d.files import output_folder, save_nifti, write_json
from lldm3d.phantom.case import CLASS_NAMES, make_case
from lldm3d.processes import in_processes

SMALLEST_SIZE = 16  # voxels
SMALLEST_FIELD = 80.0  # mm
FOLDERS = ("imagesTr", "labelsTr")
VESSELS = ["portal vein", "hepatic vein"]
DESCRIPTION = {
    "name": "liver phantom",
    "description": "simulated hepatobiliary-phase liver MR with portal vein, hepatic vein and HCC",
    "modality": {"0": "MRI"},
    "tensorImageSize": "3D",
    "labels": {str(value): name for value, name in enumerate(CLASS_NAMES)},
    "numTraining": 0,
    "numTest": 0,
    "training": [],
    "test": [],
    "tubular": VESSELS,
    "lesions": ["HCC"],
    "inside": dict.fromkeys([*VESSELS, "HCC"], "liver"),
    "tasks": {"liver": {"liver": ["liver", *VESSELS, "HCC"]}, "vein": {"vein": VESSELS}, "hcc": {"HCC": ["HCC"]}},
}


def write_phantom(
    output_dir: str | Path,
    num_cases: int = 32,
    size: tuple[int, int, int] = (48, 48, 32),
    spacing: tuple[float, float, float] = (5.0, 5.0, 6.0),
    seed: int = 0,
    thinnest_vessel: float = 0,
    overwrite: bool = False,
) -> None:
    """Write a raw data set of simulated liver MR in Decathlon layout: pairs of image and label, and dataset.json.

    Case i depends on the seed, i, size, spacing and thinnest_vessel alone. The folder appears only when it is whole.

    Args:
        output_dir: the new folder.
        num_cases: number of cases.
        size: voxels of each case.
        spacing: mm.
        seed: of all random numbers.
        thinnest_vessel: radius in mm below which twigs are left out of image and label, as readers outline vessels;
            main branches stay; 0 draws all that the voxels can hold.
        overwrite: replace an earlier phantom.

    Raises:
        UserError: for bad arguments, or a folder that holds something else than an earlier phantom.
    """
    size, spacing = _checked(num_cases, size, spacing, seed)
    if not _is_length(thinnest_vessel):
        raise UserError(f"thinnest_vessel is {thinnest_vessel!r}; give a radius in mm, or 0 to draw all vessels")
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -(np.array(size) - 1) / 2 * spacing
    make = partial(make_case, size=size, spacing=spacing, seed=seed, thinnest_vessel=thinnest_vessel)
    with output_folder(output_dir, overwrite) as folder:
        write_one = partial(_write_case, make=make, output_dir=folder, affine=affine)
        entries = list(in_processes(write_one, range(num_cases), "phantom"))
        write_json(folder / "dataset.json", {**DESCRIPTION, "numTraining": len(entries), "training": entries})


def _write_case(index: int, make: Callable, output_dir: Path, affine: np.ndarray) -> dict:
    """Draw and write one case; returns its entry for dataset.json."""
    name = f"phantom_{index:04d}.nii.gz"
    for folder, array in zip(FOLDERS, make(index), strict=True):
        save_nifti(output_dir / folder / name, array, affine)
    return {"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"}


def _checked(num_cases: int, size: tuple, spacing: tuple, seed: int) -> tuple[tuple, tuple]:
    """`size` and `spacing` as tuples of three. Raises UserError for what cannot be drawn."""
    if not _is_int(num_cases) or num_cases < 1:
        raise UserError(f"num_cases is {num_cases!r}; give a whole number of at least 1")
    if not _is_int(seed) or seed < 0:
        raise UserError(f"seed is {seed!r}; give a whole number of at least 0")
    if not _three(size) or not all(_is_int(n) and n >= SMALLEST_SIZE for n in size):
        raise UserError(f"size is {size!r}; give three numbers of voxels, each at least {SMALLEST_SIZE}: 48,48,32")
    if not _three(spacing) or not all(_is_length(s) and s > 0 for s in spacing):
        raise UserError(f"spacing is {spacing!r}; give three positive lengths in mm: 5,5,6")
    field = [n * s for n, s in zip(size, spacing, strict=True)]
    if min(field) < SMALLEST_FIELD:
        raise UserError(
            f"the field of view, size x spacing, is {field} mm; each side must be at least {SMALLEST_FIELD:g} mm "
            "to hold a liver (240 mm is natural): raise size or spacing"
        )
    return tuple(size), tuple(float(s) for s in spacing)


def _is_int(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_length(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < np.inf


def _three(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 3
