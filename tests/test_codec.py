from functools import partial

import pytest
import torch
from monai.networks.nets import AutoencoderKL

from lldm3d.codec.codec import SliceAutoencoder, TrilinearAutoencoder, load_codec, save_codec
from lldm3d.codec.quality import cldice, image_fidelity, label_fidelity
from lldm3d.errors import UserError
from lldm3d.files import load_checkpoint

NAMES = ["background", "liver", "vein"]


def architecture(channels):
    return partial(
        AutoencoderKL, spatial_dims=3, in_channels=channels, out_channels=channels, channels=(8, 8), num_res_blocks=1,
        attention_levels=(False, False), latent_channels=3, norm_num_groups=4, with_encoder_nonlocal_attn=False,
        with_decoder_nonlocal_attn=False,
    )  # fmt: skip


@pytest.fixture
def images():
    return [0.2 * i + 0.1 * torch.rand(1, 1, 16, 16, 8) for i in range(4)]


@pytest.fixture
def codec(images, tmp_path):
    torch.manual_seed(0)
    build = architecture(1)
    return save_codec(str(tmp_path / "codec.pt"), build(), build, "image", NAMES, images, "cpu")


def test_latents_of_the_training_set_have_mean_0_and_std_1(codec, images):
    means, sigmas = zip(*(codec.encode(image) for image in images), strict=True)
    mean, sigma = torch.cat(means), torch.cat(sigmas)
    variance = (mean.square() + sigma.square()).mean((0, 2, 3, 4)) - mean.mean((0, 2, 3, 4)).square()
    torch.testing.assert_close(mean.mean((0, 2, 3, 4)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(variance, torch.ones(3), atol=1e-3, rtol=0)


def test_a_round_trip_is_the_autoencoders_own(codec, images):
    """Scaling in and out cancels: what the zoo's BraTS bundle forgets."""
    decoded = codec.decode(codec.encode(images[1])[0])
    expected = codec.autoencoder.reconstruct(images[1]).clamp(0, 1)
    torch.testing.assert_close(decoded, expected, atol=1e-5, rtol=1e-5)


def test_a_saved_codec_gives_the_same_latents(codec, images, tmp_path):
    loaded = load_codec(tmp_path / "codec.pt", "image")
    torch.testing.assert_close(loaded.encode(images[0])[0], codec.encode(images[0])[0])
    assert loaded.class_names == NAMES and loaded.stride == 2


def test_a_codec_that_upsamples_linearly_still_does_once_it_is_saved(images, tmp_path):
    nearest, linear = architecture(1), partial(TrilinearAutoencoder, **architecture(1).keywords)
    torch.manual_seed(0)
    saved = save_codec(str(tmp_path / "codec.pt"), linear(), linear, "image", NAMES, images, "cpu")
    latent = torch.randn(1, 3, 8, 8, 4)
    assert torch.equal(load_codec(tmp_path / "codec.pt", "image").decode(latent), saved.decode(latent))
    other = nearest()
    other.load_state_dict(saved.autoencoder.state_dict())
    assert not torch.allclose(other.decode(latent), saved.autoencoder.decode(latent), atol=1e-3)


def test_a_codec_of_slices_sees_each_slice_alone_and_keeps_the_depth(images, tmp_path):
    build = partial(SliceAutoencoder, **architecture(1).keywords | {"spatial_dims": 2})
    save_codec(str(tmp_path / "codec.pt"), build(), build, "image", NAMES, images, "cpu")
    codec = load_codec(tmp_path / "codec.pt", "image")
    latent, _ = codec.encode(images[0])
    assert latent.shape == (1, 3, 8, 8, 8) and codec.decode(latent).shape == images[0].shape
    other = images[0].clone()
    other[..., 5] = 0
    changed = (codec.encode(other)[0] != latent).any((0, 1, 2, 3))
    assert changed.nonzero().flatten().tolist() == [5]


def test_codecs_of_earlier_versions_are_read(images, tmp_path):
    linear = partial(TrilinearAutoencoder, **architecture(1).keywords)
    saved = save_codec(str(tmp_path / "codec.pt"), linear(), linear, "image", NAMES, images, "cpu")
    content = load_checkpoint(tmp_path / "codec.pt", "autoencoder_image")
    del content["architecture"]
    torch.save(content | {"trilinear": True, "haar": False}, tmp_path / "codec.pt")
    latent = torch.randn(1, 3, 8, 8, 4)
    assert torch.equal(load_codec(tmp_path / "codec.pt", "image").decode(latent), saved.decode(latent))


def test_the_other_kind_is_refused(codec, tmp_path):
    with pytest.raises(UserError, match=r"codec\.pt.*'image'.*'label'"):
        load_codec(tmp_path / "codec.pt", "label")


def test_a_missing_codec_names_its_stage(tmp_path):
    with pytest.raises(UserError, match="autoencoder_label"):
        load_codec(tmp_path / "none.pt", "label")


def test_labels_go_in_and_out_as_class_indices(tmp_path):
    build = architecture(3)
    labels = [torch.randint(0, 3, (1, 1, 16, 16, 8)) for _ in range(2)]
    codec = save_codec(str(tmp_path / "codec.pt"), build(), build, "label", NAMES, labels, "cpu")
    decoded = codec.decode(codec.encode(labels[0])[0])
    assert decoded.dtype == torch.uint8 and decoded.shape == labels[0].shape and int(decoded.max()) <= 2
    figures = label_fidelity(codec, labels, ["vein"], "cpu")
    assert set(figures["dice"]) == {"liver", "vein"} and figures["n"] == 2 and 0 <= figures["mean_dice"] < 1


def test_a_checkpoint_holds_plain_values(codec, tmp_path):
    content = load_checkpoint(tmp_path / "codec.pt", "autoencoder_image")
    assert content["network"]["channels"] == [8, 8]
    assert content["latent_std"].shape == (3,)


def test_fidelity_of_a_perfect_codec(codec, images):
    class Perfect(torch.nn.Module):
        def encode(self, volume):
            return volume, None

        def decode(self, latent):
            return latent + 0.01

    figures = image_fidelity(Perfect(), images, "cpu")
    assert figures["psnr"] == pytest.approx(40, abs=0.1)
    assert figures["ssim"] > 0.9 and figures["n"] == 4


def test_cldice_tells_a_broken_tube_from_a_thin_one():
    tube = torch.zeros(20, 20, 20, dtype=torch.bool).numpy()
    tube[8:11, 8:11, :] = True
    thin, broken = tube.copy(), tube.copy()
    thin[8], thin[10] = False, False
    broken[:, :, 5:15] = False
    assert cldice(tube, tube) == 1
    assert cldice(thin, tube) > 0.9
    assert cldice(broken, tube) < 0.75
    assert cldice(tube * False, tube) == 0
