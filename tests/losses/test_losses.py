import logging

import pytest
import torch
from monai.losses import JukeboxLoss
from monai.networks.nets import resnet10

from lldm3d.codec.losses import (
    AutoencoderLoss,
    ImageReconstructionLoss,
    LabelReconstructionLoss,
    kl_divergence,
    perceptual_loss,
)
from lldm3d.codec.training import AdversarialUpdate
from lldm3d.errors import UserError


def test_kl_is_zero_for_the_standard_normal_and_known_elsewhere():
    zeros, ones = torch.zeros(1, 2, 3, 3, 3), torch.ones(1, 2, 3, 3, 3)
    assert float(kl_divergence(zeros, ones)) == pytest.approx(0, abs=1e-6)
    assert float(kl_divergence(2 * ones, ones)) == pytest.approx(2)


def test_autoencoder_loss_adds_its_terms():
    loss = AutoencoderLoss(torch.nn.L1Loss(), kl_weight=0.5)
    one = torch.ones(1, 1, 4, 4, 4)
    assert float(loss((one, 2 * one, one), 0 * one)) == pytest.approx(1 + 0.5 * 2)


def test_spectral_term_needs_no_weights_and_says_so_once(caplog):
    with caplog.at_level(logging.INFO, "lldm3d.codec.losses"):
        term = perceptual_loss(None)
    assert len(caplog.records) == 1 and "spectral" in caplog.text
    image = torch.rand(1, 1, 8, 8, 8)
    blurred = torch.nn.functional.avg_pool3d(image, 3, 1, 1)
    loss = ImageReconstructionLoss(term, 1.0)
    assert float(loss(image, image)) == pytest.approx(0, abs=1e-6)
    assert float(loss(blurred, image)) > float(torch.nn.functional.l1_loss(blurred, image))


def test_spectral_term_is_jukeboxs_and_has_gradients_where_a_frequency_is_absent():
    image, other, flat = torch.rand(2, 1, 8, 6, 4), torch.rand(2, 1, 8, 6, 4), torch.ones(2, 1, 8, 6, 4)
    stock = JukeboxLoss(spatial_dims=3, fft_norm="ortho")
    assert perceptual_loss(None)(image, other).item() == pytest.approx(stock(image, other).item())
    perceptual_loss(None)(flat.requires_grad_(), other).backward()
    assert flat.grad.isfinite().all() and flat.grad.abs().sum() > 0


def test_weights_from_a_path(tmp_path):
    network = resnet10(n_input_channels=1, feed_forward=False, shortcut_type="B", bias_downsample=False)
    path = tmp_path / "resnet_10_23dataset.pth"
    torch.save({"state_dict": {f"module.{name}": value for name, value in network.state_dict().items()}}, path)
    term = perceptual_loss(str(path))
    image = torch.rand(1, 1, 16, 16, 16, requires_grad=True)
    assert float(term(image, image.detach())) == pytest.approx(0, abs=1e-6)
    term(image, torch.rand_like(image)).backward()
    assert image.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in term.parameters())
    empty = torch.zeros(1, 1, 16, 16, 16)
    assert term(image, empty).isfinite() and term(empty, empty).item() == 0


def test_a_path_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(UserError, match="no file"):
        perceptual_loss(str(tmp_path / "none.pth"))
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="ResNet-10"):
        perceptual_loss(str(tmp_path / "other.pth"))


def test_cldice_punishes_a_broken_vessel_more_than_dice_does():
    names = ["background", "liver", "vein"]
    target = torch.zeros(1, 3, 16, 16, 16)
    target[:, 0] = 1
    target[:, 0, 6:9, 6:9], target[:, 2, 6:9, 6:9] = 0, 1
    broken = target.clone()
    broken[:, 2, :, :, 6:10], broken[:, 0, :, :, 6:10] = 0, 1
    logits = 20 * broken - 10
    plain, with_cldice = LabelReconstructionLoss(names), LabelReconstructionLoss(names, ["vein"])
    perfect = 20 * target - 10
    punished = [float(with_cldice(x, target) - plain(x, target)) for x in (perfect, logits)]
    assert punished[1] > punished[0] + 0.02
    assert with_cldice(perfect, target) < with_cldice(logits, target)


def test_a_codec_learns_from_a_discriminator_that_is_sure():
    """MONAI's least squares take a LeakyReLU of the scores first: of -5 the gradient was -0.125 then."""
    update = AdversarialUpdate(torch.nn.Identity(), None, 1.0, 0)
    scores = torch.full((4,), -5.0, requires_grad=True)
    loss = update.score(None, lambda volume: [volume], scores, True, False)
    assert loss.item() == pytest.approx(36)
    loss.backward()
    assert scores.grad.sum().item() == pytest.approx(-12)
