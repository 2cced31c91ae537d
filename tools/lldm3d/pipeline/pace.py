"""Trainings that are given minutes instead of steps."""

import shutil
from collections.abc import Callable
from pathlib import Path

from lldm3d.files import read_json, write_json
from lldm3d.pipeline.plan import digest

STEPS = 8  # of each of a pilot's two epochs; the first one is not measured


def steps_in(folder: Path, minutes: float, epochs: int, train: Callable[[dict], None], settings: dict) -> dict:
    """The ids `epochs` and `epoch_length` of a training of so many minutes on this machine, as a pilot of it tells.

    Both are kept in `pace.json`, so that a training that was killed goes on with the same steps.

    Args:
        folder: of the stage.
        minutes: of its steps; validation comes on top.
        epochs: into which the steps are divided.
        train: trains with these overrides laid last, and leaves `metrics.json`.
        settings: all else that the time depends on; where it changes a new pilot is trained.
    """
    path, origin = folder / "pace.json", digest(settings, minutes, epochs)
    if path.is_file() and (found := read_json(path))["origin"] == origin:
        return {"epochs": epochs, "epoch_length": found["epoch_length"]}
    pilot = folder / "pilot"
    shutil.rmtree(pilot, ignore_errors=True)
    pilot.mkdir(parents=True)
    # a validation interval that is never reached
    train({"output_dir": str(pilot), "epochs": 2, "epoch_length": STEPS, "val_interval": 3})
    first, second = read_json(pilot / "metrics.json")["seconds"]
    seconds = (second - first) / STEPS
    length = max(1, round(60 * minutes / seconds / epochs))
    write_json(path, {"origin": origin, "minutes": minutes, "step_seconds": seconds, "epoch_length": length})
    shutil.rmtree(pilot)
    print(f"lldm3d: {seconds:.3g} s a step, so {epochs * length} steps in {minutes:g} minutes", flush=True)
    return {"epochs": epochs, "epoch_length": length}
