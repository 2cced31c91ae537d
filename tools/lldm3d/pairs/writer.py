"""Writing generated cases as they come."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from ignite.engine import Engine, Events

from lldm3d.files import save_nifti

WORKERS = 4  # gzip, which takes nearly all the time, lets threads run beside each other
WAITING = 32  # cases that may wait in memory for their files before drawing waits for them


class CaseWriter:
    """Handler that writes label and image of each generated case, in threads beside the drawing of the next.

    A case's image comes last and marks it as whole. An error of a file ends the run.

    Args:
        output_dir: gets `labelsTr/<case>.nii.gz` (uint8) and `imagesTr/<case>.nii.gz` (float32 in [0, 1]).
        exact: keep all bits of the voxels, as those of an edited scan are to be its own.
    """

    folders = {"label": ("labelsTr", np.uint8), "image": ("imagesTr", np.float32)}

    def __init__(self, output_dir: str, exact: bool = False) -> None:
        self.output_dir, self.exact = Path(output_dir), exact
        self.threads, self.waiting = ThreadPoolExecutor(WORKERS), deque()

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.write)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def write(self, engine: Engine) -> None:
        """Hand the cases of the batch to the threads."""
        output, copied = begin_copy(engine.state.output)
        for number in range(len(output["name"])):
            case = {key: item[number] for key, item in output.items()}
            self.waiting.append(self.threads.submit(self.write_case, case, copied))
        self.finish(waiting=WAITING)

    def finish(self, engine: Engine | None = None, waiting: int = 0) -> None:
        """Wait until at most `waiting` cases are left; raises what a thread raised."""
        while len(self.waiting) > waiting or (self.waiting and self.waiting[0].done()):
            self.waiting.popleft().result()

    def write_case(self, case: dict, copied: torch.cuda.Event | None = None) -> None:
        """Write a case that lies in the CPU's memory, or will when `copied` has happened."""
        if copied is not None:
            copied.synchronize()
        for kind, (folder, dtype) in self.folders.items():
            if kind in case:
                volume = case[kind][0].numpy().astype(dtype)
                volume = twelve_bits(volume) if kind == "image" and not self.exact else volume
                save_nifti(self.output_dir / folder / f"{case['name']}.nii.gz", volume, case["affine"].numpy())


def begin_copy(output: dict) -> tuple[dict, torch.cuda.Event | None]:
    """The output in the CPU's memory, and the event that it is whole, None where it was there.

    Only the threads wait for the GPU: while it decodes a batch, the sampling of the next is queued behind.
    """
    host = {key: item.to("cpu", non_blocking=True) if key != "name" else item for key, item in output.items()}
    if not any(torch.is_tensor(item) and item.is_cuda for item in output.values()):
        return host, None
    copied = torch.cuda.Event()
    copied.record()
    return host, copied


def twelve_bits(volume: np.ndarray) -> np.ndarray:
    """Float32 rounded to twelve significant bits, as many as scanners give: compresses faster and to two thirds."""
    return ((volume.view(np.uint32) + 0x800) & 0xFFFFF000).view(np.float32)
