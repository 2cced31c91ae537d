"""Inpainting by a method that draws images for labels."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lldm3d.codec.codec import Codec
from lldm3d.codec.haar import HaarTransform
from lldm3d.diffusion.noise import RectifiedFlow
from lldm3d.errors import UserError
from lldm3d.lesions.inpainting import LabelPainter
from lldm3d.lesions.placement import in_volume


def test_the_label_with_the_lesion_is_the_condition_and_only_the_mask_changes(editor):
    codec, seen = Codec(HaarTransform(), "image", ["a", "b"], torch.zeros(8), torch.ones(8)), []
    dark, _ = codec.encode(torch.full((1, 1, 32, 32, 20), 0.2))

    def network(x, timesteps, condition):
        seen.append(condition)
        return (dark - x) / (timesteps / 1000).view(-1, 1, 1, 1, 1)

    scan, names = editor.own.scans.read("case_00"), editor.own.scans.schema.class_names
    edit = replace(editor.new_lesion(np.random.default_rng(0), "case_00", "ellipsoids", 12.0), centre=(14, 18, 10))
    mask = in_volume(editor.mask(edit), edit.centre, scan.image.shape)
    paint = LabelPainter(network, RectifiedFlow(4), codec, names, "cpu", autocast=False)
    drawn = paint(editor, scan.image, scan.label, edit, torch.Generator().manual_seed(0))
    np.testing.assert_allclose(drawn[mask], 0.2, atol=1e-5)
    assert (drawn.view(np.int32) == scan.image.view(np.int32))[~mask].all()
    assert seen[0].shape == (1, 4, 32, 32, 20) and (seen[0][0, 3].numpy()[mask] == 1).all()
    learnt = LabelPainter(network, RectifiedFlow(4), codec, (*names[:-1], "cyst"), "cpu", autocast=False)
    with pytest.raises(UserError, match="labels of liver, vein, cyst, and the scan has liver, vein, tumour"):
        learnt(editor, scan.image, scan.label, edit, torch.Generator())
