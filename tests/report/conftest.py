"""A work directory to report on."""

import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from lldm3d.bundle import bundle_path
from lldm3d.evaluation import figures
from lldm3d.evaluation.evaluate import evaluate
from lldm3d.files import read_json, write_json
from lldm3d.report.comparison_figure import write_comparison
from lldm3d.report.write import report
from lldm3d.study.scores import HEADER
from lldm3d.study.stages import REAL, SegmentStage

from ..evaluation.toys import SIZE, write_dataset, write_segmenter

SEGMENTER = SegmentStage("steps", "seg_unet", "multi", "R", REAL, 0).path
CASES = {"training": [0, 1, 2, 3], "validation": [10, 11], "test": [20, 21]}


def write_method(work: Path, method: str, source: str, seeds: list[int], labels: bool = True) -> None:
    """What a method leaves with one source of labels: pairs and their cost, the curves of a training, an evaluation."""
    pairs = work / f"pairs/{method}/{source}/seed_0"
    noise = np.random.default_rng(0)
    write_dataset(
        pairs, {"training": seeds}, lambda image, label, _: (np.clip(image + noise.normal(0, 0.05, SIZE), 0, 1), label)
    )
    if not labels:
        content = read_json(pairs / "dataset.json")
        write_json(pairs / "dataset.json", content | {"training": [{"image": c["image"]} for c in content["training"]]})
    write_json(pairs / "cost.json", {"seconds": 12.0, "volumes": 4, "memory_gb": 1.5, "parameters": 2_500_000})
    models = work / f"methods/{method}/seed_0"
    write_json(models / "image_ldm/metrics.json", {"loss": [1.0, 0.5, 0.25], "val_loss": [0.75], "seconds": [60, 90]})
    evaluate(
        *(work / "dataset", pairs, work / f"evaluation/{method}/{source}/seed_0", work / SEGMENTER),
        cache_dir=work / "evaluation/cache",
    )


@pytest.fixture(scope="session")
def work(made_once) -> Path:
    """A work directory as a run leaves it, with a little of everything (do not write into it)."""
    return made_once("report_work", write_work)


def write_work(work: Path) -> None:
    write_dataset(work / "dataset", CASES)
    write_segmenter(work / SEGMENTER)
    for regime, dice in (("R", 0.7), ("R+S", 0.8)):
        stage = SegmentStage("steps", "seg_unet", "multi", regime, "lldm" if "S" in regime else REAL, 0)
        path = work / stage.path / "metrics.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [f"{case},{case},{name},{dice},3,,,," for case in "abc" for name in ("liver", "vessel", "tumour")]
        path.write_text("\n".join([",".join(HEADER), *rows]) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lldm3d.evaluation.similarity.PAIRS", 4)
        patch.setattr("lldm3d.evaluation.distances.DRAWS", 10)
        write_method(work, "lldm", "drawn", [30, 31, 32])
        patch.setattr(figures, "write_figures", lambda *arguments: None)  # the report shows those of the first alone
        write_method(work, "lldm", "test", CASES["test"])
        write_method(work, "ddpm", "drawn", [40, 41, 42], labels=False)
    models = work / "methods/lldm/seed_0"
    write_json(models / "autoencoder_image/metrics.json", {"psnr": 27.125, "ssim": 0.875, "n": 2, "loss": [1.0, 0.5]})
    command = f"$ cd {bundle_path('image_ldm')} && {sys.executable} -m monai.bundle run training --x {work}/o.yaml"
    (models / "image_ldm/log.txt").write_text(command + "\nepoch 1\n")
    gates = {"autoencoder_image": {"gate": {"psnr": 20}}}
    run = {"profile": "demo", "data": None, "settings": {"methods": {"lldm": gates}}}
    (work / "run.yaml").write_text(yaml.safe_dump(run))
    write_comparison(work, ["lldm", "ddpm"], ["drawn", "test"], [0], 4)
    report(work)
