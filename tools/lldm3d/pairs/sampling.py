"""From a case's number to its label and image, by trained networks that were checked against each other."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ignite.engine import Engine
from torch import nn

from lldm3d.codec.codec import Codec, load_codec
from lldm3d.data.labels import LabelForm, one_hot
from lldm3d.diffusion.guidance import guided
from lldm3d.diffusion.networks import ARCHITECTURES, ControlledDiffusion
from lldm3d.diffusion.noise import NoiseProcess, noise_like
from lldm3d.errors import UserError
from lldm3d.files import sha256
from lldm3d.pairs.sizes import ClassPieces, ClassSizes
from lldm3d.training.checkpoints import load_model
from lldm3d.training.inferers import AutocastInferer

ATTEMPTS = 10  # at a label with the lesions that are asked for: of labels that are told two, three in ten have two
GAIN_STREAM, SIZE_STREAM, PIECE_STREAM = 2, 3, 4  # beside 0 and 1, the kinds of noise, in the seeds of a case


def case_noise(seed: int, index: int, kind: str, shape: list[int], attempt: int = 0) -> torch.Tensor:
    """The noise [C, x, y, z] of case `index`: the same whatever the batch, the number of cases or the device."""
    generator = seeded_generator(seed, index, ("label", "image").index(kind), *[attempt] * (attempt > 0))
    return noise_like(torch.empty(1, *shape), [generator])[0]


def seeded_generator(*numbers: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Random numbers that follow from all of `numbers`, such as a seed and a case."""
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state) % 2**63)


class LatentSampler:
    """Draws latents of one kind and decodes them.

    Args:
        codec: its decoder and latent scale.
        network: called with (x, timesteps) or (x, timesteps, condition).
        noise_scheduler: as in training.
        latent_shape: [C, x, y, z].
        seed: seed of all cases.
        guidance_scale: guidance on the label; 1 for none.
        autocast: bfloat16, in sampling and decoding (docs/reference/sampling.md has what that changes).
        gains: quantiles of the training images' gains, where the network learnt images of one gain (`encode`).
        sizes: of classes, where the network is told them (`LabelDiffusion`).
        pieces: of classes of drawn labels; None leaves them as they are drawn.
    """

    def __init__(
        self,
        codec: Codec,
        network: torch.nn.Module,
        noise_scheduler: NoiseProcess,
        latent_shape: list[int],
        seed: int = 0,
        guidance_scale: float = 1.0,
        autocast: bool = True,
        gains: Sequence[float] | None = None,
        sizes: ClassSizes | None = None,
        pieces: ClassPieces | None = None,
    ) -> None:
        self.codec, self.network, self.noise_scheduler = codec, network, noise_scheduler
        self.latent_shape, self.seed, self.guidance_scale = list(latent_shape), seed, guidance_scale
        self.gains, self.sizes, self.pieces = gains, sizes, pieces
        self.device = codec.latent_mean.device
        self.inferer = AutocastInferer(self.device, autocast)

    def call(self, x: torch.Tensor, timesteps: torch.Tensor, *condition: torch.Tensor) -> torch.Tensor:
        return self.inferer(x, self.network, timesteps, *condition)

    def predictor(
        self, condition: torch.Tensor | None, sizes: torch.Tensor | None = None
    ) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """The network as a function of (x, timesteps)."""
        if sizes is not None:
            return lambda x, timesteps: self.call(x, timesteps, sizes)
        return self.call if condition is None else guided(self.call, condition, self.guidance_scale)

    @torch.no_grad()
    def draw(self, indices: list[int], condition: torch.Tensor | None = None, attempt: int = 0) -> torch.Tensor:
        """Latents [B, C, x, y, z] of these cases; the spatial size follows the condition where it is a label."""
        shape = self.latent_shape
        if condition is not None and condition.shape[2:] != torch.Size(shape[1:]):
            shape = [shape[0], *(math.ceil(size / self.codec.stride) for size in condition.shape[2:])]
        kind = self.codec.kind
        noise = torch.stack([case_noise(self.seed, index, kind, shape, attempt) for index in indices])
        if self.device.type == "cuda":  # else the copy would wait for all that the GPU was given before
            noise = noise.pin_memory().to(self.device, non_blocking=True)
        return self.noise_scheduler.sample(self.predictor(condition, self.draw_sizes(indices)), noise)

    def decode(
        self,
        latent: torch.Tensor,
        in_slabs: bool = False,
        gains: Sequence[float] | None = None,
        forms: Sequence[LabelForm] | None = None,
    ) -> torch.Tensor:
        """Volumes [B, 1, X, Y, Z], images with these gains, labels in these forms, case by case: one
        alone fills a GPU, and more would take more memory. A codec without loss decodes in float32: bfloat16 has 256
        grey values."""
        each = len(latent)
        cases = zip(latent.split(1), gains or [1.0] * each, forms or [None] * each, strict=True)
        halved = self.inferer.enabled and not self.codec.lossless
        with torch.autocast(self.device.type, torch.bfloat16, enabled=halved):
            decoded = [self.codec.decode(case, in_slabs, gain=gain, form=form) for case, gain, form in cases]
        return torch.cat(decoded)

    def draw_gains(self, indices: list[int]) -> list[float] | None:
        """The gain of each of these cases, as the training images have them; None where their own were learnt."""
        if self.gains is None:
            return None
        generators = [seeded_generator(self.seed, index, GAIN_STREAM) for index in indices]
        places = [torch.rand(1, generator=generator).item() for generator in generators]
        return np.interp(places, np.linspace(0, 1, len(self.gains)), self.gains).tolist()

    def draw_sizes(self, indices: list[int]) -> torch.Tensor | None:
        """Sizes [B, S] for each of these cases; None where the network is told none."""
        if self.sizes is None:
            return None
        generators = [seeded_generator(self.seed, index, SIZE_STREAM) for index in indices]
        return torch.stack([self.sizes.draw(generator) for generator in generators]).to(self.device)

    def draw_forms(self, indices: list[int]) -> list[LabelForm] | None:
        """What each of these labels shall have: the volumes that its network is told, and pieces; None where nothing is
        told."""
        if self.sizes is None and self.pieces is None:
            return None
        sizes, found = self.draw_sizes(indices), []
        for place, index in enumerate(indices):
            voxels = {} if sizes is None else self.sizes.voxels(sizes[place])
            pieces = self.pieces.draw(seeded_generator(self.seed, index, PIECE_STREAM)) if self.pieces else {}
            found.append(LabelForm(voxels, pieces))
        return found


class Generation:
    """The update of a generating engine: labels (drawn, or given with the batch), then images on them.

    Args:
        label: sampler of labels; None where labels come with the batch or none are wanted.
        image: sampler of images; None for labels alone.
        condition: what guides the image: "label" (one-hot), "label_latent", or None for images without a label.

    `in_slabs`, False at first, lets the volumes be decoded slab by slab.
    """

    def __init__(
        self, label: LatentSampler | None = None, image: LatentSampler | None = None, condition: str | None = None
    ) -> None:
        self.label, self.image, self.condition, self.in_slabs = label, image, condition, False

    @torch.no_grad()
    def __call__(self, engine: Engine, batch: dict) -> dict:
        indices = batch["index"].tolist()
        output = {key: batch[key] for key in ("name", "affine")}
        latent = None
        if "label" in batch:
            output["label"] = batch["label"].to(engine.state.device)
        elif self.label is not None:
            latent, output["label"] = self.draw_labels(indices)
        if self.image is not None:
            drawn = self.image.draw(indices, self.guide(output, latent))
            output["image"] = self.image.decode(drawn, self.in_slabs, self.image.draw_gains(indices))
        return output

    def draw_labels(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents and labels of these cases, some drawn again where they lack the lesions that were asked for."""
        found, left = {}, indices
        for attempt in range(ATTEMPTS):
            latents = self.label.draw(left, attempt=attempt)
            labels = self.label.decode(latents, self.in_slabs, forms=self.label.draw_forms(left))
            found |= dict(zip(left, zip(latents, labels, strict=True), strict=True))
            left = [index for index in left if self.label.sizes and not self.label.sizes.fits(found[index][1])]
            if not left:
                break
        latents, labels = zip(*map(found.get, indices), strict=True)
        return torch.stack(latents), torch.stack(labels)

    def guide(self, output: dict, latent: torch.Tensor | None) -> torch.Tensor | None:
        """The condition of the image sampler [B, K or C, ...]."""
        if self.condition is None:
            return None
        if self.condition == "label":
            return one_hot(output["label"], len(self.image.codec.class_names))
        return latent if latent is not None else self.label.codec.encode(output["label"])[0]


class ImageGeneration:
    """The update of an engine that draws images, for batches of `CaseDataset`.

    Args:
        draw: from the noise [B, *shape] of the cases, and a generator for each, to images [B, 1, X, Y, Z] in [0, 1].
        shape: of a case's noise.
        seed: of all cases; the noise of a case follows from it and the case's number alone.
        device: where they are drawn.
    """

    def __init__(
        self,
        draw: Callable[[torch.Tensor, list[torch.Generator]], torch.Tensor],
        shape: list[int],
        seed: int,
        device: torch.device | str,
    ) -> None:
        self.draw, self.shape, self.seed, self.device = draw, list(shape), seed, device

    @torch.no_grad()
    def __call__(self, engine: Engine, batch: dict) -> dict:
        indices = batch["index"].tolist()
        noise = torch.stack([case_noise(self.seed, index, "image", self.shape) for index in indices]).to(self.device)
        generators = [torch.Generator(self.device).manual_seed(self.seed * 1_000_003 + index) for index in indices]
        image = self.draw(noise, generators).clamp(0, 1)
        return {**{key: batch[key] for key in ("name", "affine")}, "image": image}


class DiffusionDraw:
    """Draws by a diffusion process, and decodes what it gives.

    Args:
        network: called with (x, timesteps).
        noise_scheduler: as in training.
        decode: from what the process gives of one case [1, C, x, y, z] to an image in [0, 1].
        device: of the network.
        autocast: bfloat16.
    """

    def __init__(
        self,
        network: nn.Module,
        noise_scheduler: NoiseProcess,
        decode: Callable[[torch.Tensor], torch.Tensor],
        device: torch.device | str,
        autocast: bool = True,
    ) -> None:
        self.network, self.noise_scheduler, self.decode = network, noise_scheduler, decode
        self.inferer = AutocastInferer(device, autocast)

    def predict(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return self.inferer(x, self.network, timesteps)

    def __call__(self, noise: torch.Tensor, generators: list[torch.Generator]) -> torch.Tensor:
        drawn = self.noise_scheduler.sample(self.predict, noise, generators)
        return torch.cat([self.inferer(case, self.decode) for case in drawn.split(1)])


@dataclass(frozen=True)
class System:
    """Codecs and networks that were trained on each other, in evaluation mode on one device."""

    codecs: dict[str, Codec]  # by kind: image, label
    networks: dict[str, nn.Module]  # by training
    checkpoints: dict[str, dict]  # of the networks: what was saved beside the weights

    @property
    def controlled(self) -> ControlledDiffusion:
        """The image LDM with the ControlNet that guides it."""
        pair = self.networks["image_ldm"], self.networks["controlnet"]
        return ControlledDiffusion(*pair, initialise=False).eval()

    @property
    def learnt_from(self) -> dict:
        """What all checkpoints say of the data set: class_names, latent_shape (by kind), spacing (mm)."""
        return next(iter(self.checkpoints.values()))

    @property
    def multiple(self) -> int:
        """Voxels of which the size of a label must be a multiple."""
        levels = max(len(checkpoint["network"]["channels"]) for checkpoint in self.checkpoints.values())
        return max(codec.stride for codec in self.codecs.values()) * 2 ** (levels - 1)


def load_system(
    device: torch.device | str,
    noise_scheduler: str,
    codecs: dict[str, str],
    networks: dict[str, str],
    architectures: dict[str, Callable[..., nn.Module]] | None = None,
) -> System:
    """Load codecs and networks, and check that they were trained on each other.

    Args:
        device: where they shall run.
        noise_scheduler: name of the process that will sample them, "rectified_flow" or "ddpm".
        codecs: kind, "image" or "label": `codec.pt`.
        networks: training that made it: `model.pt`.
        architectures: training: class of its network; default: those of label_ldm, image_ldm and controlnet.

    Raises:
        UserError: naming the file that does not fit and the training to run again.
    """
    loaded = {kind: load_codec(path, kind).to(device) for kind, path in codecs.items()}
    hashes = {kind: sha256(path) for kind, path in codecs.items()}
    classes, found, checkpoints = {**ARCHITECTURES, **(architectures or {})}, {}, {}
    for training, path in networks.items():
        network, checkpoints[training] = load_model(path, classes[training], training)
        check_checkpoint(path, training, checkpoints[training], hashes, noise_scheduler)
        found[training] = network.to(device)
    return System(loaded, found, checkpoints)


def check_checkpoint(path: str, training: str, checkpoint: dict, hashes: dict[str, str], noise_scheduler: str) -> None:
    """Raise UserError where a model was trained on other codecs or by another process than it will be sampled with."""
    for kind, digest in hashes.items():
        if checkpoint["codecs"][kind] != digest:
            raise UserError(
                f"{path}: was trained on the latents of another {kind} codec ({checkpoint['codecs'][kind][:12]}, this "
                f"one is {digest[:12]}); encode the latents and train {training!r} again"
            )
    if checkpoint["noise_scheduler"] != noise_scheduler:
        raise UserError(
            f"{path}: was trained as {checkpoint['noise_scheduler']!r} but would be sampled as {noise_scheduler!r}; "
            "use the same noise_scheduler overlay for training and inference"
        )
