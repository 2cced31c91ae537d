"""One iteration of an autoencoder that is trained against a patch discriminator."""

from collections.abc import Callable

import torch
from monai.engines import SupervisedTrainer
from monai.losses import PatchAdversarialLoss
from monai.utils import CommonKeys as Keys
from torch import nn


class AdversarialUpdate:
    """Updates the autoencoder, then the discriminator (Esser et al. 2021, VQGAN, eq. 6; least-squares form).

    For `SupervisedTrainer(iteration_update=...)`: MONAI's `AdversarialTrainer` fails on the tuple that `AutoencoderKL`
    returns, and its state does not load with `weights_only=True`.

    Args:
        discriminator: returns a list of score maps, the last one for the loss (`PatchDiscriminator`).
        optimizer: of the discriminator.
        weight: of the adversarial term in the autoencoder's loss.
        start: optimizer step from which the discriminator takes part; before it both would learn from blur.

    Gradients are accumulated over the trainer's `accumulation_steps` mini-batches, which divide an epoch.
    """

    def __init__(self, discriminator: nn.Module, optimizer: torch.optim.Optimizer, weight: float, start: int) -> None:
        self.discriminator, self.optimizer = discriminator, optimizer
        self.weight, self.start = weight, start
        self.adversarial = PatchAdversarialLoss(criterion="least_squares")

    def __call__(self, engine: SupervisedTrainer, batch: dict) -> dict:
        image, target = engine.prepare_batch(batch, engine.state.device, engine.non_blocking)
        steps, place = divmod(engine.state.iteration - 1, engine.accumulation_steps)
        active = self.weight > 0 and steps + 1 >= self.start
        engine.network.train()
        output = engine.inferer(image, engine.network)
        loss = engine.loss_function(output, target)
        if active:
            # not through DistributedDataParallel, as its weights take no part in this backward pass
            judge = getattr(self.discriminator, "module", self.discriminator)
            loss = loss + self.weight * self.score(engine.inferer, judge, output[0], True, for_discriminator=False)
        descend(loss, [engine.network], [engine.optimizer], place, engine.accumulation_steps)
        result = {Keys.IMAGE: image, Keys.LABEL: target, Keys.PRED: output, Keys.LOSS: loss.detach()}
        if active:
            scores = [
                self.score(engine.inferer, self.discriminator, volume, is_real, for_discriminator=True)
                for volume, is_real in ((output[0].detach(), False), (target, True))
            ]
            discriminator_loss = 0.5 * sum(scores)
            descend(discriminator_loss, [self.discriminator], [self.optimizer], place, engine.accumulation_steps)
            result["discriminator_loss"] = discriminator_loss.detach()
        return result

    def score(
        self, inferer: Callable, judge: nn.Module, volume: torch.Tensor, is_real: bool, for_discriminator: bool
    ) -> torch.Tensor:
        scores = inferer(volume.contiguous(), judge)[-1]
        return self.adversarial(scores, target_is_real=is_real, for_discriminator=for_discriminator)


def descend(
    loss: torch.Tensor,
    networks: list[nn.Module],
    optimizers: list[torch.optim.Optimizer],
    place: int = 0,
    accumulation: int = 1,
) -> None:
    """Add the gradients of the mini-batch `place` of `accumulation` to the networks alone; step after the last one."""
    if place == 0:
        for optimizer in optimizers:
            optimizer.zero_grad()
    weights = [weight for network in networks for weight in network.parameters() if weight.requires_grad]
    (loss / accumulation).backward(inputs=weights)
    if place == accumulation - 1:
        for optimizer in optimizers:
            optimizer.step()
