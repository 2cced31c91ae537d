import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from lldm3d.data.dataset import Case, load_cases, load_schema
from lldm3d.evaluation.copies import (
    COARSE,
    MOST_NOISE,
    NearestCases,
    coarse,
    copied_share,
    copy_distance,
    copy_rows,
    nearest_cases,
    nearest_images,
    noise_shares,
)
from lldm3d.evaluation.figures import nearest_pairs_figure
from lldm3d.evaluation.records import CaseRecords, Record
from lldm3d.files import load_nifti

from .toys import scan, write_dataset

SIZE, CPU = (24, 20, 18), torch.device("cpu")
COPIES = {
    "exact": lambda image, rng: image,
    "mirrored": lambda image, rng: image[::-1, :, ::-1],
    "noisy": lambda image, rng: image + rng.normal(0, 0.1, image.shape),
    "shifted": lambda image, rng: np.roll(image, rng.choice([-2, 0, 2], 3), (0, 1, 2)),
    "darker": lambda image, rng: 0.5 * image + 0.2,
    "of another contrast": lambda image, rng: image.clip(0) ** 2,
    "inverted": lambda image, rng: 1 - image,
    "shaded": lambda image, rng: image * np.linspace(0.7, 1.3, image.shape[1])[:, None],
    "shaded and noisy": lambda image, rng: (
        image * np.linspace(0.7, 1.3, len(image))[:, None, None] + rng.normal(0, 0.1, image.shape)
    ),
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


@pytest.mark.parametrize("size", [SIZE, (24, 20, 1)])
def test_the_noise_of_an_image_beyond_that_of_others_is_measured(size):
    def rows(images):
        found = torch.as_tensor(np.stack(images), dtype=torch.float32).flatten(1)
        return torch.nn.functional.normalize(found - found.mean(1, keepdim=True))

    rng, images = np.random.default_rng(0), [coarse(blob(seed)[..., : size[2]]) for seed in range(20)]
    noise = [coarse(rng.normal(0, image.std(), size)) for image in images]
    noise = [item * image.std() / item.std() for item, image in zip(noise, images, strict=True)]
    mixed = [image + share**0.5 * item for share in (0.25, 9) for image, item in zip(images, noise, strict=True)]
    found = noise_shares(rows(images + mixed), rows(images), size).reshape(3, 20).mean(1).tolist()
    expected = [0, 0.2, MOST_NOISE] if min(size) > 1 else [0, 0, 0]  # 0.25 of 1.25
    assert found == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("near", [0.0, 0.3])
@pytest.mark.parametrize("number", [2, 3, 8, 40])
def test_one_held_out_scan_that_was_learnt_from_does_not_switch_the_search_off(near, number):
    """A scan that is filed in training and test, and a follow-up of a training patient under another name."""
    rng = np.random.default_rng(0)
    held_out, released = rng.uniform(0.9, 1.1, number), np.append(rng.uniform(0.9, 1.1, 32), np.full(8, 0.01))
    held_out[0] = near
    nearest = [NearestCases("image", released, held_out, np.zeros(40, int))]
    assert copied_share(nearest) == 8 / 40
    note = copy_rows(nearest, None)[1].note
    assert ("so near are 1 of the held-out cases" in note) == (near < 0.45)


def test_held_out_scans_that_were_learnt_from_do_not_switch_the_search_off():
    """All of them copies of training cases with a little noise, and a training scan is filed under two names."""
    rng, size = np.random.default_rng(0), (24, 24, 16)
    images = [scan(seed)[0] for seed in range(8)]
    training = records(images + images[:1])
    held_out = records(np.clip(image + rng.normal(0, 0.01, size), 0, 1) for image in images[:4])
    released = records(np.clip(image + rng.normal(0, 0.02, size), 0, 1) for image in images[4:])
    fresh = records(scan(seed)[0] for seed in range(100, 104))
    for shown, share in ((released, 1), (fresh, 0)):
        assert copied_share(nearest_cases(shown, training, [held_out], size, None)) == share
    note = copy_rows(nearest_cases(fresh, training, [held_out], size, None), None)[1].note
    assert "so near are 4 of the held-out cases" in note


def records(images) -> CaseRecords:
    made = [Record({}, coarse(image)) for image in images]
    return CaseRecords([Case(f"{index}", "", "label", f"{index}") for index in range(len(made))], made)


def test_a_coarse_image_is_small_and_ignores_noise():
    image = np.random.default_rng(0).normal(size=(160, 50, 16))
    small = coarse(image)
    assert small.shape == (22, 16, 16) and max(small.shape) <= COARSE
    assert small.std() < 0.2 * image.std()


def test_on_real_scans_copies_are_found_and_held_out_cases_are_not(real_data):
    """Copies of a third of 140 training scans: all exact ones, at least 95 % of the others, and none of 60 held-out
    scans."""
    folder, rng = real_data("hippocampus"), np.random.default_rng(0)
    size = (32, 48, 32)
    listed = json.loads((folder / "dataset.json").read_text())["training"]
    images = [middle(load_nifti(folder / case["image"])[0], size) for case in listed]
    training, held_out = images[:140], images[140:]
    real, _ = nearest_images(stack(held_out), stack(training), size, CPU, "held out")
    false = [distance < copy_distance(np.delete(real, index)) for index, distance in enumerate(real)]
    noisy, _ = nearest_images(
        stack(image + rng.normal(0, 0.2, size) for image in held_out), stack(training), size, CPU, "noisy"
    )
    assert not any(false) and (noisy < copy_distance(real)).sum() <= 1
    noisier = {"noisier": lambda image, rng: image + rng.normal(0, 0.2, image.shape)}
    for name, change in (COPIES | noisier).items():
        distances, index = nearest_images(
            stack(change(image, rng) for image in training[::3]), stack(training), size, CPU, name
        )
        found = (distances < copy_distance(real)) & (index == np.arange(len(training))[::3])
        assert found.mean() >= (1 if name == "exact" else 0.95), name


def middle(image: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """The middle of a scan, scaled to [0, 1], 0 where it is smaller."""
    image = np.pad(image, [(0, max(0, want - have)) for want, have in zip(size, image.shape, strict=True)])
    start = np.subtract(image.shape, size) // 2
    image = image[tuple(slice(low, low + want) for low, want in zip(start, size, strict=True))].astype(np.float32)
    return (image - image.min()) / np.ptp(image)


def test_the_pictures_tell_a_warped_case_from_a_real_one(tmp_path):
    cases = load_cases(write_dataset(tmp_path, {"training": [0, 1]}), "training")
    entry = {"case": "ours", "nearest": "theirs", "by": "image", "distance": 0.1, "threshold": None}
    entry |= {"image": cases[0].image, "nearest_image": cases[1].image}
    entries = [entry | {"warped": warped} for warped in (True, False)]
    figure = nearest_pairs_figure(entries, {"training": SimpleNamespace(cases=cases)}, load_schema(tmp_path))
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[2:] == ["nearest warped real:\ntheirs", "nearest real:\ntheirs"]


@pytest.mark.parametrize("depth", [1, 3])
def test_scans_of_few_slices_are_compared_too(depth):
    images = np.random.default_rng(0).random((4, 16, 16, depth)).astype(np.float32)
    distances, found = nearest_images(images[1:3], images, (16, 16, depth), torch.device("cpu"), "")
    assert found.tolist() == [1, 2] and distances.max() < 1e-3
