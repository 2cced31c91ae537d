"""How well a predicted label map agrees with the true one: the one place for every segmentation metric."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from skimage.measure import label as components
from skimage.morphology import skeletonize

# a predicted and a true lesion are the same one from this overlap on: Baumgartner et al. (nnDetection, 2021) and Jaeger
# et al. (2020) take 0.1 in 3D, where a rough place is what counts clinically
LESION_IOU = 0.1


@dataclass(frozen=True)
class AgreementMetric:
    """How a metric is shown."""

    title: str
    unit: str
    higher_is_better: bool


METRICS = {
    "dice": AgreementMetric("Dice", "", True),
    "hd95": AgreementMetric("HD95", "mm", False),
    "nsd": AgreementMetric("surface Dice", "", True),
    "cldice": AgreementMetric("clDice", "", True),
    "lesion_sensitivity": AgreementMetric("lesion sensitivity", "", True),
    "lesion_precision": AgreementMetric("lesion precision", "", True),
}


def tolerance_of(spacing: Sequence[float]) -> float:
    """The tolerance (mm) of the surface Dice: a voxel's longest edge.

    Nikolov et al. (2021) take what human readers differ by. Where that is not known, a voxel is the least that a label
    map can show; for hippocampus MR of 1 mm it is also the tolerance of the Medical Segmentation Decathlon.
    """
    return float(max(spacing))


def agreement(
    pred: np.ndarray, truth: np.ndarray, spacing: Sequence[float], tubular: bool = False, lesions: bool = False
) -> dict[str, float]:
    """The metrics of one class: masks [X, Y, Z] of prediction and truth, spacing in mm.

    What is not defined is NaN. That is all where neither mask has a voxel, and where the truth has none all but
    `lesion_precision`, which is then 0, so that false alarms in cases without lesions count. HD95 is NaN as well where
    the prediction is empty: no distance stands for a miss, which shows as 0 in all other metrics, but for
    `lesion_precision`, which has nothing to divide by.

    Args:
        tubular: add `cldice`.
        lesions: add `lesion_sensitivity` and `lesion_precision`.

    Returns:
        `dice`, `hd95` (mm), `nsd` (normalised surface Dice at `tolerance_of`), and what was added.
    """
    pred, truth = np.asarray(pred, bool), np.asarray(truth, bool)
    found = {"dice": math.nan, "hd95": math.nan, "nsd": math.nan}
    if truth.any():
        found = {"dice": dice(pred, truth), "hd95": hd95(pred, truth, spacing), "nsd": nsd(pred, truth, spacing)}
    if tubular:
        found["cldice"] = cldice(pred, truth) if truth.any() else math.nan
    if lesions:
        found["lesion_sensitivity"], found["lesion_precision"] = lesion_rates(pred, truth)
    return found


def dice(pred: np.ndarray, truth: np.ndarray) -> float:
    """2 |P and T| / (|P| + |T|)."""
    return 2 * float((pred & truth).sum()) / float(pred.sum() + truth.sum())


def hd95(pred: np.ndarray, truth: np.ndarray, spacing: Sequence[float]) -> float:
    """95th percentile of the Hausdorff distance in mm; NaN where the prediction is empty."""
    if not pred.any():
        return math.nan
    return float(compute_hausdorff_distance(*channels(pred, truth), percentile=95, **on_grid(spacing)))


def nsd(pred: np.ndarray, truth: np.ndarray, spacing: Sequence[float]) -> float:
    """Normalised surface Dice: the share of both surfaces that lies within `tolerance_of` mm of the other one."""
    if not pred.any():
        return 0.0
    limits = [tolerance_of(spacing)]
    return float(compute_surface_dice(*channels(pred, truth), class_thresholds=limits, **on_grid(spacing)))


def channels(*masks: np.ndarray) -> list[torch.Tensor]:
    """Masks [X, Y, Z] as MONAI's metrics take them, [1, 1, X, Y, Z]."""
    return [torch.as_tensor(mask[None, None], dtype=torch.float32) for mask in masks]


def on_grid(spacing: Sequence[float]) -> dict:
    return {"include_background": True, "spacing": list(spacing)}


def cldice(pred: np.ndarray, truth: np.ndarray) -> float:
    """Centreline Dice of two masks [X, Y, Z]: how much of each skeleton lies in the other (Shit et al. 2021, eq. 3)."""
    if not pred.any() or not truth.any():
        return 0.0
    pred_skeleton, truth_skeleton = centreline(pred), centreline(truth)
    precision, sensitivity = truth[pred_skeleton].mean(), pred[truth_skeleton].mean()
    return float(2 * precision * sensitivity / (precision + sensitivity)) if precision + sensitivity else 0.0


def centreline(mask: np.ndarray) -> np.ndarray:
    """The skeleton of a mask [X, Y, Z], or the mask where none is left: skimage 0.26 loses cubes of even size."""
    skeleton = skeletonize(mask)
    return skeleton if skeleton.any() else mask


def lesion_rates(pred: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Sensitivity and precision of lesions, which are 26-connected components; NaN where there is none to count.

    A lesion is found, and a predicted one is right, where it has an intersection over union of at least `LESION_IOU`
    with one of the other side.
    """
    (ours, number), (theirs, count) = (components(mask, return_num=True, connectivity=3) for mask in (pred, truth))
    overlap = np.histogram2d(ours.ravel(), theirs.ravel(), bins=(np.arange(number + 2), np.arange(count + 2)))[0]
    union = overlap.sum(1, keepdims=True) + overlap.sum(0, keepdims=True) - overlap
    same = overlap[1:, 1:] >= LESION_IOU * union[1:, 1:]  # [number, count]; the first row and column are background
    sensitivity = float(same.any(0).mean()) if count else math.nan
    return sensitivity, float(same.any(1).mean()) if number else math.nan
