"""One iteration of the Hierarchical Amortized GAN."""

import ignite.distributed as idist
import torch
from monai.engines import SupervisedTrainer
from monai.utils import CommonKeys as Keys
from torch import nn
from torch.nn.functional import avg_pool3d, softplus

from lldm3d.engines.adversarial import descend
from lldm3d.networks.ha_gan import STRIDE, Discriminator, Encoder, Generator


class AmortizedUpdate:
    """Updates discriminators, generator and encoders on the low resolution and a random slab of the high one.

    Sun et al. 2022, section III: non-saturating losses of both resolutions, reconstruction of the slab through E^H, and
    of slab and low resolution through E^G. For `SupervisedTrainer(iteration_update=...)`; its network is the generator.
    Stock `GanTrainer` knows one discriminator and no encoder.

    Args:
        encoder: E^H and E^G.
        discriminators: "high" and "low".
        optimizers: "discriminators" and "encoder"; that of the generator is the trainer's.
        depth: voxels of a slab along the first axis.
        weights: lambda of the reconstruction through E^H, and through E^G.
        axis: of the images, 0 to 2, along which slabs are cut.
        autocast: bfloat16, on a GPU.
    """

    def __init__(
        self,
        encoder: Encoder,
        discriminators: dict[str, Discriminator],
        optimizers: dict[str, torch.optim.Optimizer],
        depth: int,
        weights: tuple[float, float] = (5.0, 5.0),
        axis: int = 0,
        autocast: bool = False,
    ) -> None:
        self.encoder, self.discriminators, self.optimizers = encoder, discriminators, optimizers
        self.depth, self.weights, self.axis, self.autocast = depth, weights, axis, autocast

    def __call__(self, engine: SupervisedTrainer, batch: dict) -> dict:
        with torch.autocast(engine.state.device.type, torch.bfloat16, enabled=self.autocast):
            return self.update(engine, batch)

    def update(self, engine: SupervisedTrainer, batch: dict) -> dict:
        image, _ = engine.prepare_batch(batch, engine.state.device, engine.non_blocking)
        volume, generator = turned(image, self.axis), engine.network
        generator.train()
        low, start = avg_pool3d(volume, STRIDE), self.draw_start(volume)
        slab, place = volume.narrow(2, start, self.depth), start / volume.shape[2]
        latent = torch.randn(len(volume), generator.lay.in_features, device=volume.device)
        real = {"high": slab, "low": low}
        judged = self.train_discriminators(generator, latent, real, start, place)
        fooled = self.train_generator(engine, latent, start, place)
        by_slab, by_latent = self.train_encoders(engine, volume, real, start)
        return {
            Keys.IMAGE: image,
            Keys.LABEL: image,
            Keys.LOSS: fooled,
            "discriminator_loss": judged,
            "reconstruction_loss": by_slab,
            "latent_reconstruction_loss": by_latent,
        }

    def draw_start(self, volume: torch.Tensor) -> int:
        """The first voxel of a random slab."""
        places = (volume.shape[2] - self.depth) // STRIDE + 1
        return STRIDE * int(torch.randint(places, (1,)))

    def both(self, generator: Generator, features: torch.Tensor, start: int) -> dict[str, torch.Tensor]:
        """The slab and the low resolution of features A."""
        part = features.narrow(2, start // STRIDE, self.depth // STRIDE)
        return {"high": generator.high(part), "low": generator.low(features)}

    def scores(self, volumes: dict[str, torch.Tensor], place: float) -> list[torch.Tensor]:
        return [self.discriminators["high"](volumes["high"], place), self.discriminators["low"](volumes["low"])]

    def train_discriminators(
        self, generator: Generator, latent: torch.Tensor, real: dict, start: int, place: float
    ) -> torch.Tensor:
        with torch.no_grad():
            fake = self.both(generator, generator.features(latent), start)
        pairs = zip(self.scores(real, place), self.scores(fake, place), strict=True)
        loss = sum(softplus(-good).mean() + softplus(bad).mean() for good, bad in pairs)
        descend(loss, [*self.discriminators.values()], [self.optimizers["discriminators"]])
        return loss.detach()

    def train_generator(
        self, engine: SupervisedTrainer, latent: torch.Tensor, start: int, place: float
    ) -> torch.Tensor:
        generator = engine.network
        fake = self.both(generator, generator.features(latent), start)
        loss = sum(softplus(-score).mean() for score in self.scores(fake, place))
        descend(loss, [generator], [engine.optimizer])
        return loss.detach()

    def train_encoders(
        self, engine: SupervisedTrainer, volume: torch.Tensor, real: dict, start: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Both reconstructions, of which the generator learns as well."""
        generator, optimizers = engine.network, [self.optimizers["encoder"], engine.optimizer]
        by_slab = l1(generator.high(self.encoder.slab(real["high"])), real["high"])
        latent = self.encoder.whole(self.encoder.features(volume, self.depth))
        again = self.both(generator, generator.features(latent), start)
        by_latent = sum(l1(again[key], real[key]) for key in real)
        loss = self.weights[0] * by_slab + self.weights[1] * by_latent
        descend(loss, [self.encoder, generator], optimizers)
        return by_slab.detach(), by_latent.detach()


l1 = nn.functional.l1_loss


def average_gradients(optimizer: torch.optim.Optimizer, *_: object) -> None:
    """Step pre-hook: gradients become their means over all processes; nothing in one alone.

    Stock `DistributedDataParallel` averages only what its own forward() has made; these networks are called by parts.
    All processes begin with the same weights, as they are seeded alike.
    """
    processes = idist.get_world_size()
    if processes == 1:
        return
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if weight.grad is not None:
                weight.grad = idist.all_reduce(weight.grad) / processes


def turned(image: torch.Tensor, axis: int) -> torch.Tensor:
    """Images [B, 1, X, Y, Z] in [0, 1] as volumes [B, 1, D, H, W] in [-1, 1] whose depth is the axis."""
    return image.movedim(2 + axis, 2) * 2 - 1


def turned_back(volume: torch.Tensor, axis: int) -> torch.Tensor:
    """Volumes as images again."""
    return (volume.movedim(2, 2 + axis) + 1) / 2


class LatentReconstruction(nn.Module):
    """Held-out images through E^H, E^G and the generator, as a network for a validation engine.

    Args:
        generator, encoder: those that are trained.
        depth, axis: as the update's.
    """

    def __init__(self, generator: Generator, encoder: Encoder, depth: int, axis: int) -> None:
        super().__init__()
        self.generator, self.encoder, self.depth, self.axis = generator, encoder, depth, axis

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.encoder.features(turned(image, self.axis), self.depth)
        return turned_back(self.generator(self.encoder.whole(features)), self.axis)
