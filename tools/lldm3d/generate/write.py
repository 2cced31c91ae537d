"""Writing generated cases as they come."""

from pathlib import Path

import nibabel as nib
import numpy as np
from ignite.engine import Engine, Events

from lldm3d.files import save_nifti


class CaseWriter:
    """Handler that writes label and image of each generated case; the image comes last and marks the case as whole.

    Args:
        output_dir: gets `labelsTr/<case>.nii.gz` (uint8) and `imagesTr/<case>.nii.gz` (float32 in [0, 1]).
    """

    folders = {"label": ("labelsTr", np.uint8), "image": ("imagesTr", np.float32)}

    def __init__(self, output_dir: str) -> None:
        self.output_dir = Path(output_dir)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.write)

    def write(self, engine: Engine) -> None:
        output = engine.state.output
        for kind, (folder, dtype) in self.folders.items():
            for number, name in enumerate(output["name"] if kind in output else ()):
                volume = output[kind][number, 0].cpu().numpy().astype(dtype)
                affines = (output[key][number].cpu().numpy() for key in ("affine", "source_affine"))
                save_nifti(self.output_dir / folder / f"{name}.nii.gz", *reorient(volume, *affines))


def reorient(volume: np.ndarray, affine: np.ndarray, source_affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turn a volume [X, Y, Z] in RAS back to the axes of the user's label; volume and affine there."""
    turn = nib.orientations.ornt_transform(*(nib.io_orientation(item) for item in (affine, source_affine)))
    image = nib.Nifti1Image(volume, affine).as_reoriented(turn)
    return np.asarray(image.dataobj), image.affine
