"""Writing generated cases as they come."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
from ignite.engine import Engine, Events

from lldm3d.files import save_nifti

WORKERS = 4  # gzip, which takes nearly all the time, lets threads run beside each other
WAITING = 32  # cases that may wait in memory for their files before drawing waits for them


class CaseWriter:
    """Handler that writes label and image of each generated case, in threads beside the drawing of the next.

    A case's image comes last and marks it as whole. An error of a file ends the run.

    Args:
        output_dir: gets `labelsTr/<case>.nii.gz` (uint8) and `imagesTr/<case>.nii.gz` (float32 in [0, 1]).
    """

    folders = {"label": ("labelsTr", np.uint8), "image": ("imagesTr", np.float32)}

    def __init__(self, output_dir: str) -> None:
        self.output_dir = Path(output_dir)
        self.threads, self.waiting = ThreadPoolExecutor(WORKERS), deque()

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.write)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def write(self, engine: Engine) -> None:
        """Hand the cases of the batch to the threads."""
        output = {key: item if key == "name" else item.cpu() for key, item in engine.state.output.items()}
        for number in range(len(output["name"])):
            case = {key: item[number] for key, item in output.items()}
            self.waiting.append(self.threads.submit(self.write_case, case))
        self.finish(waiting=WAITING)

    def finish(self, engine: Engine | None = None, waiting: int = 0) -> None:
        """Wait until at most `waiting` cases are left; raises what a thread raised."""
        while len(self.waiting) > waiting or (self.waiting and self.waiting[0].done()):
            self.waiting.popleft().result()

    def write_case(self, case: dict) -> None:
        affines = case["affine"].numpy(), case["source_affine"].numpy()
        for kind, (folder, dtype) in self.folders.items():
            if kind in case:
                volume = case[kind][0].numpy().astype(dtype)
                volume = twelve_bits(volume) if kind == "image" else volume
                save_nifti(self.output_dir / folder / f"{case['name']}.nii.gz", *reorient(volume, *affines))


def twelve_bits(volume: np.ndarray) -> np.ndarray:
    """Float32 rounded to twelve significant bits, as many as scanners give: compresses faster and to two thirds."""
    return ((volume.view(np.uint32) + 0x800) & 0xFFFFF000).view(np.float32)


def reorient(volume: np.ndarray, affine: np.ndarray, source_affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turn a volume [X, Y, Z] in RAS back to the axes of the user's label; volume and affine there."""
    turn = nib.orientations.ornt_transform(*(nib.io_orientation(item) for item in (affine, source_affine)))
    image = nib.Nifti1Image(volume, affine).as_reoriented(turn)
    return np.asarray(image.dataobj), image.affine
