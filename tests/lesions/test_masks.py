"""Shapes of lesions: distances, lengths in mm, and what is drawn."""

import numpy as np
import pytest
from scipy import ndimage

from lldm3d.data.labels import signed_distance
from lldm3d.lesions.masks import Ellipsoid, RealShape, fitted_scale, long_axis, rasterised

STILL = (0.0, 0.0, 0.0)


def ball(radius: float, spacing: tuple = (1.0, 1.0, 1.0)) -> np.ndarray:
    return rasterised(Ellipsoid((radius,) * 3, 0.0, 0), spacing, STILL, 1.0)


def test_the_distance_of_a_ball_is_right_within_half_a_voxel_s_diagonal_and_its_sign_is_the_mask():
    mask = np.pad(ball(8), 6)
    points = np.stack(np.meshgrid(*[np.arange(n) - n // 2 for n in mask.shape], indexing="ij"))
    found = signed_distance(mask, (1.0, 1.0, 1.0))
    assert np.abs(found - (np.sqrt((points**2).sum(0)) - 8)).max() < 3**0.5 / 2
    np.testing.assert_array_equal(found < 0, mask)


def test_a_real_shape_at_scale_1_is_itself_whatever_lies_between_its_voxels():
    rng = np.random.default_rng(0)
    mask = ndimage.binary_dilation(ndimage.gaussian_filter(rng.normal(size=(13, 15, 9)), 2) > 0.06)
    mask = ndimage.binary_opening(np.pad(ball(4), 3))
    np.testing.assert_array_equal(rasterised(RealShape(mask, (1, 1, 1)), (1, 1, 1), STILL, 1.0), ball(4))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.5, 1.5, 4.0)])
def test_a_shape_is_fitted_to_its_long_axis_in_millimetres(spacing):
    shapes = [Ellipsoid((10.0, 8.0, 6.0), 1.5, 3), RealShape(ball(7), (1.0, 1.0, 1.0))]
    for shape, wanted in ((shape, wanted) for shape in shapes for wanted in (12.0, 40.0)):
        rotation = (0.3, -0.8, 1.1)
        mask = rasterised(shape, spacing, rotation, fitted_scale(shape, spacing, rotation, wanted))
        assert abs(long_axis(mask, spacing) - wanted) < max(spacing)
        assert ndimage.label(mask, np.ones((3, 3, 3)))[1] == 1, "one component"
        assert all(n % 2 for n in mask.shape), "its middle is a voxel"


def test_a_turned_ellipsoid_is_turned():
    shape = Ellipsoid((12.0, 4.0, 4.0), 0.0, 0)
    lying, standing = (rasterised(shape, (1, 1, 1), rotation, 1.0) for rotation in (STILL, (0, np.pi / 2, 0)))
    assert lying.shape[0] > 20 > standing.shape[0] and standing.shape[2] > 20
    assert abs(int(lying.sum()) - int(standing.sum())) < 0.02 * lying.sum()


def test_the_size_classes_are_drawn_in_their_shares_and_the_seed_says_the_surface():
    rng = np.random.default_rng(0)
    drawn = [Ellipsoid.draw(rng) for _ in range(2000)]
    longest = np.array([max(shape.radii) for shape in drawn])
    assert 0.75 < (longest <= 10).mean() < 0.85 and longest.max() <= 64 and 3 < longest.min() <= 5
    shape, same = (Ellipsoid((8.0, 8.0, 8.0), 1.5, 7) for _ in range(2))
    masks = [rasterised(one, (1, 1, 1), STILL, 1.0) for one in (shape, same, Ellipsoid((8.0, 8.0, 8.0), 1.5, 8))]
    np.testing.assert_array_equal(masks[0], masks[1])
    assert masks[0].shape != masks[2].shape or (masks[0] != masks[2]).any()


def test_a_shape_smaller_than_a_voxel_is_one_voxel():
    assert rasterised(Ellipsoid((0.2,) * 3, 0.0, 0), (3.0, 3.0, 3.0), STILL, 1.0).sum() == 1
