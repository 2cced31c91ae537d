"""Lesions by a method that draws images for labels: the label has the lesion, the rest of the scan is known."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.functional import max_pool3d

from lldm3d.codec.codec import Codec
from lldm3d.data.labels import one_hot
from lldm3d.diffusion.noise import RectifiedFlow, noise_like
from lldm3d.diffusion.repaint import repaint_flow
from lldm3d.errors import UserError
from lldm3d.lesions.editor import Edit, Editor
from lldm3d.lesions.placement import in_volume
from lldm3d.training.inferers import AutocastInferer


class LabelPainter:
    """Draws a lesion into its mask for the label that then is; all other voxels stay bit by bit.

    Args:
        network: called with (x, timesteps, condition), of latents and a one-hot label.
        noise_scheduler: as in training.
        codec: of images.
        class_names: of the label, with background.
        device: of network and codec.
        resample: times that each step is drawn.
        autocast: bfloat16.
    """

    def __init__(
        self,
        network: nn.Module,
        noise_scheduler: RectifiedFlow,
        codec: Codec,
        class_names: Sequence[str],
        device: torch.device | str,
        resample: int = 2,
        autocast: bool = True,
    ) -> None:
        self.network, self.noise_scheduler, self.codec, self.device = network, noise_scheduler, codec, device
        self.class_names, self.resample, self.inferer = tuple(class_names), resample, AutocastInferer(device, autocast)

    def __call__(
        self, editor: Editor, image: np.ndarray, label: np.ndarray, edit: Edit, generator: torch.Generator
    ) -> np.ndarray:
        """The image [X, Y, Z] in [0, 1] with a new lesion. Raises UserError for labels of other classes."""
        names = editor.own.scans.schema.class_names
        if names != self.class_names:
            learnt, own = (", ".join(one[1:]) for one in (self.class_names, names))
            raise UserError(f"the network draws for labels of {learnt}, and the scan has {own}; choose another texture")
        mask = in_volume(editor.mask(edit), edit.centre, label.shape)
        volumes = (np.ascontiguousarray(volume) for volume in (image, editor.label(label, [edit]), mask))
        known, wanted, inside = (torch.as_tensor(volume, device=self.device)[None, None] for volume in volumes)
        condition, (latent, _) = one_hot(wanted, len(names)), self.codec.encode(known)
        kept = max_pool3d(inside.float(), self.codec.stride) == 0
        drawn = repaint_flow(
            self.noise_scheduler,
            lambda x, timesteps: self.inferer(x, self.network, timesteps, condition),
            noise_like(latent, [generator]), latent, kept, self.resample, [generator],
        )  # fmt: skip
        found = image.copy()
        found[mask] = self.codec.decode(drawn)[0, 0].cpu().numpy()[mask]
        return found
