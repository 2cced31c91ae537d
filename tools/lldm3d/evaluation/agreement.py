"""How well a predicted label map agrees with the true one, class by class."""

import numpy as np

from lldm3d import agreement as metrics
from lldm3d.data.dataset import Schema
from lldm3d.evaluation.scans import Scan


def agreement(pred: np.ndarray, scan: Scan, schema: Schema) -> dict[str, dict[str, float]]:
    """{"dice" | "recall" | "hd95": {class: value}} of a prediction [X, Y, Z] against the label.

    Only classes that the label holds. HD95 in mm is NaN where the prediction lacks the class.
    """
    result = {"dice": {}, "recall": {}, "hd95": {}}
    for value, name in list(enumerate(schema.class_names))[1:]:
        truth, guess = scan.label == value, pred == value
        if truth.any():
            result["dice"][name] = metrics.dice(guess, truth)
            result["recall"][name] = float((truth & guess).sum() / truth.sum())
            result["hd95"][name] = metrics.hd95(guess, truth, schema.spacing)
    return result
