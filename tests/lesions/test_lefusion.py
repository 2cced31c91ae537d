"""LeFusion: what it learns of a lesion, and that its drawing leaves the rest."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lldm3d.diffusion.gaussian import GaussianDiffusion
from lldm3d.errors import UserError
from lldm3d.lesions.crops import BINS, LesionCrops, crop_around, histogram
from lldm3d.lesions.lefusion import LesionBatch, LesionLoss, LesionPainter
from lldm3d.lesions.placement import in_volume

PROCESS = GaussianDiffusion(10, num_train_timesteps=10, schedule="cosine", variance="small")


def test_a_histogram_has_shares_and_its_ends_hold_what_lies_beyond():
    found = histogram(np.array([-1.0, -3.0, 0.01, 1.0]))
    assert found.shape == (BINS,) and found.sum() == 1 and list(found[[0, 8, 15]]) == [0.5, 0.25, 0.25]


def test_a_crop_is_a_part_of_the_volume_padded_where_it_leaves_it():
    volume = np.arange(5 * 6 * 7).reshape(5, 6, 7)
    np.testing.assert_array_equal(crop_around(volume, (2, 3, 3), (2, 4, 4)), volume[1:3, 1:5, 1:5])
    found = crop_around(volume, (0, 5, 3), (4, 4, 4))
    assert found.shape == (4, 4, 4) and (found[0] == found[2]).all() and (found[:, 3] == found[:, 2]).all()


def test_a_crop_of_a_data_set_shows_its_lesion_and_training_has_no_other_patient(lesion_dataset):
    crops = LesionCrops(str(lesion_dataset), "training", (16, 16, 8))
    assert len(crops) == 6 and {item.scan for item in crops.pool.lesions} == {f"case_0{n}" for n in range(4)}
    for item in crops:
        assert item["image"].shape == item["mask"].shape == (1, 16, 16, 8) and item["mask"][0, 8, 8, 4] == 1
        assert item["image"][item["mask"] > 0].mean() == pytest.approx(2 * 0.3 - 1, abs=0.05)
        assert item["histogram"].shape == (1, BINS) and item["histogram"][0, 3:7].sum() > 0.9
    with pytest.raises(UserError, match="has no class 'tumor'; did you mean tumour"):
        LesionCrops(str(lesion_dataset), "training", (16, 16, 8), lesion="tumor")


def test_the_loss_counts_lesions_alone_and_each_the_same():
    mask = torch.zeros(2, 1, 8, 8, 8)
    mask[0, :, :6, :6, :6] = mask[1, :, :2, :2, :2] = 1
    batch = {"image": torch.zeros_like(mask), "mask": mask, "histogram": torch.ones(2, 1, BINS) / BINS}
    noisy, target, _, arguments = LesionBatch(PROCESS)(batch)
    assert arguments["context"].shape == (2, 1, BINS) and noisy.shape == mask.shape
    loss, right = LesionLoss(PROCESS), target["noise"]
    assert loss(right + 9 * (1 - mask), target) == 0, "nothing outside counts"
    small, large = (loss(right + 0.5 * mask * torch.eye(2)[n].view(2, 1, 1, 1, 1), target) for n in (1, 0))
    assert small == pytest.approx(large) == pytest.approx(0.25)


def test_only_the_mask_is_drawn_with_the_donor_s_histogram(editor):
    seen = []

    def network(x, timesteps, context):
        seen.append(context)
        return torch.zeros_like(x)

    edit = replace(editor.new_lesion(np.random.default_rng(0), "case_00", "ellipsoids", 9.0), centre=(14, 18, 10))
    scan = editor.own.scans.read("case_00")
    paint = LesionPainter(network, PROCESS, (8, 8, 4), 4, "cpu", autocast=False)
    drawn = [paint(editor, scan.image, scan.label, edit, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    mask = in_volume(editor.mask(edit), edit.centre, scan.image.shape)
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0][mask] != drawn[2][mask]).any() and (drawn[0][mask] != scan.image[mask]).any()
    assert (drawn[0].view(np.int32) == scan.image.view(np.int32))[~mask].all()
    donor = editor.donor_of(edit)
    wanted = histogram(donor.image[donor.lesion] * 2 - 1)
    assert np.abs(seen[0].flatten().numpy() - wanted).max() < 0.3 and seen[0].shape == (1, 1, BINS)
