"""The codec: an autoencoder, or the Haar transform, with the statistics of its latents. Nothing else scales latents."""

from collections.abc import Iterable, Sequence
from functools import partial, wraps
from pathlib import Path

import torch
from monai.networks.nets import AutoencoderKL
from torch import nn
from tqdm import tqdm

from lldm3d.codec.haar import HaarDistances, HaarTransform
from lldm3d.codec.tiled_decoding import decode_in_slabs
from lldm3d.data.labels import LabelForm, one_hot
from lldm3d.data.slices import slices_of, stack_slices
from lldm3d.errors import UserError
from lldm3d.files import load_checkpoint, save_checkpoint
from lldm3d.training.checkpoints import as_lists

LEAST_STD = 1e-3  # of a channel; images lie in [0, 1]
# where bands are scaled by classes: those that are so many times smaller than the largest, and at most by how much
SMALL, MOST_RAISED = 2.0, 4.0


class TrilinearAutoencoder(AutoencoderKL):
    """An `AutoencoderKL` whose decoder doubles sizes by linear interpolation, as MAISI's, not by nearest neighbour.

    Names and shapes of the weights are the same, so nothing but the outputs tells the two apart.
    """

    @wraps(AutoencoderKL.__init__)
    def __init__(self, *arguments, **settings) -> None:
        super().__init__(*arguments, **settings)
        for module in self.decoder.modules():
            if isinstance(module, nn.Upsample):
                module.mode = "trilinear"


class SliceAutoencoder(AutoencoderKL):
    """An `AutoencoderKL` of two dimensions for volumes: it sees each axial slice alone, and shrinks X and Y."""

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and sigma [B, C, X/stride, Y/stride, Z] of volumes [B, 1, X, Y, Z]."""
        return tuple(stack_slices(found, x.shape[-1]) for found in super().encode(slices_of(x)))

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Volumes [B, 1, X, Y, Z] of latents [B, C, X/stride, Y/stride, Z]."""
        return stack_slices(super().decode(slices_of(z)), z.shape[-1])


NETWORKS = {
    network.__name__: network
    for network in (AutoencoderKL, TrilinearAutoencoder, SliceAutoencoder, HaarTransform, HaarDistances)
}


class Codec(nn.Module):
    """Volumes to latents of mean 0 and standard deviation 1, and back.

    Args:
        autoencoder: trained `AutoencoderKL`, or a `HaarTransform`.
        kind: "image" ([B, 1, X, Y, Z] in [0, 1]) or "label" (class indices [B, 1, X, Y, Z], one-hot inside).
        class_names: with background; for images as well, since the codec belongs to a data set.
        latent_mean: [C], over all voxels of the training set's latents.
        latent_std: [C].
    """

    def __init__(
        self,
        autoencoder: AutoencoderKL | HaarTransform,
        kind: str,
        class_names: Sequence[str],
        latent_mean: torch.Tensor,
        latent_std: torch.Tensor,
    ) -> None:
        super().__init__()
        self.autoencoder, self.kind, self.class_names = autoencoder, kind, list(class_names)
        self.register_buffer("latent_mean", latent_mean.view(1, -1, 1, 1, 1))
        self.register_buffer("latent_std", latent_std.view(1, -1, 1, 1, 1))

    @property
    def lossless(self) -> bool:
        """Whether decoding gives back what was encoded, from latents without a sigma."""
        return isinstance(self.autoencoder, HaarTransform)

    @property
    def stride(self) -> int:
        """Voxels for each latent voxel, along each axis."""
        if self.lossless:
            return self.autoencoder.stride
        return 2 ** (len(self.autoencoder.encoder.channels) - 1)

    @torch.no_grad()
    def encode(self, volume: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and sigma of the latent, each [B, C, X/stride, Y/stride, Z/stride]; draw as mean + sigma × noise."""
        if self.kind == "label":
            volume = one_hot(volume, len(self.class_names))
        mean, sigma = self.autoencoder.encode(volume)
        return (mean - self.latent_mean) / self.latent_std, sigma / self.latent_std

    @torch.no_grad()
    def decode(
        self,
        latent: torch.Tensor,
        in_slabs: bool = False,
        size: Sequence[int] | None = None,
        gain: float = 1.0,
        form: LabelForm | None = None,
    ) -> torch.Tensor:
        """An image in [0, 1], or class indices (uint8), [B, 1, X, Y, Z]; in slabs the same with less memory.

        Given a `size`, what encoding added to reach a multiple of the stride is cut off. An image is multiplied by
        `gain` before it is cut at 1, which scans that were encoded with another gain exceed. Labels are brought into
        the `form`.
        """
        latent = latent * self.latent_std + self.latent_mean
        in_slabs = in_slabs and not self.lossless  # the Haar transform takes no more than its volumes
        decoded = decode_in_slabs(self.autoencoder, latent) if in_slabs else self.autoencoder.decode(latent)
        if size is not None:
            decoded = decoded[(..., *map(slice, size))]
        if self.kind == "label":
            if form is None:
                return decoded.argmax(1, keepdim=True).to(torch.uint8)
            labels = [torch.from_numpy(form.label(case)) for case in decoded.float().cpu().numpy()]
            return torch.stack(labels)[:, None].to(decoded.device)
        return (decoded.float() * gain).clamp(0, 1)


def save_codec(
    path: str,
    autoencoder: nn.Module,
    architecture: partial,
    kind: str,
    class_names: Sequence[str],
    volumes: Iterable[torch.Tensor],
    device: torch.device | str,
) -> Codec:
    """Measure the latents of the training `volumes` [B, 1, X, Y, Z] and save `codec.pt`; arguments as `Codec`'s.

    Args:
        autoencoder: trained network (a DistributedDataParallel is unwrapped).
        architecture: `functools.partial` of AutoencoderKL or HaarTransform with its arguments.
    """
    autoencoder = getattr(autoencoder, "module", autoencoder).to(device).eval()
    lossless = isinstance(autoencoder, HaarTransform)
    channels = autoencoder.latent_channels if lossless else architecture.keywords["latent_channels"]
    codec = Codec(autoencoder, kind, class_names, torch.zeros(channels), torch.ones(channels)).to(device)
    codec.latent_mean, codec.latent_std = latent_statistics(codec, volumes, device)
    content = {
        "autoencoder": autoencoder.state_dict(),
        "network": {name: as_lists(value) for name, value in architecture.keywords.items()},
        "kind": kind,
        "architecture": type(autoencoder).__name__,
        "latent_channels": channels,
        "stride": codec.stride,
        "class_names": list(class_names),
        "latent_mean": codec.latent_mean.flatten().cpu(),
        "latent_std": codec.latent_std.flatten().cpu(),
    }
    save_checkpoint(path, content)
    return codec


def latent_statistics(
    codec: Codec, volumes: Iterable[torch.Tensor], device: torch.device | str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each latent channel, [1, C, 1, 1, 1], over draws of all volumes."""
    count, total, squares = 0, 0.0, 0.0
    for volume in tqdm(volumes, desc=f"{codec.kind} latent statistics", mininterval=1):
        mean, sigma = (item.double() for item in codec.encode(torch.as_tensor(volume).to(device)))
        total = total + mean.sum((0, 2, 3, 4))
        squares = squares + (mean.square() + sigma.square()).sum((0, 2, 3, 4))
        count += mean[:, 0].numel()
    mean = total / count
    # bands of a class that no case has are constant
    std = (squares / count - mean.square()).clamp(min=LEAST_STD**2).sqrt()
    alike = getattr(codec.autoencoder, "scaled_alike", 1)
    widest = std.view(-1, alike).amax(1, keepdim=True)
    if alike > 1:
        largest = widest.max()
        widest = torch.where(widest < largest / SMALL, widest, largest).clamp(min=largest / MOST_RAISED)
    std = widest.expand(-1, alike).flatten()
    return mean.float().view(1, -1, 1, 1, 1), std.float().view(1, -1, 1, 1, 1)


def load_codec(path: str | Path, kind: str) -> Codec:
    """The codec of `kind` in evaluation mode.

    Raises UserError where the file is missing, unreadable, or a codec of the other kind.
    """
    checkpoint = load_checkpoint(path, made_by=f"autoencoder_{kind}")
    if checkpoint.get("kind") != kind:
        raise UserError(f"{path}: is a codec of kind {checkpoint.get('kind')!r}, but {kind!r} is needed here")
    autoencoder = NETWORKS[architecture_of(checkpoint)](**checkpoint["network"])
    autoencoder.load_state_dict(checkpoint["autoencoder"])
    return Codec(autoencoder, kind, *(checkpoint[key] for key in ("class_names", "latent_mean", "latent_std"))).eval()


def architecture_of(checkpoint: dict) -> str:
    """The name of a codec's network in `NETWORKS`; codecs before version 0.14 have flags instead."""
    flags = {"haar": HaarTransform, "trilinear": TrilinearAutoencoder}
    flagged = [network.__name__ for flag, network in flags.items() if checkpoint.get(flag)]
    return checkpoint.get("architecture", *flagged or [AutoencoderKL.__name__])
