import builtins

import numpy as np
import pytest

from lldm3d.errors import UserError
from lldm3d.evaluation.pretrained import Radiomics

from .toys import scan


def test_features_are_those_of_the_labelled_part_and_notice_noise():
    image, label = scan(0)
    radiomics = Radiomics()
    [space] = radiomics.spaces
    inside = radiomics(image, label > 0)[space.name]
    assert inside.shape == (80,) and np.isfinite(inside).all() and space.scaled and space.network.startswith("mirp ")
    elsewhere = np.where(label > 0, image, 0)
    np.testing.assert_allclose(radiomics(elsewhere, label > 0)[space.name], inside)
    noisy = image + np.random.default_rng(0).normal(0, 0.2, image.shape)
    assert np.abs(radiomics(noisy, label > 0)[space.name] / inside - 1).max() > 0.2
    assert radiomics(image, np.zeros(image.shape, bool))[space.name].shape == (80,)  # without a label the whole image


def test_without_mirp_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments):
        if name == "mirp":
            raise ImportError
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"lldm3d\[radiomics\]"):
        Radiomics()
