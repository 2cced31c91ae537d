"""Paired metrics: a synthetic image beside the real image of the same label, where there is one."""

from collections.abc import Sequence

import numpy as np
import torch
from monai.metrics import PSNRMetric

from lldm3d.data.dataset import Schema
from lldm3d.evaluation.comparison import bootstrap
from lldm3d.evaluation.diversity import METRICS
from lldm3d.evaluation.records import Record
from lldm3d.evaluation.rows import HIGHER, Row
from lldm3d.evaluation.scans import read
from lldm3d.evaluation.survey import Survey


def paired_rows(
    synthetic: Survey, real: Sequence[Survey], schema: Schema, device: torch.device, seed: int = 0
) -> list[Row]:
    """PSNR, SSIM and MS-SSIM of synthetic images to the real image with the same label map, voxel by voxel.

    The floor is what another real image, of a label drawn at random, gets beside that image. No rows without pairs:
    drawn labels have no ground truth.
    """
    known = {record.label: case for side in real for case, record in labelled(side)}
    pairs = [(case, known[record.label]) for case, record in labelled(synthetic) if record.label in known]
    others = [case for side in real for case in side.cases]
    rng = np.random.default_rng(seed)
    metrics = {"PSNR": (PSNRMetric(1.0), 1), **{name.removesuffix(" of pairs"): item for name, item in METRICS.items()}}
    values: dict[str, list[tuple[float, float]]] = {name: [] for name in metrics}
    for ours, truth in pairs:
        other = others[rng.integers(len(others))]
        images = [torch.as_tensor(read(case, schema).image, device=device)[None, None] for case in (ours, truth, other)]
        for name, (metric, least) in metrics.items():
            if min(schema.roi_size) >= least:
                values[name].append((float(metric(images[0], images[1])), float(metric(images[2], images[1]))))
    return [row(name, np.array(found)) for name, found in values.items() if found]


def labelled(side: Survey) -> list[tuple[dict, Record]]:
    """The cases of a side whose label map is there, and not empty."""
    return [pair for pair in zip(side.cases, side.records, strict=True) if pair[1].label]


def row(name: str, found: np.ndarray) -> Row:
    """`found` [N, 2]: of the synthetic image, and of a random real one."""
    ours, other = found.T
    return Row(
        "paired",
        name,
        "synthetic / real image with the same label",
        ours.mean(),
        HIGHER,
        unit="dB" if name == "PSNR" else "",
        interval=bootstrap(np.mean, ours),
        n=len(ours),
        floor=other.mean(),
        note="floor: a random real image",
    )
