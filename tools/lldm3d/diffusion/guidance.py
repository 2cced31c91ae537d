"""Guidance on the label."""

from collections.abc import Callable

import torch


def guided(network: Callable, condition: torch.Tensor, scale: float) -> Callable:
    """The network as a function of (x, timesteps), pushed `scale` times from no condition towards `condition`.

    Classifier-free guidance (Ho & Salimans 2022, eq. 6): out = u + scale (c - u), u with the zero condition that label
    dropout trained. MONAI's inferers guide on `context` alone, never on a ControlNet's condition. At scale 1 the
    unconditional half is not computed. Of an answer with more channels than x, those of a learned variance, the others
    stay as the condition has them.

    Args:
        network: called with (x, timesteps, condition).
        condition: [B, K or C, ...], one-hot label or label latent.
        scale: 1 for none.
    """
    if scale == 1:
        return lambda x, timesteps: network(x, timesteps, condition)

    def predict(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        both = torch.cat([condition, torch.zeros_like(condition)])
        output = network(torch.cat([x, x]), timesteps.repeat(2), both)
        further, _ = output[:, x.shape[1] :].chunk(2)
        conditioned, unconditioned = output[:, : x.shape[1]].chunk(2)
        answer = unconditioned + scale * (conditioned - unconditioned)
        return torch.cat([answer, further], 1)

    return predict
