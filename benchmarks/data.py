"""What it costs to have all cases of a training at hand: ours beside MONAI's CacheDataset and PersistentDataset.

    python -m benchmarks.data --workdir work/data --volumes 48

All do the fixed transforms of the segmentation bundles on `.nii.gz` files of 160x160x64 voxels, which lie in the
system's memory. `first` begins with no cache, `second` with the one that `first` left, and ends when each page of it is
in memory; CacheDataset keeps nothing. Each run is a process of its own. Memory is what it and its workers hold, with
mapped files, which the system may drop. Prints JSON, the ratios first.
"""

import json
import os
import resource
import shutil
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from threading import Event, Thread

import fire
import psutil
import torch
from monai.bundle import ConfigParser
from monai.data import CacheDataset, PersistentDataset
from monai.data.utils import pickle_hashing
from monai.transforms import Compose

from benchmarks.machine import describe
from benchmarks.volumes import write_volumes
from benchmarks.watch import memory
from lldm3d.bundle import TRAIN, bundle_path
from lldm3d.data.cache import MappedDataset
from lldm3d.pipeline.profile import SEGMENT_OVERLAY

DRAWN = 48  # volumes that are written; further ones are links to them
SIZE, SPACING, CROP = (160, 160, 64), (1.5, 1.5, 3.0), [96, 96, 64]
CORES = len(os.sched_getaffinity(0))
FORK = get_context("fork")  # an import of torch would take longer than the work


def link_volumes(work: Path, number: int) -> list[dict]:
    """The cases, as many as wanted."""
    write_volumes(work / "volumes", DRAWN, SIZE, SPACING)
    cases = []
    for index in range(number):
        case = {key: work / "links" / f"{key}_{index:03d}.nii.gz" for key in ("image", "label")}
        for key, path in case.items():
            path.parent.mkdir(exist_ok=True)
            if not path.exists():
                path.symlink_to(work / "volumes" / f"{key}sTr" / f"volume_{index % DRAWN:03d}.nii.gz")
        cases.append({key: str(path) for key, path in case.items()})
    return cases


def transforms(*overlays: str) -> Compose:
    """Those of seg_unet's training."""
    parser = ConfigParser()
    parser.read_config([str(bundle_path("seg_unet") / TRAIN), *overlays])
    parser["roi_size"] = CROP
    return parser.get_parsed_content("train#preprocessing")


def touch(dataset: MappedDataset) -> None:
    """Have each page of the mapped cases in memory."""
    for case in dataset.cases:
        for value in filter(torch.is_tensor, case.values()):
            value.flatten()[::1024].sum()


def pass_over(dataset: object) -> None:
    """Draw each case once."""
    for index in range(len(dataset)):
        dataset[index]


def runs(cases: list[dict], cache: Path) -> dict[str, Callable[[], object]]:
    """What is measured, in the order of a round."""
    ours, stock = transforms(SEGMENT_OVERLAY), transforms()

    def persistent() -> None:
        # with weights_only=True it reads no file of its own: these transforms leave notes that it refuses
        folder, options = cache / "persistent", {"hash_transform": pickle_hashing, "weights_only": False}
        pass_over(PersistentDataset(cases, stock, folder, **options))

    return {
        "ours_first": lambda: MappedDataset(cases, ours, cache / "ours"),
        "ours_second": lambda: touch(MappedDataset(cases, ours, cache / "ours")),
        "cache_dataset": lambda: CacheDataset(cases, stock, num_workers=CORES, progress=False),
        "cache_dataset_as_by_default": lambda: CacheDataset(cases, stock, progress=False),
        "persistent_first": persistent,
        "persistent_second": persistent,
    }


def measure(call: Callable[[], object]) -> dict[str, float]:
    """Seconds, processor seconds and peak memory (GiB) of a call in a process of its own."""
    receiver, sender = FORK.Pipe(duplex=False)
    before = processor_seconds()
    child = FORK.Process(target=lambda: sender.send(timed(call)))
    child.start()
    sender.close()  # so that the end of a child that failed is seen
    ended, peaks = Event(), [0]
    watcher = Thread(target=watch, args=(psutil.Process(child.pid), ended, peaks))
    watcher.start()
    try:
        seconds = receiver.recv()
    finally:
        ended.set()
        watcher.join()
        child.join()
    return {"seconds": seconds, "processor_seconds": processor_seconds() - before, "peak_gib": max(peaks) / 2**30}


def timed(call: Callable[[], object]) -> float:
    """Seconds of a call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def watch(process: psutil.Process, ended: Event, peaks: list[int]) -> None:
    """Note the memory until the end."""
    while not ended.wait(0.2):
        peaks.append(memory(process))


def processor_seconds() -> float:
    """Of all children that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def summary(found: dict[str, list[dict]], name: str) -> dict:
    """Medians and spreads."""
    return {
        key: {"median": median(item[key] for item in found[name]), "all": [round(item[key], 3) for item in found[name]]}
        for key in found[name][0]
    }


def disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main(workdir: str, volumes: int = 48, rounds: int = 5) -> None:
    work = Path(workdir).resolve()
    cases, cache = link_volumes(work, volumes), work / "cache"
    calls, found = runs(cases, cache), {}
    for _ in range(rounds):
        shutil.rmtree(cache, ignore_errors=True)
        for name, call in calls.items():
            found.setdefault(name, []).append(measure(call))
    results = {name: summary(found, name) for name in calls}

    def faster(ours: str, key: str) -> dict[str, float]:
        return {
            name: results[name][key]["median"] / results[ours][key]["median"] for name in calls if "ours" not in name
        }

    report = {
        "times_as_fast": {name: faster(name, "seconds") for name in ("ours_first", "ours_second")},
        "times_as_fast_by_processor": {
            name: faster(name, "processor_seconds") for name in ("ours_first", "ours_second")
        },
        "volumes": volumes,
        "cores": CORES,
        "runs": results,
        "bytes_on_disk": {name: disk(cache / name) for name in ("ours", "persistent")}
        | {"nifti": sum(Path(path).stat().st_size for case in cases for path in case.values())},
        "machine": describe(),
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    fire.Fire(main)
