"""DiffTumor: what its networks are told, which of them draws, and that the rest of a scan stays."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lldm3d.codec.codec import Codec
from lldm3d.codec.haar import HaarTransform
from lldm3d.diffusion.gaussian import DenoisingLoss, GaussianDiffusion
from lldm3d.errors import UserError
from lldm3d.lesions.crops import LesionCrops
from lldm3d.lesions.difftumor import TumourBatch, TumourPainter, clip_by, cut_out
from lldm3d.lesions.placement import in_volume
from lldm3d.lesions.textures import with_rim

CODEC = Codec(HaarTransform(), "image", ["background", "liver"], torch.linspace(0, 1, 8), torch.linspace(0.1, 1, 8))
EARLY = GaussianDiffusion(4, 4, "cosine", "sample", "small", clip=clip_by(CODEC))


def test_the_network_is_told_the_mask_and_nothing_of_what_lies_in_it():
    image, mask = torch.rand(1, 1, 8, 8, 8), torch.zeros(1, 1, 8, 8, 8, dtype=torch.bool)
    mask[..., 2:5, 2:4, 2:4] = True
    condition = cut_out(CODEC, image, mask)
    assert condition.shape == (1, 9, 4, 4, 4) and condition[0, 8, 1, 1, 1] == 1 and condition[0, 8, 2, 1, 1] == 0.5
    assert torch.equal(condition, cut_out(CODEC, torch.where(mask, 0.9, image), mask))
    torch.testing.assert_close(CODEC.decode(condition[:, :8])[~mask], image[~mask])


def test_early_steps_are_those_of_the_paper_and_a_right_answer_is_drawn():
    assert [round(float(share**2), 3) for share in EARLY.training["signal"]] == [0.847, 0.494, 0.144, 0]
    crops = {"image": torch.rand(2, 1, 8, 8, 8) * 2 - 1, "mask": torch.zeros(2, 1, 8, 8, 8)}
    noisy, target, _, arguments = TumourBatch(EARLY, CODEC)(crops)
    latent, _ = CODEC.encode((crops["image"] + 1) / 2)
    assert DenoisingLoss(EARLY, "l1")(latent, target) == 0 and arguments["condition"].shape == (2, 9, 4, 4, 4)
    drawn = EARLY.sample(lambda x, timesteps: latent, torch.randn_like(noisy))
    torch.testing.assert_close(drawn, latent, atol=1e-4, rtol=1e-4)


def test_lengths_choose_what_is_learnt(lesion_dataset):
    all_of_them, short = (LesionCrops(str(lesion_dataset), "training", (8, 8, 8), lengths=(0, n)) for n in (99, 13))
    assert 0 < len(short) < len(all_of_them)
    with pytest.raises(UserError, match=r"lengths \[20, 1000\]: .* no training lesion so long, but of .* mm"):
        LesionCrops(str(lesion_dataset), "training", (8, 8, 8), lengths=(20, 1000))


def test_a_model_draws_its_lengths_and_beyond_the_rim_all_stays(editor):
    dark, bright = (CODEC.encode(torch.full((1, 1, 16, 16, 8), value))[0] for value in (0.1, 0.9))
    networks = {0: (lambda x, timesteps, condition: dark, EARLY), 12: (lambda x, timesteps, condition: bright, EARLY)}
    scan = editor.own.scans.read("case_00")
    paint = TumourPainter(networks, CODEC, (16, 16, 8), 8, "cpu", autocast=False)
    for length, value in ((9.0, 0.1), (14.0, 0.9)):
        edit = editor.new_lesion(np.random.default_rng(0), "case_00", "ellipsoids", length)
        edit = replace(edit, centre=(14, 18, 10))
        mask = in_volume(editor.mask(edit), edit.centre, scan.image.shape)
        drawn, again = (paint(editor, scan.image, scan.label, edit, torch.Generator().manual_seed(5)) for _ in range(2))
        np.testing.assert_array_equal(drawn, again)
        assert np.abs(drawn - value)[mask].min() < 0.1, "in the middle nothing of the scan is left"
        assert (drawn.view(np.int32) == scan.image.view(np.int32))[~with_rim(mask)].all()
