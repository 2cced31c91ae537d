"""The whole road from a hospital's scans to volumes ready for training: ours beside MONAI's CacheDataset.

    python -m benchmarks.prepare --workdir work/prepare --volumes 48 --rounds 3

Scans are 176x176x48 voxels of int16 at 1.4x1.4x4 mm in LPS, as `.nii.gz`; trainings take 160x160x64 at 1.5x1.5x3 mm in
RAS. Ours is `lldm3d prepare`, which also checks each scan and keeps thin vessels whole, and the first run of
MappedDataset; a later training has only the second run. MONAI's does the same with stock transforms (values at centres,
nearest neighbour for labels) in each training. Runs take turns, each in a process of its own; the files lie in the
system's memory. Prints JSON, the ratios first.
"""

import json
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import fire
import nibabel as nib
import numpy as np
from monai.data import CacheDataset
from monai.transforms import Compose, Orientationd, ResizeWithPadOrCropd, ScaleIntensityd, Spacingd

from benchmarks.data import CORES, SIZE, SPACING, disk, measure, summary, touch, transforms
from benchmarks.machine import describe
from benchmarks.volumes import write_volumes
from lldm3d.data.cache import MappedDataset
from lldm3d.data.dataset import SPLITS, load_cases
from lldm3d.data.prepare import prepare
from lldm3d.files import load_nifti, read_json, write_json
from lldm3d.pipeline.profile import SEGMENT_OVERLAY

RAW_SIZE, RAW_SPACING = (176, 176, 48), (1.4, 1.4, 4.0)
DRAWN = 12  # scans that are written; further ones are links to them
KEYS = ("image", "label")


def write_scans(work: Path, number: int) -> list[dict]:
    """A Decathlon folder `raw` of scans as a scanner's converter leaves them; its cases."""
    write_volumes(work / "drawn", DRAWN, RAW_SIZE, RAW_SPACING)
    lps = np.diag([-RAW_SPACING[0], -RAW_SPACING[1], RAW_SPACING[2], 1])
    for path in sorted((work / "drawn").glob("*sTr/*.nii.gz")):
        written = work / "scans" / path.parent.name / path.name
        if not written.exists():
            written.parent.mkdir(parents=True, exist_ok=True)
            array = load_nifti(path)[0][::-1, ::-1]
            array = (1000 * array).round().astype(np.int16) if path.parent.name == "imagesTr" else array
            nib.save(nib.Nifti1Image(array, lps), written)
    entries = []
    for index in range(number):
        entry = {key: f"{key}sTr/case_{index:03d}.nii.gz" for key in KEYS}
        for key, name in entry.items():
            link = work / "raw" / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(work / "scans" / f"{key}sTr" / f"volume_{index % DRAWN:03d}.nii.gz")
        entries.append({**entry, "patient": f"patient_{index % DRAWN}"})  # one scan has one patient
    about = read_json(work / "drawn" / "drawn" / "dataset.json")
    write_json(work / "raw" / "dataset.json", about | {"training": entries, "numTraining": number})
    return [{key: str(work / "raw" / entry[key]) for key in KEYS} for entry in entries]


def stock_transforms() -> Compose:
    """Those of seg_unet's training, after stock ones that do what `lldm3d prepare` did."""
    load, channel, *rest = transforms().transforms
    preparing = [
        Orientationd(KEYS, axcodes="RAS"),
        Spacingd(KEYS, pixdim=SPACING, mode=("bilinear", "nearest")),
        ScaleIntensityd("image"),
        ResizeWithPadOrCropd(KEYS, SIZE),
    ]
    return Compose([load, channel, *preparing, *rest])


def runs(work: Path, cases: list[dict]) -> dict[str, Callable[[], object]]:
    """What is measured, in the order of a round."""
    ours, stock = transforms(SEGMENT_OVERLAY), stock_transforms()

    def prepared() -> None:
        with redirect_stdout(sys.stderr):
            prepare(work / "prepared", data=work / "raw", spacing=SPACING, roi_size=SIZE, overwrite=True)

    def mapped() -> MappedDataset:
        listed = [case for split in SPLITS for case in load_cases(work / "prepared", split)]
        return MappedDataset([case.as_dict() for case in listed], ours, work / "cache")

    return {
        "prepare": prepared,
        "mapped_first": mapped,
        "mapped_second": lambda: touch(mapped()),
        "cache_dataset": lambda: CacheDataset(cases, stock, num_workers=CORES, progress=False),
        "cache_dataset_as_by_default": lambda: CacheDataset(cases, stock, progress=False),
    }


def ratios(results: dict, key: str) -> dict[str, dict[str, float]]:
    """How many times as fast as CacheDataset the whole road is once, and each later training."""
    median = {name: found[key]["median"] for name, found in results.items()}
    roads = {"first": median["prepare"] + median["mapped_first"], "second": median["mapped_second"]}
    stock = [name for name in median if name.startswith("cache_dataset")]
    return {name: {other: median[other] / spent for other in stock} for name, spent in roads.items()}


def main(workdir: str, volumes: int = 48, rounds: int = 3) -> None:
    work = Path(workdir).resolve()
    calls, found = runs(work, write_scans(work, volumes)), {}
    for _ in range(rounds):
        for folder in ("prepared", "cache"):
            shutil.rmtree(work / folder, ignore_errors=True)
        for name, call in calls.items():
            found.setdefault(name, []).append(measure(call))
    results = {name: summary(found, name) for name in calls}
    report = {
        "times_as_fast": ratios(results, "seconds"),
        "times_as_fast_by_processor": ratios(results, "processor_seconds"),
        "volumes": volumes,
        "cores": CORES,
        "runs": results,
        "bytes_on_disk": {name: disk(work / name) for name in ("raw", "prepared", "cache")},
        "machine": describe(),
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    fire.Fire(main)
