"""Simulated livers of any number, which several benchmarks read."""

from pathlib import Path

import numpy as np
from scipy.ndimage import shift

from lldm3d.files import load_nifti, save_nifti
from lldm3d.phantom.write import write_phantom

DRAWN = 12  # anatomies that are drawn; further volumes are these, moved and with noise of their own


def write_volumes(folder: Path, number: int, size: tuple[int, int, int], spacing: tuple[float, float, float]) -> None:
    """`volume_000.nii.gz` ... with their labels, and the phantom's dataset.json."""
    if (folder / "done").is_file():
        return
    write_phantom(folder / "drawn", num_cases=DRAWN, size=size, spacing=spacing, overwrite=True)
    rng = np.random.default_rng(0)
    names = sorted(path.name for path in (folder / "drawn" / "imagesTr").glob("*.nii.gz"))
    for index in range(number):
        moved = rng.integers(-6, 7, 3)
        for kind in ("image", "label"):
            array, affine = load_nifti(folder / "drawn" / f"{kind}sTr" / names[index % DRAWN])
            array = shift(array, moved, order=0)
            if kind == "image":
                low, high = array.min(), array.max()
                array = ((array - low) / (high - low) + rng.normal(0, 0.01, array.shape)).clip(0, 1).astype(np.float32)
            save_nifti(folder / f"{kind}sTr" / f"volume_{index:03d}.nii.gz", array, affine)
    (folder / "done").touch()
