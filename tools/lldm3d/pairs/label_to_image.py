"""Images for the labels of a batch, by networks of volumes or of their slices; what is random follows from the case."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from ignite.engine import Engine
from torch import Tensor, nn

from lldm3d.data.labels import one_hot
from lldm3d.data.slices import slices_of, stack_slices
from lldm3d.data.warping import LabelMoves
from lldm3d.diffusion.gaussian import GaussianDiffusion
from lldm3d.diffusion.guidance import guided
from lldm3d.diffusion.noise import SharedNoise, noise_like
from lldm3d.errors import UserError
from lldm3d.methods.conditional_gan import batched_noise
from lldm3d.methods.slice_volumes import StartSlice
from lldm3d.pairs.sampling import seeded_generator
from lldm3d.training.inferers import AutocastInferer

NEIGHBOURS = (1, 6, 15, 20, 15, 6, 1)  # weights of the noises that make a slice's; it and the next correlate by 0.86
Draw = Callable[[Tensor, list[torch.Generator]], Tensor]  # one-hot labels [N, K, ...] to images [N, 1, ...] in [-1, 1]


class LabelledGeneration:
    """The update of an engine that draws an image for each label of a batch of `CaseDataset`.

    A network of slices draws those of a volume one after the other and stacks them. MONAI's `SliceInferer` could take
    the labels apart, but not give all slices the same noise: it calls the network with the voxels alone.

    Args:
        draw: from labels, and a generator for each, to images.
        num_classes: K, with background.
        seed: of all cases; what is random in a case follows from it and the case's number alone.
        device: where they are drawn.
        spatial_dims: of the network: 3, or 2 for slices.
        slices: of a volume, drawn at once.
        noise: the same for all slices of a "volume", of each "slice" its own, or "smooth", which neighbours share for
            the most part (`NEIGHBOURS`): by one noise a volume of slices has bars along them, by its own each jumps.
        starts: by a case's name the slice from which its volume begins, which `draw` takes as a third argument.
        moves: random moves of the labels, before images are drawn for them.

    Raises:
        UserError: for moves of labels whose volumes keep a slice that then would not fit, and smooth noise of what is
            not diffusion.
    """

    def __init__(
        self,
        draw: Draw,
        num_classes: int,
        seed: int,
        device: torch.device | str,
        spatial_dims: int = 3,
        slices: int = 16,
        noise: Literal["volume", "slice", "smooth"] = "volume",
        starts: Mapping[str, StartSlice] | None = None,
        moves: LabelMoves | None = None,
    ) -> None:
        if noise not in ("volume", "slice", "smooth"):
            raise ValueError(f"noise must be 'volume', 'slice' or 'smooth', got {noise!r}")
        if noise == "smooth" and not isinstance(draw, DenoisingDraw):
            raise UserError("--noise smooth is of diffusion on slices; give volume or slice")
        if moves is not None and moves.moving and any(start.held for start in (starts or {}).values()):
            raise UserError(
                "--start own keeps a slice, which moved labels do not fit; leave out --rotation, --shift and --flip, "
                "or give --start other_patient"
            )
        self.draw, self.num_classes, self.seed, self.device = draw, num_classes, seed, device
        self.spatial_dims, self.slices, self.noise = spatial_dims, slices, noise
        self.starts, self.moves = starts, moves

    @torch.no_grad()
    def __call__(self, engine: Engine, batch: dict) -> dict:
        indices = batch["index"].tolist()
        if self.moves is not None:
            batch = batch | {"label": self.moves(batch["label"], self.seed, indices)}
        hot = one_hot(batch["label"].to(self.device), self.num_classes)
        if self.spatial_dims == 3:
            further = [] if self.starts is None else [[self.starts.get(name) for name in batch["name"]]]
            drawn = self.draw(hot, [self.generator(index) for index in indices], *further)
        else:
            drawn = torch.cat([self.by_slices(case, index) for case, index in zip(hot.split(1), indices, strict=True)])
        image = ((drawn + 1) / 2).clamp(0, 1)
        return {**{key: batch[key] for key in ("name", "affine", "label")}, "image": image}

    def by_slices(self, label: Tensor, index: int) -> Tensor:
        """The volume [1, 1, X, Y, Z] of case `index`, with the one-hot label [1, K, X, Y, Z]."""
        depth = label.shape[-1]
        if self.noise == "smooth":
            numbers = [range(start, start + len(NEIGHBOURS)) for start in range(depth)]
            generators = [SharedNoise([self.generator(index, n) for n in near], NEIGHBOURS) for near in numbers]
        else:
            own = range(depth) if self.noise == "slice" else [0] * depth
            generators = [self.generator(index, number) for number in own]
        parts = zip(slices_of(label).split(self.slices), batches(generators, self.slices), strict=True)
        return stack_slices(torch.cat([self.draw(*part) for part in parts]), depth)

    def generator(self, index: int, number: int = 0) -> torch.Generator:
        """The random numbers of a case, or of the slice `number` of it."""
        return seeded_generator(self.seed, index, number, device=self.device)


def batches(items: list, size: int) -> list[list]:
    """The items in lists of `size`, the last of what is left."""
    return [items[start : start + size] for start in range(0, len(items), size)]


class GeneratorDraw:
    """Draws by the generator of a GAN in one pass, its noise by the generator of random numbers of each case.

    Args:
        network: a `lldm3d.methods.conditional_gan.ImageGenerator`.
        device: of the network.
        autocast: bfloat16.
    """

    def __init__(self, network: nn.Module, device: torch.device | str, autocast: bool = True) -> None:
        self.network, self.inferer = network, AutocastInferer(device, autocast)

    def __call__(self, label: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        return self.inferer(label, self.network, *batched_noise(self.network, label, generators))


class DenoisingDraw:
    """Draws by a diffusion process on voxels, its noise by the generator of random numbers of each case.

    Args:
        network: called with (x, timesteps, condition).
        noise_scheduler: as in training.
        device: of the network.
        guidance_scale: guidance on the label; 1 for none.
        autocast: bfloat16.
    """

    def __init__(
        self,
        network: nn.Module,
        noise_scheduler: GaussianDiffusion,
        device: torch.device | str,
        guidance_scale: float = 1.0,
        autocast: bool = True,
    ) -> None:
        self.network, self.noise_scheduler, self.guidance_scale = network, noise_scheduler, guidance_scale
        self.inferer = AutocastInferer(device, autocast)

    def predict(self, x: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
        return self.inferer(x, self.network, timesteps, condition)

    def __call__(self, label: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        noise = noise_like(label[:, :1], generators)
        return self.noise_scheduler.sample(guided(self.predict, label, self.guidance_scale), noise, generators)
