"""Drawing pairs as the Model Zoo's brats_mri_generative_diffusion does, with the networks of a chain's DDPM twin."""

import torch
from monai.inferers import ControlNetDiffusionInferer, DiffusionInferer
from monai.networks.schedulers import DDPMScheduler

from lldm3d.data.labels import one_hot
from lldm3d.pairs.sampling import Generation, LatentSampler, case_noise

STEPS = 1000


def scheduler(steps: int = STEPS) -> DDPMScheduler:
    """The bundle's; its networks were trained with all 1000 steps."""
    noise = {"schedule": "scaled_linear_beta", "beta_start": 0.0015, "beta_end": 0.0195, "clip_sample": False}
    found = DDPMScheduler(STEPS, **noise)
    found.set_timesteps(steps)
    return found


def draw_pairs(generation: Generation, indices: list[int], steps: int = STEPS) -> dict[str, torch.Tensor]:
    """Label and image of these cases, which begin from the same noise as those of `lldm3d generate`."""
    noise = {
        kind: torch.stack([case_noise(0, index, kind, sampler.latent_shape) for index in indices]).to(sampler.device)
        for kind, sampler in (("label", generation.label), ("image", generation.image))
    }
    torch.manual_seed(indices[0])  # of the noise of each step
    label = draw_labels(generation.label, noise["label"], steps)
    return {"label": label, "image": draw_images(generation.image, noise["image"], label, steps)}


def draw_labels(sampler: LatentSampler, noise: torch.Tensor, steps: int = STEPS) -> torch.Tensor:
    """Class indices [B, 1, X, Y, Z] in float32 arithmetic.

    MONAI's `LatentDiffusionInferer` divides by one scale factor of the first batch; the codec, which has a mean and a
    deviation for each channel of the whole training set, decodes instead: that can only favour the stock side.
    """
    process = scheduler(steps)
    latent = DiffusionInferer(process).sample(noise, sampler.network, process, verbose=False)
    return sampler.codec.decode(latent)


def draw_images(sampler: LatentSampler, noise: torch.Tensor, label: torch.Tensor, steps: int = STEPS) -> torch.Tensor:
    """Images [B, 1, X, Y, Z] in [0, 1] on labels.

    `ControlNetLatentDiffusionInferer` would shrink the label to the latent's size, for which these ControlNets are not
    made; its parent class takes it whole.
    """
    controlled, process = sampler.network, scheduler(steps)
    condition = one_hot(label, len(sampler.codec.class_names))
    inferer = ControlNetDiffusionInferer(process)
    latent = inferer.sample(noise, controlled.diffusion, controlled.controlnet, condition, process, verbose=False)
    return sampler.codec.decode(latent)
