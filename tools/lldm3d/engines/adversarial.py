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
        start: iteration from which the discriminator takes part; before it both would learn from blur.
    """

    def __init__(self, discriminator: nn.Module, optimizer: torch.optim.Optimizer, weight: float, start: int) -> None:
        self.discriminator, self.optimizer = discriminator, optimizer
        self.weight, self.start = weight, start
        self.adversarial = PatchAdversarialLoss(criterion="least_squares")

    def __call__(self, engine: SupervisedTrainer, batch: dict) -> dict:
        image, target = engine.prepare_batch(batch, engine.state.device, engine.non_blocking)
        active = self.weight > 0 and engine.state.iteration >= self.start
        engine.network.train()
        engine.optimizer.zero_grad()
        output = engine.inferer(image, engine.network)
        loss = engine.loss_function(output, target)
        if active:
            loss = loss + self.weight * self.score(engine.inferer, output[0], is_real=True, for_discriminator=False)
        loss.backward()
        engine.optimizer.step()
        result = {Keys.IMAGE: image, Keys.LABEL: target, Keys.PRED: output, Keys.LOSS: loss.detach()}
        if active:
            result["discriminator_loss"] = self.update_discriminator(engine.inferer, output[0].detach(), target)
        return result

    def update_discriminator(self, inferer: Callable, fake: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        self.optimizer.zero_grad()
        loss = 0.5 * (self.score(inferer, fake, False, True) + self.score(inferer, real, True, True))
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def score(self, inferer: Callable, volume: torch.Tensor, is_real: bool, for_discriminator: bool) -> torch.Tensor:
        scores = inferer(volume.contiguous(), self.discriminator)[-1]
        return self.adversarial(scores, target_is_real=is_real, for_discriminator=for_discriminator)
