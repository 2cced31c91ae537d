from functools import partial

import pytest
import torch
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import AutoencoderKL

from lldm3d.codec.codec import TrilinearAutoencoder
from lldm3d.codec.tiled_decoding import decode_in_slabs
from lldm3d.pairs.memory import LiveBytes

BUILD = partial(
    AutoencoderKL, spatial_dims=3, in_channels=1, out_channels=2, channels=[16, 32], num_res_blocks=1,
    attention_levels=[False, True], latent_channels=3, norm_num_groups=8, with_encoder_nonlocal_attn=False,
)  # fmt: skip


def build(architecture=AutoencoderKL, **options):
    torch.manual_seed(0)
    autoencoder = architecture(**{**BUILD.keywords, **options}).eval()
    with torch.no_grad():
        for parameter in autoencoder.parameters():
            parameter.add_(
                0.05 * torch.randn_like(parameter)
            )  # MONAI's norms begin as 1 and 0, which would hide faults
    return autoencoder


@pytest.mark.parametrize("options", [{}, {"use_convtranspose": True}, {"with_decoder_nonlocal_attn": False}])
@pytest.mark.parametrize("size", [(19, 5, 4), (8, 4, 6)])
@pytest.mark.parametrize("architecture", [AutoencoderKL, TrilinearAutoencoder])
def test_slabs_give_the_whole(architecture, options, size):
    autoencoder, latent = build(architecture, **options), torch.randn(2, 3, *size)
    with torch.no_grad():
        whole = autoencoder.decode(latent)
    torch.testing.assert_close(decode_in_slabs(autoencoder, latent), whole, atol=1e-5, rtol=1e-5)


def test_windows_of_their_own_leave_seams():
    """Why the stock way does not do: far more than the 1e-3 that decoding may be off."""
    autoencoder = build(attention_levels=[False, False], with_decoder_nonlocal_attn=False)
    latent = torch.randn(1, 3, 32, 6, 4) + torch.linspace(-3, 3, 32).view(1, 1, -1, 1, 1)
    windows = SlidingWindowInferer(roi_size=(16, 6, 4), overlap=0.5, mode="gaussian")
    with torch.no_grad():
        whole = autoencoder.decode(latent)
        tiled = windows(latent, autoencoder.decode)
    assert (tiled - whole).abs().max() > 0.05 * whole.std()
    assert (decode_in_slabs(autoencoder, latent) - whole).abs().max() < 1e-4 * whole.std()


def test_slabs_take_less_memory():
    autoencoder = build(attention_levels=[False, False], with_decoder_nonlocal_attn=False)
    latent, peaks = torch.randn(1, 3, 64, 4, 4), []
    for decode in (autoencoder.decode, partial(decode_in_slabs, autoencoder)):
        with torch.no_grad(), LiveBytes() as live:
            decode(latent)
        peaks.append(live.peak)
    assert peaks[1] < 0.7 * peaks[0]
