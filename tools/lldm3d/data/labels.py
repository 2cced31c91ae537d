"""Label maps and their one-hot form."""

import torch


def one_hot(label: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Class indices [B, 1, X, Y, Z] to float32 [B, num_classes, X, Y, Z].

    Labels are one-hot in and out of the label autoencoder: a scalar map that is blurred on its way makes classes that
    are not there (between liver and tumour lie the vessels). MONAI's `one_hot` keeps MetaTensors and the label's dtype.

    Raises:
        ValueError: on a value outside 0 .. num_classes - 1.
    """
    label = torch.as_tensor(label).long()
    low, high = int(label.min()), int(label.max())
    if low < 0 or high >= num_classes:
        raise ValueError(f"label values must lie in 0..{num_classes - 1}, got {low}..{high}")
    hot = torch.zeros(len(label), num_classes, *label.shape[2:], device=label.device)
    return hot.scatter_(1, label, 1.0)
