"""Similar images: variety among synthetic ones, and each beside the real image of the same label."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from monai.metrics import MultiScaleSSIMMetric, PSNRMetric, SSIMMetric
from tqdm import tqdm

from lldm3d.data.dataset import Case, Schema
from lldm3d.data.scans import read_pair
from lldm3d.evaluation.metrics import Compared, Metric, Row, mean_row
from lldm3d.evaluation.perceptual import Lpips
from lldm3d.evaluation.records import CaseRecords, label_hash

CLASS_MEANS = "class means"  # variant of a row
PAIRS = 50  # random pairs of images whose similarity is measured
KERNEL = 7  # voxels
SCALES = (0.0448, 0.2856, 0.3001)  # the first three of the five weights of Wang et al. 2003: scans have few voxels
SSIM = (SSIMMetric(3, win_size=KERNEL), KERNEL)  # metric, voxels that it needs along each axis
MS_SSIM = (MultiScaleSSIMMetric(3, kernel_size=KERNEL, weights=SCALES), KERNEL * (len(SCALES) - 1) ** 2)
PAIRWISE = {Metric.PAIRWISE_SSIM: SSIM, Metric.PAIRWISE_MS_SSIM: MS_SSIM}
PAIRED = {Metric.PAIRED_PSNR: (PSNRMetric(1.0), 1), Metric.PAIRED_SSIM: SSIM, Metric.PAIRED_MS_SSIM: MS_SSIM}


def large_enough(measures: dict[Metric, tuple], schema: Schema) -> dict[Metric, object]:
    """Those of the measures for which the scans have enough voxels."""
    return {metric: measure for metric, (measure, least) in measures.items() if min(schema.roi_size) >= least}


def too_small(measures: dict[Metric, tuple], compared: Compared, schema: Schema) -> list[Row]:
    """A row for each other one."""
    missing = {metric: least for metric, (_, least) in measures.items() if min(schema.roi_size) < least}
    note = "needs {} voxels along each axis, the scans have {}"
    return [Row(metric, compared, note=note.format(least, [*schema.roi_size])) for metric, least in missing.items()]


def lpips_missing(perceptual: Lpips | None, schema: Schema) -> str:
    """Why there is no LPIPS; nothing where there is."""
    if perceptual is None:
        return "needs weights: give --lpips"
    if min(schema.roi_size[:2]) < perceptual.least:
        return f"{perceptual.name} needs slices of {perceptual.least} voxels, the scans have {[*schema.roi_size[:2]]}"
    return ""


def volume_of(case: Case, schema: Schema, device: torch.device) -> torch.Tensor:
    """The image of a case [1, 1, X, Y, Z]."""
    return torch.as_tensor(read_pair(case, schema).image, device=device)[None, None]


def diversity_rows(
    synthetic: list[Case], training: list[Case], schema: Schema, device: torch.device, seed: int = 0
) -> list[Row]:
    """SSIM and MS-SSIM of random pairs of images: higher among synthetic than among real images means less variety."""
    usable = large_enough(PAIRWISE, schema)
    ours, real = (pairwise(usable, cases, schema, device, seed) for cases in (synthetic, training))
    note = "n: pairs; interval: 95 % of the pairs; above the floor means less variety than real images"
    rows = []
    for metric, found in ours.items():
        figures = {"interval": tuple(np.percentile(found, [2.5, 97.5])), "n": len(found), "floor": real[metric].mean()}
        rows.append(Row(metric, Compared.AMONG_SYNTHETIC, found.mean(), note=note, **figures))
    return rows + too_small(PAIRWISE, Compared.AMONG_SYNTHETIC, schema)


def pairwise(
    measures: dict[Metric, object], cases: list[Case], schema: Schema, device: torch.device, seed: int
) -> dict[Metric, np.ndarray]:
    """Each measure for up to 50 random pairs of different cases."""
    pairs = np.stack(np.triu_indices(len(cases), 1), 1)
    chosen = np.random.default_rng(seed).permutation(pairs)[:PAIRS]
    values: dict[Metric, list[float]] = {metric: [] for metric in measures}
    for pair in tqdm(chosen if measures else [], desc="evaluate diversity", mininterval=1):
        a, b = (volume_of(cases[index], schema, device) for index in pair)
        for metric, measure in measures.items():
            values[metric].append(float(measure(a, b)))
    return {metric: np.array(items) for metric, items in values.items()}


def paired_rows(
    synthetic: CaseRecords,
    real: Sequence[CaseRecords],
    schema: Schema,
    device: torch.device,
    seed: int = 0,
    further: Sequence[Case] = (),
    perceptual: Lpips | None = None,
) -> list[Row]:
    """PSNR, SSIM, MS-SSIM and LPIPS of synthetic images to the real image with the same label map.

    The floor is what another real image, chosen at random, gets beside that image. As a second one, rows of their own,
    an image in which each class has its mean over training images: these figures reward what is right on average. No
    rows without pairs: labels that a model made have no true image.

    Args:
        further: real pairs that are in no split, such as warped ones.
    """
    known = {label_hash(read_pair(case, schema).label): case for case in further}
    known |= {record.label: case for split in real for case, record in split.labelled()}
    pairs = [(case, known[record.label]) for case, record in synthetic.labelled() if record.label in known]
    if not pairs:
        return []
    all_real = [case for split in real for case in split.cases]
    rng = np.random.default_rng(seed)
    missing = lpips_missing(perceptual, schema)
    usable = large_enough(PAIRED, schema) | ({} if missing else {Metric.PAIRED_LPIPS: perceptual})
    values: dict[Metric, list[tuple[float, float, float]]] = {metric: [] for metric in usable}
    means = class_means([case for case, _ in real[0].labelled()][:PAIRS] or all_real, schema)
    for ours, truth in pairs:
        others = [case for case in all_real if case is not truth]
        other = others[rng.integers(len(others))]
        image, true_image, other_image = (volume_of(case, schema, device) for case in (ours, truth, other))
        flat = torch.as_tensor(means[read_pair(truth, schema).label], device=device)[None, None]
        for metric, measure in usable.items():
            values[metric].append(tuple(float(measure(one, true_image)) for one in (image, other_image, flat)))
    rows = []
    for metric, found in values.items():
        drawn, random, flat = np.array(found).T
        by = perceptual.identity if metric == Metric.PAIRED_LPIPS else {}
        rows.append(mean_row(metric, Compared.SAME_LABEL, drawn, random, "floor: a random real image", **by))
        note = "an image of class means, not the synthetic one; floor: a random real image"
        rows.append(mean_row(metric, Compared.SAME_LABEL, flat, random, note, variant=CLASS_MEANS, **by))
    absent = [Row(Metric.PAIRED_LPIPS, Compared.SAME_LABEL, note=missing)] if missing else []
    return rows + absent + too_small(PAIRED, Compared.SAME_LABEL, schema)


def class_means(cases: Sequence[Case], schema: Schema) -> np.ndarray:
    """The mean grey of each class [K] over labelled cases, float32; 0 of one that none has."""
    sums, voxels = np.zeros((2, len(schema.class_names)))
    for case in cases:
        scan = read_pair(case, schema)
        sums += np.bincount(scan.label.ravel(), scan.image.ravel(), len(sums))
        voxels += np.bincount(scan.label.ravel(), minlength=len(sums))
    return (sums / np.maximum(voxels, 1)).astype(np.float32)


def draw_rows(
    synthetic: Sequence[Case],
    again: Sequence[Case],
    schema: Schema,
    device: torch.device,
    perceptual: Lpips | None = None,
) -> list[Row]:
    """How much two images of the same label differ: 0 of a method that always draws the same.

    Args:
        synthetic: pairs.
        again: some of them by name, drawn once more with other noise.
    """
    measures, first = {Metric.DRAW_DIVERSITY: MS_SSIM}, {case.name: case for case in synthetic}
    compared, note, rows = Compared.SAME_LABEL_TWICE, "n: labels drawn twice", []
    for metric, measure in large_enough(measures, schema).items():
        values = [1 - float(measure(*pair)) for pair in drawn_twice(first, again, schema, device)]
        rows.append(mean_row(metric, compared, np.array(values), np.array([]), note))
    if missing := lpips_missing(perceptual, schema):
        rows.append(Row(Metric.DRAW_LPIPS, compared, note=missing))
    else:
        values = [perceptual(*pair) for pair in drawn_twice(first, again, schema, device)]
        rows.append(mean_row(Metric.DRAW_LPIPS, compared, np.array(values), np.array([]), note, **perceptual.identity))
    return rows + too_small(measures, compared, schema)


def drawn_twice(
    first: dict[str, Case], again: Sequence[Case], schema: Schema, device: torch.device
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Both images [1, 1, X, Y, Z] of each case that was drawn once more."""
    for case in again:
        yield volume_of(first[case.name], schema, device), volume_of(case, schema, device)
