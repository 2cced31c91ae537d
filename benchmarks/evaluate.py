"""What an evaluation costs: `lldm3d evaluate` at three numbers of volumes, and FID beside MONAI's and torchmetrics'.

    python -m benchmarks.evaluate --workdir work/evaluate

Writes simulated livers of 160x160x64 voxels, as many as the largest size, into the work directory (once), and a
segmentation network of random weights, whose features cost as much as trained ones. Of each number a third are real
training, test and synthetic cases. Prints JSON.
"""

import json
import shutil
import sys
import time
from pathlib import Path

import fire
import numpy as np
import torch
import yaml
from monai.bundle import ConfigParser
from monai.metrics import FIDMetric
from torchmetrics.image.fid import FrechetInceptionDistance

from benchmarks.machine import describe
from benchmarks.volumes import write_volumes
from benchmarks.watch import watched
from lldm3d.bundle import bundle_path
from lldm3d.evaluation.distances import fid
from lldm3d.files import read_json, save_checkpoint, write_json

SIDES = ("training", "test", "synthetic")
FEATURES, CASES, ROUNDS = 2048, 144, 3  # of the FID


def write_side(folder: Path, volumes: Path, cases: dict[str, range], size: tuple, spacing: tuple) -> None:
    """A prepared data set of some of the volumes."""
    about = read_json(volumes / "drawn" / "dataset.json")
    content = {key: about.get(key, []) for key in ("labels", "tubular", "lesions", "inside")}
    content |= {"name": "volumes", "roi_size": size, "spacing": spacing, "training": [], "validation": [], "test": []}
    for split, chosen in cases.items():
        content[split] = [
            {kind: str(volumes / f"{kind}sTr" / f"volume_{index:03d}.nii.gz") for kind in ("image", "label")}
            for index in chosen
        ]
    write_json(folder / "dataset.json", content)


def write_network(folder: Path, class_names: list[str]) -> None:
    """A stage folder of seg_resunet, of its own size, with random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    overrides = {"bundle_root": str(bundle_path("seg_resunet")), "class_names": class_names, "roi_size": [96, 96, 64]}
    (folder / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    parser = ConfigParser(ConfigParser.load_config_file(str(bundle_path("seg_resunet") / "configs" / "inference.yaml")))
    parser.update(overrides)
    save_checkpoint(folder / "model.pt", {"model": parser.get_parsed_content("network_def").state_dict()})


def evaluation(work: Path, number: int, size: tuple, spacing: tuple) -> dict:
    """Seconds and memory of the command with an empty cache."""
    third, folder = number // len(SIDES), work / str(number)
    shutil.rmtree(folder, ignore_errors=True)
    chosen = {side: range(place * third, (place + 1) * third) for place, side in enumerate(SIDES)}
    write_side(folder / "synthetic", work / "volumes", {"training": chosen.pop("synthetic")}, size, spacing)
    write_side(folder / "real", work / "volumes", chosen, size, spacing)
    options = [f"--{name}={folder / name}" for name in ("real", "synthetic")] + [f"--segmenter={work / 'network'}"]
    command = [sys.executable, "-m", "lldm3d", "evaluate", *options, f"--output_dir={folder / 'evaluation'}"]
    found = watched(command, stdout=sys.stderr)
    return {"volumes": 3 * third, **found, "processor_seconds_per_volume": found["processor_seconds"] / (3 * third)}


def fids() -> dict:
    """Seconds of one FID of random features by each implementation in turn, and the values."""
    rng = np.random.default_rng(0)
    a, b = (rng.normal(shift, 1, (CASES, FEATURES)) @ np.diag(rng.uniform(0.1, 1, FEATURES)) for shift in (0, 0.1))
    seconds: dict[str, list[float]] = {}
    values = {}
    for _ in range(ROUNDS):
        for name, measure in {"ours": fid, "monai": by_monai, "torchmetrics": by_torchmetrics}.items():
            started = time.perf_counter()
            values[name] = measure(a, b)
            seconds.setdefault(name, []).append(time.perf_counter() - started)
    medians = {name: float(np.median(found)) for name, found in seconds.items()}
    return {
        "times_as_fast": {name: medians[name] / medians["ours"] for name in ("monai", "torchmetrics")},
        "relative_difference": {name: values[name] / values["ours"] - 1 for name in ("monai", "torchmetrics")},
        "median_seconds": medians,
        "spread_seconds": {name: [min(found), max(found)] for name, found in seconds.items()},
        "cases": CASES,
        "features": FEATURES,
    }


def by_monai(a: np.ndarray, b: np.ndarray) -> float:
    return float(FIDMetric()(torch.from_numpy(a), torch.from_numpy(b)))


class Given(torch.nn.Module):
    """In place of torchmetrics' Inception: the features are given."""

    num_features = FEATURES

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def by_torchmetrics(a: np.ndarray, b: np.ndarray) -> float:
    metric = FrechetInceptionDistance(feature=Given())
    metric.update(torch.from_numpy(a), real=True)
    metric.update(torch.from_numpy(b), real=False)
    return float(metric.compute())


def main(
    workdir: str,
    numbers: tuple[int, ...] = (36, 72, 144),
    size: tuple[int, int, int] = (160, 160, 64),
    spacing: tuple[float, float, float] = (1.5, 1.5, 3.0),
) -> None:
    work = Path(workdir).resolve()
    compared = fids()
    write_volumes(work / "volumes", max(numbers), tuple(size), tuple(spacing))
    write_network(work / "network", list(read_json(work / "volumes/drawn/dataset.json")["labels"].values()))
    runs = [evaluation(work, number, size, spacing) for number in numbers]
    print(json.dumps({"fid": compared, "evaluations": runs, "size": size, "machine": describe()}, indent=1))


if __name__ == "__main__":
    fire.Fire(main)
