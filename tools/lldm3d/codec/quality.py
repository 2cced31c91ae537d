"""How well an autoencoder gives back what it is given: the gate before diffusion (DESIGN §5.8)."""

from collections.abc import Iterable

import numpy as np
import torch
from monai.metrics import SSIMMetric, compute_dice
from skimage.metrics import peak_signal_noise_ratio
from tqdm import tqdm

from lldm3d.agreement import cldice
from lldm3d.codec.codec import Codec
from lldm3d.data.labels import one_hot


@torch.no_grad()
def reconstruct(codec: Codec, volume: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Encode a volume [1, 1, X, Y, Z] to its mean latent and decode it."""
    mean, _ = codec.encode(torch.as_tensor(volume).to(device))
    return codec.decode(mean).cpu()


def image_fidelity(codec: Codec, volumes: Iterable[torch.Tensor], device: torch.device | str) -> dict:
    """Mean PSNR (dB, range 1) and SSIM over images [1, 1, X, Y, Z] in [0, 1], and their number."""
    ssim = SSIMMetric(spatial_dims=3, data_range=1.0, win_size=7)
    psnr, similarity = [], []
    for volume in tqdm(volumes, desc="image reconstruction", mininterval=1):
        volume = torch.as_tensor(volume)
        output = reconstruct(codec, volume, device)
        psnr.append(peak_signal_noise_ratio(volume.numpy(), output.numpy(), data_range=1.0))
        similarity.append(float(ssim(output, volume)))
    return {"psnr": float(np.mean(psnr)), "ssim": float(np.mean(similarity)), "n": len(psnr)}


def label_fidelity(
    codec: Codec, volumes: Iterable[torch.Tensor], tubular: Iterable[str], device: torch.device | str
) -> dict:
    """Mean Dice of each class, and clDice of each tubular class, over label maps [1, 1, X, Y, Z] in which it occurs."""
    names, tubular = codec.class_names, list(tubular)
    dice, centre = {name: [] for name in names[1:]}, {name: [] for name in tubular}
    count = 0
    for volume in tqdm(volumes, desc="label reconstruction", mininterval=1):
        volume = torch.as_tensor(volume)
        truth, pred = (one_hot(item, len(names)) for item in (volume, reconstruct(codec, volume, device)))
        for name, value in zip(names[1:], compute_dice(pred, truth, include_background=False)[0].tolist(), strict=True):
            if truth[0, names.index(name)].any():
                dice[name].append(value)
        for name in tubular:
            mask, found = truth[0, names.index(name)].bool().numpy(), pred[0, names.index(name)].bool().numpy()
            if mask.any():
                centre[name].append(cldice(found, mask))
        count += 1
    dice, centre = ({k: float(np.mean(v)) if v else None for k, v in item.items()} for item in (dice, centre))
    known = [value for value in dice.values() if value is not None]
    return {"dice": dice, "cldice": centre, "mean_dice": float(np.mean(known)) if known else None, "n": count}
