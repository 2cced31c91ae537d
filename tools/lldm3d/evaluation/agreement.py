"""How well a predicted label map agrees with the true one."""

import numpy as np
import torch
from monai.metrics import compute_hausdorff_distance

from lldm3d.data.dataset import Schema
from lldm3d.evaluation.scans import Scan
from lldm3d.labels import one_hot


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
