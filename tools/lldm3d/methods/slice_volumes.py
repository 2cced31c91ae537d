"""Volumes from slices: diffusion of slices whose depth layers make them one volume, drawn window by window.

Make-A-Volume (Zhu et al. 2023) as it stands as a baseline of GEM-3D (Zhu et al. 2024, arXiv:2406.19043), and GEM-3D
itself, which begins a volume from one slice (SYSTEMS 3.6, 3.7). Written from those texts; the departures are in the
bundle's document.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from monai.networks.blocks import SABlock, SpatialAttentionBlock
from monai.networks.nets import DiffusionModelUNet
from monai.networks.nets.diffusion_model_unet import get_timestep_embedding, zero_module
from torch import Tensor, nn

from lldm3d.codec.codec import Codec
from lldm3d.data.labels import one_hot
from lldm3d.data.slices import slices_of, stack_slices
from lldm3d.diffusion.batches import generators_of
from lldm3d.diffusion.gaussian import GaussianDiffusion
from lldm3d.diffusion.noise import noise_like
from lldm3d.diffusion.repaint import repaint
from lldm3d.diffusion.windows import Window, windows
from lldm3d.errors import UserError
from lldm3d.training.inferers import AutocastInferer

POSITION = 128  # numbers of the sinusoid of a relative depth


class DepthConv(nn.Module):
    """A convolution of slices, and one of three slices along the depth on its features, which begins at zero.

    Added to what it sees it is the identity (Dirac) kernel that GEM-3D's begins with, and bit-equal on every device.
    """

    active, depth = False, 1  # slices of a volume, set by the network

    def __init__(self, slices: nn.Conv2d) -> None:
        super().__init__()
        channels = slices.out_channels
        self.slices, self.along = slices, zero_module(nn.Conv2d(channels, channels, (3, 1), padding=(1, 0)))

    def forward(self, x: Tensor) -> Tensor:
        """Features [B·Z, C, x, y]."""
        found = self.slices(x)
        if not self.active:
            return found
        columns = rearrange(found, "(b z) c x y -> b c z (x y)", z=self.depth)
        x, y = found.shape[2:]
        return found + rearrange(self.along(columns), "b c z (x y) -> (b z) c x y", x=x, y=y)


class DepthAttention(nn.Module):
    """Attention within slices, and one along the depth after the same norm, whose output begins at zero."""

    active, depth = False, 1

    def __init__(self, slices: SpatialAttentionBlock) -> None:
        super().__init__()
        self.slices = slices
        self.along = SABlock(slices.norm.num_channels, slices.attn.num_heads, qkv_bias=True)
        zero_module(self.along.out_proj)

    def forward(self, x: Tensor) -> Tensor:
        """Features [B·Z, C, x, y]."""
        found = self.slices(x)
        if not self.active:
            return found
        columns = rearrange(self.slices.norm(found), "(b z) c x y -> (b x y) z c", z=self.depth)
        x, y = found.shape[2:]
        return found + rearrange(self.along(columns), "(b x y) z c -> (b z) c x y", x=x, y=y)


def insert_depth_layers(network: nn.Module) -> None:
    """Put a depth layer after each convolution of 3x3 voxels, and each attention, of a network of slices."""
    for name, child in list(network.named_children()):
        if isinstance(child, SpatialAttentionBlock):
            setattr(network, name, DepthAttention(child))
        elif isinstance(child, nn.Conv2d) and child.kernel_size == (3, 3):
            setattr(network, name, DepthConv(child))
        else:
            insert_depth_layers(child)


class SliceDiffusion(nn.Module):
    """A diffusion U-Net of slices that may see each other, of (x, timesteps, condition, ...) on windows of a volume.

    The label lies beside the noisy latent, each latent voxel with all of its label voxels.

    Args:
        latent_channels: C of the latent of a slice.
        num_classes: K of the one-hot label, with background.
        stride: voxels of a slice for each latent voxel, along X and Y.
        informed: whether it sees a known slice of the window beside each of the others.
        positions: whether it attends to the relative depth of its slices.
        depth: whether its depth layers, which are there in any case, work.
        unet: further arguments of `DiffusionModelUNet`.
    """

    def __init__(
        self,
        latent_channels: int,
        num_classes: int,
        stride: int,
        informed: bool = False,
        positions: bool = False,
        depth: bool = False,
        **unet: object,
    ) -> None:
        super().__init__()
        self.stride, self.informed, self.positions, self.depth = stride, informed, positions, depth
        self.multiple = [stride * 2 ** (len(unet["channels"]) - 1)] * 2 + [1]
        inputs = latent_channels * (1 + informed) + num_classes * stride**2
        context = {"with_conditioning": True, "cross_attention_dim": POSITION} if positions else {}
        self.unet = DiffusionModelUNet(2, inputs, latent_channels, **context, **unet)
        insert_depth_layers(self.unet)
        for layer in self.depth_layers():
            layer.active = depth

    def depth_layers(self) -> list[nn.Module]:
        return [layer for layer in self.modules() if isinstance(layer, (DepthConv, DepthAttention))]

    def learnt(self) -> list[nn.Parameter]:
        """What is trained: the depth layers where they work, else all the rest; the other weights are frozen."""
        along = {id(weight) for layer in self.depth_layers() for weight in layer.along.parameters()}
        for weight in self.parameters():
            weight.requires_grad_((id(weight) in along) == self.depth)
        return [weight for weight in self.parameters() if weight.requires_grad]

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        condition: Tensor,
        informed: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """The answer like x.

        Args:
            x: noisy latents [B, C, x, y, Z].
            timesteps: [B], or [B, Z] of each slice.
            condition: one-hot labels [B, K, stride·x, stride·y, Z].
            informed: latent of the known slice [B, C, x, y, 1].
            positions: relative depths [B, Z] in [0, 1].
        """
        depth, side = x.shape[-1], self.stride
        label = rearrange(condition, "b k (x i) (y j) z -> b (k i j) x y z", i=side, j=side)
        seen = [x, label, *([informed.expand_as(x)] if self.informed else [])]
        times = timesteps if timesteps.ndim == 2 else timesteps[:, None].expand(-1, depth)
        context = None
        if self.positions:
            context = get_timestep_embedding(1000 * positions.flatten(), POSITION)[:, None].to(x.dtype)
        for layer in self.depth_layers():
            layer.depth = depth
        return stack_slices(self.unet(slices_of(torch.cat(seen, 1)), times.flatten(), context), depth)


@dataclass(eq=False)
class WindowBatch:
    """Noisy latents of windows of slices, and what the network sees beside them.

    Windows of a data set of slices ("image" [B, 1, X, Y], "position" [B]) have one slice.
    """

    noise_scheduler: GaussianDiffusion
    codec: Codec
    num_classes: int  # K, with background
    informed: bool = False  # give a random slice of the window
    shared_time: bool = False  # one time for all slices of a window, later ones less often; else each its own
    seed: int | None = None  # given, noise and times depend on the case alone (validation): losses can be compared

    def __call__(self, batch: dict, device=None, non_blocking: bool = False, **_) -> tuple:
        image, label = (batch[key].to(device, non_blocking=non_blocking) for key in ("image", "label"))
        if image.ndim == 4:
            image, label = image[..., None], label[..., None]
        latent = self.codec.encode(image)[0]
        generators = generators_of(batch, self.seed)
        windows = [(latent.shape[-1], item) for item in generators or [None] * len(latent)]
        timesteps = torch.stack([self.times(*window) for window in windows]).to(device)
        noisy, target = self.noise_scheduler.noisy_and_target(latent, noise_like(latent, generators), timesteps)
        arguments = {"timesteps": timesteps, "condition": one_hot(label, self.num_classes)}
        if self.informed:
            known = [torch.randint(depth, (1,), generator=item) for depth, item in windows]
            arguments["informed"] = torch.stack([one[..., k] for one, k in zip(latent, known, strict=True)])
        if "position" in batch:
            arguments["positions"] = batch["position"][:, None].to(device, torch.float32)
        return noisy, target, (), arguments

    def times(self, depth: int, generator: torch.Generator | None) -> Tensor:
        """The times [Z] of the slices of a window."""
        if not self.shared_time:
            return self.noise_scheduler.sample_timesteps(depth, generator)
        steps = self.noise_scheduler.num_train_timesteps
        return torch.multinomial(2.0 * steps - torch.arange(steps), 1, generator=generator).expand(depth)


@dataclass(frozen=True)
class StartSlice:
    """A real slice [1, 1, X, Y, 1] in [0, 1] from which a volume begins."""

    image: Tensor
    number: int  # of the slice in the volume
    held: bool  # whether it is of the volume; else of another, and is only looked at


class VolumeDraw:
    """Draws volumes window by window, all that is random by the generator of each case.

    Args:
        network: a `SliceDiffusion` with depth layers.
        noise_scheduler: as in training.
        codec: of slices.
        device: of the networks.
        window: slices drawn at once.
        overlap: slices that windows share.
        start: the network that draws the slice from which a volume begins; None: none is wanted.
        start_slice: its number; None: the middle one.
        autocast: bfloat16.
    """

    def __init__(
        self,
        network: SliceDiffusion,
        noise_scheduler: GaussianDiffusion,
        codec: Codec,
        device: torch.device | str,
        window: int = 16,
        overlap: int = 0,
        start: SliceDiffusion | None = None,
        start_slice: int | None = None,
        autocast: bool = True,
    ) -> None:
        self.network, self.noise_scheduler, self.codec = network, noise_scheduler, codec
        self.window, self.overlap, self.start, self.start_slice = window, overlap, start, start_slice
        self.inferer = AutocastInferer(device, autocast)

    def check(self, cases: Sequence[dict]) -> None:
        """Raise UserError where the label [1, X, Y, Z] of a case has no such windows or start."""
        for case in cases:
            try:
                list(self.plan(case["label"].shape[-1], None))
            except UserError as error:
                raise UserError(f"{case['name']}: {error}") from None

    def plan(self, depth: int, start: StartSlice | None) -> Iterator[Window]:
        """The windows of a volume."""
        number = start.number if start else self.drawn_start(depth)
        return windows(depth, self.window, number, start is None or start.held, self.overlap)

    def drawn_start(self, depth: int) -> int | None:
        """The number of the slice that is drawn first; None where none is."""
        if self.start is None:
            return None
        return depth // 2 if self.start_slice is None else self.start_slice

    def __call__(
        self, label: Tensor, generators: Sequence[torch.Generator], starts: Sequence[StartSlice | None] | None = None
    ) -> Tensor:
        """Images [N, 1, X, Y, Z] in [-1, 1] for one-hot labels [N, K, X, Y, Z]; starts that are None are drawn."""
        cases = zip(label.split(1), generators, starts or [None] * len(label), strict=True)
        return torch.cat([self.codec.decode(self.draw(*case)) for case in cases]) * 2 - 1

    def draw(self, label: Tensor, generator: torch.Generator, start: StartSlice | None) -> Tensor:
        """The latent [1, C, x, y, Z] of one volume."""
        depth = label.shape[-1]
        plan = list(self.plan(depth, start))
        number = start.number if start else self.drawn_start(depth)
        known = None
        if start is not None:
            known = self.codec.encode(start.image.to(label))[0]
        elif number is not None:
            known = self.start_latent(label, number, generator)
        latent = self.empty(label)
        noise = noise_like(latent, [generator])
        if known is not None and (start is None or start.held):
            latent[..., number, None] = known
        for window in plan:
            informed = known if window.informed is None else latent[..., window.informed, None]
            drawn = self.draw_window(window, label, latent, noise, informed, generator)
            latent[..., list(window.new)] = drawn[..., [new - window.first for new in window.new]]
        return latent

    def draw_window(
        self,
        window: Window,
        label: Tensor,
        latent: Tensor,
        noise: Tensor,
        informed: Tensor | None,
        generator: torch.Generator,
    ) -> Tensor:
        """The latent of a window; what is held has in each step the noise that the rest has then."""
        part = slice(window.first, window.first + self.window)
        kept = torch.zeros(self.window, dtype=torch.bool, device=latent.device)
        kept[[there - window.first for there in window.held]] = True
        predict = self.predictor(self.network, label[..., part], informed)
        return repaint(self.noise_scheduler, predict, noise[..., part], latent[..., part], kept, 1, 1, [generator])

    def start_latent(self, label: Tensor, number: int, generator: torch.Generator) -> Tensor:
        """The drawn latent [1, C, x, y, 1] of the slice `number`."""
        part, depth = label[..., number, None], label.shape[-1]
        position = torch.full((1, 1), number / max(depth - 1, 1), device=label.device)
        predict, noise = self.predictor(self.start, part, None, position), noise_like(self.empty(part), [generator])
        return self.noise_scheduler.sample(predict, noise, [generator])

    def empty(self, label: Tensor) -> Tensor:
        """Zeros [1, C, x, y, Z], as the latent for a label [1, K, X, Y, Z]."""
        x, y, depth = label.shape[2:]
        side = self.network.stride
        return label.new_zeros(1, self.codec.latent_mean.shape[1], x // side, y // side, depth)

    def predictor(self, network: nn.Module, *seen: Tensor | None) -> Callable:
        """What the process calls."""
        return lambda x, timesteps: self.inferer(x, network, timesteps, *seen)
