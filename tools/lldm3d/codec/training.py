"""Updates and handlers of autoencoder trainings: the discriminator, the codebook, whole volumes at the end."""

from collections.abc import Callable
from dataclasses import dataclass

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from monai.losses import PatchAdversarialLoss
from monai.networks.nets import VQVAE
from monai.transforms import Compose
from monai.utils import CommonKeys as Keys
from torch import nn
from torch.optim import Optimizer

from lldm3d.training.handlers import History


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

    def __init__(self, discriminator: nn.Module, optimizer: Optimizer, weight: float, start: int) -> None:
        self.discriminator, self.optimizer = discriminator, optimizer
        self.weight, self.start = weight, start
        # without the flag MONAI's takes a LeakyReLU of the scores first, and who is judged ill learns a hundredth
        self.adversarial = PatchAdversarialLoss(criterion="least_squares", no_activation_leastsq=True)

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
            pairs = ((output[0].detach(), False), (target, True))
            scores = [self.score(engine.inferer, self.discriminator, *pair, for_discriminator=True) for pair in pairs]
            discriminator_loss = 0.5 * sum(scores)
            descend(discriminator_loss, [self.discriminator], [self.optimizer], place, engine.accumulation_steps)
            result["discriminator_loss"] = discriminator_loss.detach()
        return result

    def score(
        self, inferer: Callable, judge: nn.Module, volume: torch.Tensor, is_real: bool, for_discriminator: bool
    ) -> torch.Tensor:
        volume = volume.contiguous()
        # on a CPU bfloat16 gives random gradients where a convolution has 2 voxels, as the last has on small crops
        scores = (judge(volume.float()) if volume.device.type == "cpu" else inferer(volume, judge))[-1]
        return self.adversarial(scores, target_is_real=is_real, for_discriminator=for_discriminator)


def descend(
    loss: torch.Tensor, networks: list[nn.Module], optimizers: list[Optimizer], place: int = 0, accumulation: int = 1
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


DEAD = 0.01  # moving count of a batch's voxels below which a code counts as unused


@dataclass(eq=False)
class Codebook:
    """Handler that logs at the end of each epoch how many codes are in use, and puts dead ones where encodings lie.

    The revival is that of Dhariwal et al. 2020 (Jukebox), as Khader et al. 2022 use it: a code that no voxel comes near
    becomes the encoding of a random voxel of the last batch, of several processes of the first one's. MONAI's
    `EMAQuantizer` leaves dead codes where they are.
    """

    network: VQVAE  # whose quantiser has the codes; not wrapped by DistributedDataParallel
    history: History  # gets the curves `codebook_usage`, share of codes, and `perplexity`, of the last batch
    until: int  # last epoch in which codes are revived; those put in later would not be learnt any more

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.tend)

    @torch.no_grad()
    def tend(self, engine: Engine) -> None:
        quantizer = self.network.quantizer.quantizer
        dead = quantizer.ema_cluster_size < DEAD
        curves = {"codebook_usage": 1 - dead.float().mean(), "perplexity": self.network.quantizer.perplexity}
        for name, value in curves.items():
            self.history.curves.setdefault(name, []).append(float(value))
        if engine.state.epoch <= self.until and dead.any():
            encoded = self.network.encode(engine.state.output[Keys.IMAGE])
            revive(quantizer, dead, encoded.float().movedim(1, -1).flatten(0, -2))


def codes_in_use(network: VQVAE) -> torch.Tensor:
    """The codes [n, D] that voxels came near of late, of a trained network.

    MONAI's moving average divides a code that none ever came near by almost 0: until it is revived it lies 100 000
    times as far out as the others, and would set the scale of them all.
    """
    quantizer = network.quantizer.quantizer
    return quantizer.embedding.weight.detach()[quantizer.ema_cluster_size >= DEAD]


def revive(quantizer, dead: torch.Tensor, encoded: torch.Tensor) -> None:
    """Give dead codes the places of random encodings [N, D], with the count of one voxel."""
    chosen = encoded[torch.randint(len(encoded), (int(dead.sum()),)).to(encoded.device)]
    chosen = idist.broadcast(chosen)  # each process has seen another batch; MONAI keeps the rest of their codes alike
    quantizer.embedding.weight.data[dead] = chosen
    quantizer.ema_w[dead] = chosen
    quantizer.ema_cluster_size[dead] = 1.0


@dataclass(eq=False)
class FullVolumes:
    """Handler that leaves out the last transform, the random crop, from an epoch on.

    A crop's group normalisation and zero padding are not those of the whole volume that a codec encodes; crops are
    faster, and the last epochs remedy the difference. With loader workers they must not be persistent.
    """

    preprocessing: Compose  # of the training data set; the last transform crops
    crop_epochs: int  # epochs with crops

    def __post_init__(self) -> None:
        self.transforms = self.preprocessing.transforms

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self.choose)

    def choose(self, engine: Engine) -> None:
        whole = engine.state.epoch > self.crop_epochs
        self.preprocessing.transforms = self.transforms[:-1] if whole else self.transforms
