"""One pass over a split: read each case once and keep the little that the metrics need of it."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from monai.metrics import compute_hausdorff_distance
from scipy.ndimage import gaussian_filter
from tqdm import tqdm

from lldm3d.data.dataset import Schema
from lldm3d.evaluation.matching import coarse
from lldm3d.evaluation.network import Segmenter
from lldm3d.evaluation.scans import Scan, read
from lldm3d.evaluation.shapes import Statistics, is_one_organ, label_statistics
from lldm3d.labels import one_hot

BLUR = 2.0  # voxels, of the yardstick


@dataclass
class Survey:
    """What is kept of the N cases of a split; `surface` marks those whose predictions are scored."""

    cases: list[dict]
    features: np.ndarray  # [N, D]
    coarse: np.ndarray  # [N, x, y, z], images as `matching` compares them
    labels: list[str | None] = field(default_factory=list)  # SHA-256 of the label maps; None for empty ones
    statistics: list[Statistics] = field(default_factory=list)
    one_organ: list[dict[str, bool]] = field(default_factory=list)  # parent class: is it one component
    scores: list[dict[str, dict[str, float]]] = field(default_factory=list)  # metric: class: value
    blurred: np.ndarray | None = None  # [N, D], features of the blurred images
    further: "Survey | None" = None  # the same cases, with the features of a further network

    def __len__(self) -> int:
        return len(self.cases)


def survey(
    split: str,
    cases: list[dict],
    schema: Schema,
    segmenter: Segmenter,
    score: bool = False,
    blur: bool = False,
    further: Callable | None = None,
) -> Survey:
    """Read the cases one by one.

    Args:
        split: shown by the progress bar.
        score: compare the network's prediction with the label.
        blur: also take the features of the image blurred by a Gaussian of 2 voxels.
        further: a further network that gives features of an image.

    Raises:
        UserError: where a file cannot be used.
    """
    features, blurred, images, seen = [], [], [], []
    found = Survey(cases, np.empty((0, 0)), np.empty((0, 0)))
    for case in tqdm(cases, desc=f"evaluate {split}", mininterval=1):
        scan = read(case, schema)
        feature, pred = segmenter(scan.image)
        features.append(feature)
        images.append(coarse(scan.image))
        found.labels.append(hashlib.sha256(scan.label.tobytes()).hexdigest() if scan.label.any() else None)
        found.statistics.append(label_statistics(scan.label, schema))
        parents = set(schema.inside.values())
        found.one_organ.append({parent: is_one_organ(scan.label, parent, schema) for parent in parents})
        if score:
            found.scores.append(agreement(pred, scan, schema))
        soft = gaussian_filter(scan.image, BLUR) if blur else None
        if blur:
            blurred.append(segmenter(soft)[0])
        if further:
            seen.append([further(image) for image in (scan.image, soft) if image is not None])
    if cases:
        found.features, found.coarse = np.stack(features), np.stack(images)
    found.blurred = np.stack(blurred) if blurred else None
    if further and cases:
        sharp, *soft = np.stack(seen, axis=1)
        found.further = replace(found, features=sharp, blurred=soft[0] if soft else None)
    return found


def agreement(pred: np.ndarray, scan: Scan, schema: Schema) -> dict[str, dict[str, float]]:
    """{"dice" | "recall" | "hd95": {class: value}} of a prediction [X, Y, Z] against the label.

    Only classes that the label holds. HD95 in mm is NaN where the prediction lacks the class.
    """
    result = {"dice": {}, "recall": {}, "hd95": {}}
    hot = [one_hot(torch.as_tensor(x)[None, None], len(schema.class_names)) for x in (pred, scan.label)]
    for value, name in list(enumerate(schema.class_names))[1:]:
        truth, guess = scan.label == value, pred == value
        if not truth.any():
            continue
        both = float((truth & guess).sum())
        result["dice"][name] = 2 * both / float(truth.sum() + guess.sum())
        result["recall"][name] = both / float(truth.sum())
        result["hd95"][name] = float("nan")
        if guess.any():
            masks = [x[:, value : value + 1] for x in hot]
            distance = compute_hausdorff_distance(
                *masks, include_background=True, percentile=95, spacing=schema.spacing
            )
            result["hd95"][name] = float(distance)
    return result
