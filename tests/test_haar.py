"""The Haar transform as a codec: nothing is lost, and noise stays noise."""

from functools import partial

import pytest
import pywt
import torch

from lldm3d.codec.codec import load_codec, save_codec
from lldm3d.codec.haar import HaarDistances, HaarTransform
from lldm3d.data.labels import signed_distance

NAMES = ["background", "liver", "vein", "a class that no case has"]


@pytest.mark.parametrize("levels", [1, 2])
def test_a_round_trip_loses_nothing(levels):
    transform, volume = HaarTransform(3, levels), torch.rand(2, 3, 16, 8, 24)
    bands, sigma = transform.encode(volume)
    assert bands.shape == (2, 3 * 8**levels, 16 // 2**levels, 8 // 2**levels, 24 // 2**levels)
    assert transform.latent_channels == bands.shape[1] and transform.stride == 2**levels
    torch.testing.assert_close(transform.decode(bands), volume, atol=1e-6, rtol=0)
    torch.testing.assert_close(bands.square().sum(), volume.square().sum())
    assert not sigma.any()


def test_the_bands_are_those_of_pywavelets():
    """pywt names a band by its frequencies along the axes, a for low and d for high; its high band is b - a there."""
    volume = torch.rand(8, 6, 4)
    expected = pywt.dwtn(volume.numpy(), "haar")
    bands = HaarTransform().encode(volume[None, None])[0][0]
    for band, name in zip(bands, ("aaa", "aad", "ada", "add", "daa", "dad", "dda", "ddd"), strict=True):
        torch.testing.assert_close(band, torch.as_tensor(expected[name]), atol=1e-5, rtol=0)


def test_the_low_band_comes_first_and_noise_stays_noise():
    transform = HaarTransform()
    torch.testing.assert_close(transform.encode(torch.ones(1, 1, 4, 4, 4))[0][0, 0], torch.full((2, 2, 2), 8**0.5))
    noise = transform.encode(torch.randn(1, 1, 64, 64, 64))[0]
    torch.testing.assert_close(noise.std((0, 2, 3, 4)), torch.ones(8), atol=0.02, rtol=0)
    correlation = torch.corrcoef(noise[0].flatten(1)) - torch.eye(8)
    assert correlation.abs().max() < 0.03


@pytest.mark.parametrize("levels", [1, 2])
def test_odd_sizes_are_filled_and_cut_back(tmp_path, levels):
    volumes = [torch.rand(1, 1, 9, 16, 7) for _ in range(2)]
    architecture = partial(HaarTransform, channels=1, levels=levels)
    codec = save_codec(str(tmp_path / "codec.pt"), architecture(), architecture, "image", NAMES, volumes, "cpu")
    decoded = codec.decode(codec.encode(volumes[0])[0], size=(9, 16, 7))
    torch.testing.assert_close(decoded, volumes[0], atol=1e-5, rtol=0)


def test_other_levels_are_refused():
    with pytest.raises(ValueError, match="levels must be 1 or 2, got 3"):
        HaarTransform(levels=3)


def test_a_saved_codec_of_labels_gives_them_back(tmp_path):
    """Bands have mean 0 and deviation 1 over the training set; those of a class that is nowhere stay finite."""
    labels = [torch.randint(0, 3, (1, 1, 16, 16, 8)) for _ in range(3)]
    architecture = partial(HaarTransform, channels=len(NAMES))
    save_codec(str(tmp_path / "codec.pt"), architecture(), architecture, "label", NAMES, labels, "cpu")
    codec = load_codec(tmp_path / "codec.pt", "label")
    latents = torch.cat([codec.encode(label)[0] for label in labels])
    assert codec.lossless and codec.stride == 2
    torch.testing.assert_close(latents[:, :24].mean((0, 2, 3, 4)), torch.zeros(24), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents[:, :24].std((0, 2, 3, 4)), torch.ones(24), atol=1e-2, rtol=0)
    assert not latents[:, 24:].any()
    for label in labels:
        assert torch.equal(codec.decode(codec.encode(label)[0]), label.to(torch.uint8))


@pytest.mark.parametrize("levels", [1, 2])
def test_labels_as_distances_come_back_and_errors_move_their_surface_alone(tmp_path, levels):
    """A voxel's one-hot value is as near to a flip anywhere; its depth only at the surface."""
    grid = torch.stack(torch.meshgrid(*[torch.arange(n) - n / 2 for n in (32, 48, 30)], indexing="ij"))
    ball = (grid.square().sum(0) < 100) * (1 + (grid[0] > 0))  # two halves: classes 1 and 2, and 3 that is nowhere
    architecture = partial(HaarDistances, channels=len(NAMES), levels=levels)
    label = ball[None, None].to(torch.uint8)
    save_codec(str(tmp_path / "codec.pt"), architecture(), architecture, "label", NAMES, [label], "cpu")
    codec = load_codec(tmp_path / "codec.pt", "label")
    latent = codec.encode(label)[0]
    assert codec.lossless and torch.equal(codec.decode(latent, size=label.shape[2:]), label)
    deviations = codec.latent_std.view(len(NAMES), -1)
    assert (deviations == deviations[:, :1]).all() and deviations[3, 0] == deviations.max() / 4  # of what is nowhere
    assert len(deviations[:3].unique()) == 1 and latent.std((0, 2, 3, 4)).max() == pytest.approx(1, abs=1e-3)
    noise = 0.15 * torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))  # of a depth of 1 at most
    noisy = codec.decode(latent + noise / codec.latent_std)
    wrong = (noisy[..., :30] != label)[0, 0]
    far = torch.from_numpy(abs(signed_distance(ball.numpy() > 0, (1, 1, 1))) > 3) & (abs(grid[0]) > 3)
    assert wrong.any() and not wrong[far].any()


def test_depths_of_a_small_class_are_scaled_by_their_own_deviation(tmp_path):
    """Else noise hides a vessel before the organ around it."""
    label = torch.zeros(1, 1, 32, 32, 32, dtype=torch.uint8)
    label[..., 4:28, 4:28, 4:28] = 1
    label[..., 13:19, 13:19, 6:26] = 2
    architecture = partial(HaarDistances, channels=len(NAMES))
    save_codec(str(tmp_path / "codec.pt"), architecture(), architecture, "label", NAMES, [label], "cpu")
    codec = load_codec(tmp_path / "codec.pt", "label")
    scale = codec.latent_std.view(len(NAMES), -1)[:, 0]
    assert scale[0] == scale[1] == scale.max() and scale.max() / 4 < scale[2] < scale.max() / 2
    largest = codec.encode(label)[0].std((0, 2, 3, 4)).view(len(NAMES), -1).amax(1)
    assert largest[2] == pytest.approx(1, abs=1e-3) and largest[:2].max() == pytest.approx(1, abs=1e-3)
