import json

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from lldm3d.evaluation.copies import COARSE, coarse, nearest_images
from lldm3d.files import load_nifti

SIZE, CPU = (24, 20, 18), torch.device("cpu")
COPIES = {
    "exact": lambda image, rng: image,
    "mirrored": lambda image, rng: image[::-1, :, ::-1],
    "noisy": lambda image, rng: image + rng.normal(0, 0.1, image.shape),
    "shifted": lambda image, rng: np.roll(image, rng.choice([-2, 0, 2], 3), (0, 1, 2)),
    "shifted, mirrored and noisy": lambda image, rng: (
        np.roll(image[:, ::-1], (2, -2, 0), (0, 1, 2)) + rng.normal(0, 0.05, image.shape)
    ),
}


def blob(seed: int) -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=SIZE), 2)
    return (noise - noise.min()) / np.ptp(noise)


def stack(images) -> np.ndarray:
    return np.stack([coarse(image) for image in images])


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_is_nearest_to_what_it_was_made_of(name):
    rng, images = np.random.default_rng(0), [blob(seed) for seed in range(6)]
    copies = [COPIES[name](image, rng) for image in images]
    distances, index = nearest_images(stack(copies), stack(images), SIZE, CPU, "copies")
    others, _ = nearest_images(stack(blob(seed) for seed in range(10, 16)), stack(images), SIZE, CPU, "others")
    assert index.tolist() == list(range(6))
    assert distances.max() < others.min() / 2
    if name in ("exact", "mirrored"):
        assert distances.max() < 1e-5


def test_a_coarse_image_is_small_and_ignores_noise():
    image = np.random.default_rng(0).normal(size=(160, 50, 16))
    small = coarse(image)
    assert small.shape == (22, 16, 16) and max(small.shape) <= COARSE
    assert small.std() < 0.2 * image.std()


def test_on_real_scans_copies_are_found_and_held_out_cases_are_not(real_data):
    """140 training and 60 held-out scans: all exact copies, at least 95 % of the others, at most 1 % false alarms."""
    folder, rng = real_data("hippocampus"), np.random.default_rng(0)
    size = (32, 48, 32)
    listed = json.loads((folder / "dataset.json").read_text())["training"]
    images = [middle(load_nifti(folder / case["image"])[0], size) for case in listed]
    training, held_out = images[:140], images[140:]
    real, _ = nearest_images(stack(held_out), stack(training), size, CPU, "held out")
    false = [distance < np.delete(real, index).min() / 2 for index, distance in enumerate(real)]
    assert np.mean(false) <= 0.01
    for name, change in COPIES.items():
        distances, index = nearest_images(
            stack(change(image, rng) for image in training), stack(training), size, CPU, name
        )
        found = (distances < real.min() / 2) & (index == np.arange(len(training)))
        assert found.mean() >= (1 if name == "exact" else 0.95), name


def middle(image: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """The middle of a scan, scaled to [0, 1], 0 where it is smaller."""
    image = np.pad(image, [(0, max(0, want - have)) for want, have in zip(size, image.shape, strict=True)])
    start = np.subtract(image.shape, size) // 2
    image = image[tuple(slice(low, low + want) for low, want in zip(start, size, strict=True))].astype(np.float32)
    return (image - image.min()) / np.ptp(image)
