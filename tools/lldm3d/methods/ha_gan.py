"""Hierarchical Amortized GAN (Sun et al. 2022, IEEE JBHI, arXiv:2008.01910), written from the paper.

Volumes are [B, 1, D, H, W] in [-1, 1] with the axis first along which sub-volumes are cut; features A are those of the
whole volume at a quarter of its size. MONAI has no GAN that draws a volume by parts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import ignite.distributed as idist
import torch
from monai.engines import SupervisedTrainer
from monai.utils import CommonKeys as Keys
from torch import nn
from torch.nn.functional import avg_pool3d, softplus
from torch.nn.utils.parametrizations import spectral_norm

from lldm3d.codec.training import descend
from lldm3d.training.inferers import has_bfloat16
from lldm3d.training.sizes import check_cases, check_least, check_multiple

STRIDE = 4  # voxels for each voxel of the features A, and of the low resolution
MULTIPLE = 4 * STRIDE  # the grid that the latent is laid on


def check_size(roi_size: Sequence[int]) -> list[int]:
    """The size itself. Raises UserError where an axis is no multiple of 16 voxels."""
    return check_multiple("roi_size", roi_size, MULTIPLE, "prepare the data with another size")


def check_sizes(dataset_dir: str, roi_size: Sequence[int], slab: Sequence[int], channels: dict[str, list[int]]) -> None:
    """Raise UserError where the cases of a data set, or slabs of them, do not fit the networks.

    Args:
        dataset_dir: prepared data set.
        roi_size: voxels of its cases.
        slab: voxels of a slab, depth first.
        channels: of the discriminators, "high" and "low".
    """
    fewer = "give discriminator_channels#{} fewer entries, each of which halves that"
    check_cases(dataset_dir, roi_size, MULTIPLE, remedy="")
    check_least("roi_size", roi_size, STRIDE * 2 ** len(channels["low"]), fewer.format("low"))
    check_multiple("slab", slab[:1], STRIDE, "give another slab")
    check_least("slab", slab, 2 ** len(channels["high"]), fewer.format("high"))


def convolution(inputs: int, outputs: int, groups: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, group normalisation, ReLU; with a kernel of 4 and a stride of 2 it halves the size."""
    convolved = nn.Conv3d(inputs, outputs, kernel, stride, padding=1)
    return nn.Sequential(convolved, nn.GroupNorm(groups, outputs), nn.ReLU())


def upsampling(inputs: int, outputs: int, groups: int) -> nn.Sequential:
    """Twice the size by nearest neighbours, then a convolution."""
    return nn.Sequential(nn.Upsample(scale_factor=2), *convolution(inputs, outputs, groups))


class Generator(nn.Module):
    """G^A from latent to features A, G^L to the low resolution, G^H to the high one of all of A or a slab of it.

    Args:
        roi_size: voxels of the volume, depth first, multiples of 16.
        latent_size: of z.
        channels: of A.
        groups: of the group normalisations.
    """

    def __init__(self, roi_size: Sequence[int], latent_size: int = 1024, channels: int = 64, groups: int = 8) -> None:
        super().__init__()
        self.grid = [size // MULTIPLE for size in check_size(roi_size)]
        self.width = 4 * channels
        self.lay = nn.Linear(latent_size, self.width * torch.Size(self.grid).numel())
        self.trunk = nn.Sequential(
            convolution(4 * channels, 4 * channels, groups),
            upsampling(4 * channels, 2 * channels, groups),
            upsampling(2 * channels, channels, groups),
        )
        self.low = nn.Sequential(
            convolution(channels, channels // 2, groups), nn.Conv3d(channels // 2, 1, 3, padding=1), nn.Tanh()
        )
        self.high = nn.Sequential(
            upsampling(channels, channels // 2, groups),
            upsampling(channels // 2, channels // 4, min(groups, channels // 4)),
            nn.Conv3d(channels // 4, 1, 3, padding=1),
            nn.Tanh(),
        )

    def features(self, latent: torch.Tensor) -> torch.Tensor:
        """G^A: A [B, C, D/4, H/4, W/4] of latents [B, N]."""
        return self.trunk(self.lay(latent).view(len(latent), self.width, *self.grid))

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        """The whole volumes [B, 1, D, H, W] of latents [B, N] in one pass."""
        return self.high(self.features(latent))


class Encoder(nn.Module):
    """E^H from a slab of the volume to its slab of A, and E^G from all of A to the latent.

    Args:
        roi_size, latent_size, channels, groups: as the generator's.
    """

    def __init__(self, roi_size: Sequence[int], latent_size: int = 1024, channels: int = 64, groups: int = 8) -> None:
        super().__init__()
        voxels = torch.Size(size // MULTIPLE for size in check_size(roi_size)).numel()
        self.slab = nn.Sequential(
            *convolution(1, channels // 2, groups, kernel=4, stride=2),
            *convolution(channels // 2, channels, groups, kernel=4, stride=2),
            nn.Conv3d(channels, channels, 3, padding=1),
        )
        self.whole = nn.Sequential(
            *convolution(channels, 2 * channels, groups, kernel=4, stride=2),
            *convolution(2 * channels, 4 * channels, groups, kernel=4, stride=2),
            nn.Flatten(),
            nn.Linear(4 * channels * voxels, latent_size),
        )

    @torch.no_grad()
    def features(self, volume: torch.Tensor, depth: int) -> torch.Tensor:
        """A [B, C, D/4, H/4, W/4], slab after slab of `depth` voxels, whose activations are not kept."""
        return torch.cat([self.slab(part) for part in volume.split(depth, 2)], 2)


class Discriminator(nn.Module):
    """D^H or D^L: one score of a volume, told where in the whole one it lies.

    Args:
        channels: of its convolutions, each of which halves the size.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        pairs = zip((1, *channels), channels, strict=False)
        self.layers = nn.ModuleList(spectral_norm(nn.Conv3d(a, b, 4, stride=2, padding=1)) for a, b in pairs)
        self.score = nn.Sequential(
            spectral_norm(nn.Linear(channels[-1] + 1, channels[-1])),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Linear(channels[-1], 1)),
        )

    def forward(self, volume: torch.Tensor, place: float = 0.0) -> torch.Tensor:
        """Scores [B, 1] of volumes [B, 1, d, h, w] that begin at `place` in 0..1 of the depth."""
        for layer in self.layers:
            volume = nn.functional.leaky_relu(layer(volume), 0.2)
        pooled = volume.mean((2, 3, 4))
        return self.score(torch.cat([pooled, torch.full_like(pooled[:, :1], place)], 1))


@dataclass(eq=False)
class AmortizedUpdate:
    """Updates discriminators, generator and encoders on the low resolution and a random slab of the high one.

    Sun et al. 2022, section III: non-saturating losses of both resolutions, reconstruction of the slab through E^H, and
    of slab and low resolution through E^G. For `SupervisedTrainer(iteration_update=...)`; its network is the generator.
    Stock `GanTrainer` knows one discriminator and no encoder.
    """

    encoder: Encoder  # E^H and E^G
    discriminators: dict[str, Discriminator]  # "high" and "low"
    optimizers: dict[str, torch.optim.Optimizer]  # "discriminators" and "encoder"; the generator's is the trainer's
    depth: int  # voxels of a slab along the first axis
    weights: tuple[float, float] = (5.0, 5.0)  # lambda of the reconstruction through E^H, and through E^G
    axis: int = 0  # of the images, 0 to 2, along which slabs are cut
    autocast: bool = False  # bfloat16, on a GPU

    def __call__(self, engine: SupervisedTrainer, batch: dict) -> dict:
        image, _ = engine.prepare_batch(batch, engine.state.device, engine.non_blocking)
        volume, generator = turned(image, self.axis), engine.network
        generator.train()
        kind = engine.state.device.type
        halved = self.autocast and has_bfloat16(kind)
        # without a cache: it would keep the weights of before the first of the three steps
        with torch.autocast(kind, torch.bfloat16, enabled=halved, cache_enabled=False):
            places = (volume.shape[2] - self.depth) // STRIDE + 1
            start = STRIDE * int(torch.randint(places, (1,)))
            real = {"high": volume.narrow(2, start, self.depth), "low": avg_pool3d(volume, STRIDE)}
            latent = torch.randn(len(volume), generator.lay.in_features, device=volume.device)
            place = start / volume.shape[2]
            judged = self.train_discriminators(generator, latent, real, start, place)
            fooled = self.train_generator(engine, latent, start, place)
            by_slab, by_latent = self.train_encoders(engine, volume, real, start)
        losses = {"reconstruction_loss": by_slab, "latent_reconstruction_loss": by_latent}
        return {Keys.IMAGE: image, Keys.LABEL: image, Keys.LOSS: fooled, "discriminator_loss": judged, **losses}

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
    processes, groups = idist.get_world_size(), optimizer.param_groups
    for weight in [weight for group in groups for weight in group["params"]] if processes > 1 else []:
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
