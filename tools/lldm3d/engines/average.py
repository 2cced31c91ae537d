"""The average of the weights over the steps, which is what is sampled."""

from copy import deepcopy

import torch
from torch import nn

FIRST = 0.2  # momentum of the first step


class MovingAverage:
    """The exponential moving average of a network's weights, moved after each step of its optimizer.

    The first step copies the weights; then the momentum falls from 0.2 to `momentum` over the warm-up, so that the
    average forgets the start. Ignite's `EMAHandler` begins that warm-up anew in a resumed training, counts mini-batches
    where gradients are accumulated, and takes two kernels for each tensor; torch's `AveragedModel` hands the count to
    its average as a tensor, for which the processor would wait in every step. The network has no buffers.

    Args:
        network: on its device, and not wrapped by DistributedDataParallel.
        optimizer: of the network.
        momentum: share of the new weights in each step.
        warmup_steps: optimizer steps.
    """

    def __init__(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, momentum: float, warmup_steps: int
    ) -> None:
        self.network, self.momentum, self.warmup_steps = network, momentum, warmup_steps
        self.model = deepcopy(network).requires_grad_(False).eval()
        self.steps = 0
        optimizer.register_step_post_hook(self.update)

    def update(self, *_: object) -> None:
        done = self.steps / max(1, self.warmup_steps)
        momentum = max(self.momentum, FIRST + (self.momentum - FIRST) * done) if self.steps else 1.0
        current = [weight.detach() for weight in self.network.parameters()]
        torch._foreach_lerp_(list(self.model.parameters()), current, momentum)
        self.steps += 1

    def state_dict(self) -> dict:
        return {"steps": self.steps, "model": self.model.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.steps = state["steps"]
        self.model.load_state_dict(state["model"])
