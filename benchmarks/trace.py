"""Which files of tools/ a reader opens to follow a case from its raw file to its Dice in the study's table: JSON.

    python -m benchmarks.trace

All stages up to the study are run for one step each (benchmarks/one_step.yaml), in this process, so that each call is
seen. A module counts where one of its functions is given, or returns, a volume or latent of the case's size, the path
of a volume, a case, or a table of scores: also checks, losses and validation. What only passes folders, settings or
networks on does not count, nor does drawing the phantom. `files` are those of all stages, `files_from_prepared` those
from a prepared label on: encoding, diffusion on it, pairs, segmentation, study. `by_stage` names the functions.
"""

import ast
import json
import logging
import os
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import is_dataclass
from pathlib import Path
from types import FrameType

import fire
import monai.bundle
import numpy as np
import pandas as pd
import torch

import lldm3d.bundle
import lldm3d.processes
from benchmarks.machine import ROOT, describe
from benchmarks.plans import plan_of
from lldm3d.data.dataset import Case
from lldm3d.pipeline.stage import do
from lldm3d.pipeline.stages import selected_jobs

PACKAGE = str(ROOT / "tools" / "lldm3d") + os.sep
MOST = 15  # that the design allows
FROM_PREPARED = ("latents", "label_ldm", "controlnet", "pairs", "segment", "study")
SIZES = {(40, 40, 24), (32, 32, 16), (16, 16, 8)}  # of the raw, the prepared and the encoded volumes of the demo
FILES = (".nii.gz", ".npy")


def holds_case(value: object, depth: int = 3) -> bool:
    """Whether a value is, or has within some levels, a case, a volume of it, the path of one, or scores."""
    if isinstance(value, np.ndarray | torch.Tensor):
        return tuple(value.shape[-3:]) in SIZES
    if isinstance(value, str | Path):
        return str(value).endswith(FILES)
    if isinstance(value, Case | pd.DataFrame):
        return True
    if depth and isinstance(value, dict | list | tuple):
        items = value.values() if isinstance(value, dict) else value
        return any(holds_case(item, depth - 1) for item in list(items)[:20])
    return bool(depth) and is_dataclass(value) and holds_case(vars(value), depth - 1)


class Trace:
    """Notes the functions of the package that handle a case, by stage and module."""

    def __init__(self) -> None:
        self.found = defaultdict(lambda: defaultdict(set))
        self.stage = ""

    def __call__(self, frame: FrameType, event: str, returned: object) -> None:
        code = frame.f_code
        if event not in ("call", "return") or not code.co_filename.startswith(PACKAGE) or code.co_name[0] == "<":
            return
        module = code.co_filename.removeprefix(PACKAGE)
        if code.co_qualname in self.found[self.stage][module]:
            return
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + 2]  # and *args, **keywords
        values = [returned] if event == "return" else [frame.f_locals.get(name) for name in names]
        if any(map(holds_case, values)):
            self.found[self.stage][module].add(code.co_qualname)

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        self.stage = stage
        threading.setprofile(self)
        sys.setprofile(self)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)


class Here:
    """In place of a pool of processes: this one."""

    def __init__(self, *_: object) -> None:
        self.map = map

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *_: object) -> None: ...

    def shutdown(self, **_: object) -> None: ...


def run_here(command: list[str], cwd: Path, log: Path, environment: dict[str, str]) -> None:
    """In place of a child process: the same run of a bundle in this one."""
    before, (run_id, _, configs) = os.getcwd(), command[command.index("run") + 1 :]
    os.chdir(cwd)
    try:
        monai.bundle.run(run_id, config_file=ast.literal_eval(configs))
    finally:
        os.chdir(before)


def traced(work: Path, trace: Callable) -> None:
    """Run all stages up to the study in this process."""
    lldm3d.bundle.run_logged, lldm3d.processes.ProcessPoolExecutor = run_here, Here
    plan = plan_of(str(ROOT / "benchmarks/one_step.yaml"))
    for job in selected_jobs(plan, "study"):
        if job.stage == "phantom":
            do(work, job, plan)
            continue
        with trace.of(job.values.get("training") or job.stage):
            do(work, job, plan)


def main() -> None:
    """Run the stages and print what was seen."""
    logging.disable(logging.WARNING)  # MONAI writes to where the JSON goes
    trace = Trace()
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        traced(Path(folder).resolve(), trace)
    by_stage = {
        stage: {module: sorted(names) for module, names in sorted(found.items()) if names}
        for stage, found in trace.found.items()
    }
    modules = sorted({module for found in by_stage.values() for module in found})
    later = {module for stage in FROM_PREPARED for module in by_stage[stage]}
    content = {"files": len(modules), "files_from_prepared": len(later), "at_most": MOST}
    content |= {"modules": modules, "by_stage": by_stage}
    print(json.dumps({**content, "machine": describe()}, indent=1))


if __name__ == "__main__":
    fire.Fire(main)
