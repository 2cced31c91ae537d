"""Diversity: are the synthetic images as different from each other as real ones are."""

from dataclasses import replace

import numpy as np
import torch
from monai.metrics import MultiScaleSSIMMetric, SSIMMetric
from tqdm import tqdm

from lldm3d.data.dataset import Schema
from lldm3d.evaluation.rows import NEAR_FLOOR, Row
from lldm3d.evaluation.scans import read

PAIRS = 50  # random pairs of images whose similarity is measured
KERNEL = 7  # voxels
SCALES = (0.0448, 0.2856, 0.3001)  # the first three of the five weights of Wang et al. 2003: scans have few voxels
METRICS = {  # name: (metric, voxels that it needs along each axis)
    "SSIM of pairs": (SSIMMetric(3, win_size=KERNEL), KERNEL),
    "MS-SSIM of pairs": (MultiScaleSSIMMetric(3, kernel_size=KERNEL, weights=SCALES), KERNEL * (len(SCALES) - 1) ** 2),
}


def diversity_rows(
    synthetic: list[dict], training: list[dict], schema: Schema, device: torch.device, seed: int = 0
) -> list[Row]:
    """SSIM and MS-SSIM of random pairs of images: higher among synthetic than among real images means less variety."""
    usable = {name: metric for name, (metric, least) in METRICS.items() if min(schema.roi_size) >= least}
    ours, real = (similarities(usable, cases, schema, device, seed) for cases in (synthetic, training))
    rows = []
    for name, (_, least) in METRICS.items():
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
