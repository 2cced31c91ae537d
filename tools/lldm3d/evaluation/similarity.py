"""Similar images: diversity among synthetic ones, and each beside the real image of the same label."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from monai.metrics import MultiScaleSSIMMetric, PSNRMetric, SSIMMetric
from tqdm import tqdm

from lldm3d.data.dataset import Schema
from lldm3d.evaluation.metrics import HIGHER, NEAR_FLOOR, Row, bootstrap
from lldm3d.evaluation.records import Record, Survey
from lldm3d.evaluation.scans import read

PAIRS = 50  # random pairs of images whose similarity is measured
KERNEL = 7  # voxels
SCALES = (0.0448, 0.2856, 0.3001)  # the first three of the five weights of Wang et al. 2003: scans have few voxels
SIMILARITIES = {  # name: (metric, voxels that it needs along each axis)
    "SSIM of pairs": (SSIMMetric(3, win_size=KERNEL), KERNEL),
    "MS-SSIM of pairs": (MultiScaleSSIMMetric(3, kernel_size=KERNEL, weights=SCALES), KERNEL * (len(SCALES) - 1) ** 2),
}


def diversity_rows(
    synthetic: list[dict], training: list[dict], schema: Schema, device: torch.device, seed: int = 0
) -> list[Row]:
    """SSIM and MS-SSIM of random pairs of images: higher among synthetic than among real images means less variety."""
    usable = {name: metric for name, (metric, least) in SIMILARITIES.items() if min(schema.roi_size) >= least}
    ours, real = (similarities(usable, cases, schema, device, seed) for cases in (synthetic, training))
    rows = []
    for name, (_, least) in SIMILARITIES.items():
        row = Row("diversity", name, "pairs of synthetic / pairs of real training", None, NEAR_FLOOR)
        if name not in usable:
            note = f"needs {least} voxels along each axis, the scans have {list(schema.roi_size)}"
            rows.append(replace(row, note=note))
            continue
        low, high = np.percentile(ours[name], [2.5, 97.5])
        rows.append(
            replace(
                row,
                value=ours[name].mean(),
                interval=(low, high),
                n=len(ours[name]),
                floor=real[name].mean(),
                note="n: pairs; interval: 95 % of the pairs; above the floor means less variety than real images",
            )
        )
    return rows


def similarities(
    metrics: dict, cases: list[dict], schema: Schema, device: torch.device, seed: int
) -> dict[str, np.ndarray]:
    """Each metric for up to 50 random pairs of different cases."""
    pairs = np.stack(np.triu_indices(len(cases), 1), 1)
    chosen = np.random.default_rng(seed).permutation(pairs)[:PAIRS]
    values: dict[str, list[float]] = {name: [] for name in metrics}
    for pair in tqdm(chosen if metrics else [], desc="evaluate diversity", mininterval=1):
        a, b = (torch.as_tensor(read(cases[index], schema).image, device=device)[None, None] for index in pair)
        for name, metric in metrics.items():
            values[name].append(float(metric(a, b)))
    return {name: np.array(items) for name, items in values.items()}


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
    metrics = {
        "PSNR": (PSNRMetric(1.0), 1),
        **{name.removesuffix(" of pairs"): item for name, item in SIMILARITIES.items()},
    }
    values: dict[str, list[tuple[float, float]]] = {name: [] for name in metrics}
    for ours, truth in pairs:
        other = others[rng.integers(len(others))]
        images = [torch.as_tensor(read(case, schema).image, device=device)[None, None] for case in (ours, truth, other)]
        for name, (metric, least) in metrics.items():
            if min(schema.roi_size) >= least:
                values[name].append((float(metric(images[0], images[1])), float(metric(images[2], images[1]))))
    return [paired_row(name, np.array(found)) for name, found in values.items() if found]


def labelled(side: Survey) -> list[tuple[dict, Record]]:
    """The cases of a side whose label map is there, and not empty."""
    return [pair for pair in zip(side.cases, side.records, strict=True) if pair[1].label]


def paired_row(name: str, found: np.ndarray) -> Row:
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
