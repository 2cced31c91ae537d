import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import label as components

from lldm3d.data.volumes import RAS, load_volume, resample, resample_label, resampled_affine, spacing_of, turned_grid
from lldm3d.errors import UserError

SIZE, LIVER, VEIN = 60, 1, 2


def liver_with_tube(radius: float, seed: int) -> np.ndarray:
    """A box of liver with a straight tube in a random direction, [60, 60, 60]; radius in voxels."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    grid = np.stack(np.meshgrid(*[np.arange(SIZE)] * 3, indexing="ij"), -1) - SIZE / 2 + rng.uniform(-3, 3, 3)
    distance = np.linalg.norm(grid - (grid @ direction)[..., None] * direction, axis=-1)
    label = np.zeros((SIZE,) * 3, np.uint8)
    label[3:-3, 3:-3, 3:-3] = LIVER
    label[(label > 0) & (distance <= radius)] = VEIN
    return label


def enlarged(label: np.ndarray, ratio: float) -> np.ndarray:
    index = np.minimum(((np.arange(SIZE) + 0.5) / ratio).astype(int), len(label) - 1)
    return label[np.ix_(index, index, index)]


def nearest(label: np.ndarray, ratio: float, size: int) -> np.ndarray:
    index = np.minimum(((np.arange(size) + 0.5) * ratio).astype(int), SIZE - 1)
    return label[np.ix_(index, index, index)]


def judge(coarse: np.ndarray, label: np.ndarray, ratio: float) -> tuple[float, int]:
    """Dice of the vein on the fine grid, and the number of pieces it has fallen into."""
    back, true = enlarged(coarse, ratio) == VEIN, label == VEIN
    return 2 * (back & true).sum() / (back.sum() + true.sum()), components(coarse == VEIN, np.ones((3, 3, 3)))[1]


@pytest.mark.parametrize("ratio", [1.5, 2])
def test_a_thin_vein_survives_a_coarser_spacing_in_one_piece(ratio):
    """Radius 1 voxel: Dice and pieces, against nearest neighbour."""
    ours, theirs = [], []
    for seed in range(5):
        label = liver_with_tube(1, seed)
        coarse = resample_label(label, (1, 1, 1), (ratio,) * 3, priority=[LIVER, VEIN], thin={VEIN})
        ours.append(judge(coarse, label, ratio))
        theirs.append(judge(nearest(label, ratio, len(coarse)), label, ratio))
    (dice, pieces), (nearest_dice, nearest_pieces) = np.mean(ours, 0), np.mean(theirs, 0)
    print(f"x{ratio}: Dice {dice:.2f} in {pieces} pieces; nearest neighbour {nearest_dice:.2f} in {nearest_pieces}")
    assert pieces == 1 < nearest_pieces
    assert dice > nearest_dice


def test_a_thick_vein_and_the_liver_keep_their_volume():
    label = liver_with_tube(5, 0)
    coarse = resample_label(label, (1, 1, 1), (2, 2, 2), priority=[LIVER, VEIN], thin={VEIN})
    for value in (LIVER, VEIN):
        assert 8 * (coarse == value).sum() == pytest.approx((label == value).sum(), rel=0.12)


def test_voxels_that_two_classes_fill_equally_are_shared_so_that_both_keep_their_volume():
    label = np.zeros((4, 4, 4), np.uint8)
    label[1:3] = LIVER
    label[2] = VEIN
    for priority in ([LIVER, VEIN], [VEIN, LIVER]):
        coarse = resample_label(label[1:3], (1, 1, 1), (2, 1, 1), priority, thin=set())
        assert (coarse == LIVER).sum() == (coarse == VEIN).sum() == 8


def test_no_class_appears_between_two_others():
    """Blurred class indices 0 and 2 would make a 1."""
    label = np.zeros((12, 12, 12), np.uint8)
    label[6:] = 2
    for target in (0.5, 1.7, 3.0):
        assert set(np.unique(resample_label(label, (1, 1, 1), (target,) * 3, [1, 2], set()))) == {0, 2}


def test_a_lesion_smaller_than_a_voxel_survives():
    label = np.ones((12, 12, 12), np.uint8)
    label[5, 5, 5] = 2
    assert (resample_label(label, (1, 1, 1), (3, 3, 3), [1, 2], thin={2}) == 2).sum() == 1


@pytest.mark.parametrize("target", [(2, 2, 3), (0.5, 0.7, 1), (1.3, 0.8, 2.5)])
def test_a_ramp_keeps_its_values_at_their_places(target):
    """The image is the world's x + 2y + 3z: so it must be after resampling, to an eighth of a voxel."""
    affine = np.diag([1.0, 1, 1, 1])
    grid = np.stack(np.meshgrid(*[np.arange(24.0)] * 3, indexing="ij"), -1)
    result = resample(grid @ [1, 2, 3], (1, 1, 1), target)
    points = np.stack(np.meshgrid(*map(np.arange, result.shape), indexing="ij"), -1)
    moved = resampled_affine(affine, target)
    expected = (points @ moved[:3, :3].T + moved[:3, 3]) @ [1, 2, 3]
    inner = (slice(2, -2),) * 3
    np.testing.assert_allclose(result[inner], expected[inner], atol=(1 + 2 + 3) / 8)


def spoilt(path, matrix=None, units="mm", qform=None):
    """A file of 1x1x2 mm whose header has another sform, qform or unit."""
    image = nib.Nifti1Image(np.zeros((8, 8, 4), np.float32), np.diag([1.0, 1, 2, 1]))
    image.header.set_xyzt_units(units)
    if qform is not None:
        image.header.set_qform(qform, 1)
        image.header.set_sform(image.affine, 1)
    if matrix is not None:
        image.header.set_sform(matrix, 2)
    nib.save(nib.Nifti1Image(image.dataobj, None, image.header), path)
    return path


def test_a_header_that_contradicts_itself_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"sform says voxels of \[1.0, 1.0, 1.0\] mm, its pixdim of \[1.0, 1.0, 2.0\]"):
        load_volume(spoilt(tmp_path / "a.nii", matrix=np.eye(4)))
    moved = np.diag([1.0, 1, 2, 1])
    moved[0, 3] = 50
    with pytest.raises(UserError, match="both of code 1, lie 50.00 mm apart"):
        load_volume(spoilt(tmp_path / "b.nii", qform=moved))
    load_volume(spoilt(tmp_path / "c.nii"))


def test_microns_are_millimetres_once_read(tmp_path):
    assert spacing_of(load_volume(spoilt(tmp_path / "a.nii", units="micron"))[1]) == pytest.approx(
        (0.001, 0.001, 0.002)
    )
    assert np.allclose(turned_grid(tmp_path / "a.nii", RAS)[1], load_volume(tmp_path / "a.nii")[1])


def test_a_label_is_turned_as_its_image_where_two_axes_are_equally_near(tmp_path):
    shapes = []
    for name, degrees in (("image", 45), ("label", 45.0001), ("other", 44.9999)):
        cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        affine = np.array([[cos, -sin, 0, 0], [sin, cos, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        nib.save(nib.Nifti1Image(np.zeros((4, 6, 8), np.float32), affine), tmp_path / f"{name}.nii")
        shapes.append(load_volume(tmp_path / f"{name}.nii")[0].shape)
    assert len(set(shapes)) == 1


@pytest.mark.parametrize("ratio", [1.5, 2.0, (2.0, 2.0, 1.0)])
@pytest.mark.parametrize("radius", [5, 8, 12])
def test_a_sphere_keeps_its_volume_where_voxels_are_halved(ratio, radius):
    """At twice the spacing many voxels are half full: all of them given to the class, it grew by 3 to 9 %."""
    target = np.broadcast_to(ratio, 3).tolist()
    for shift in (0.1, 0.45, 0.5, 0.8):
        middle = 20 + shift * np.array([1, 0.7, 0.3])
        ball = ((np.indices((42, 42, 42)).T - middle) ** 2).sum(-1).T < radius**2
        found = resample_label(ball.astype(np.uint8), (1, 1, 1), target, [1], set())
        assert found.sum() * np.prod(target) / ball.sum() == pytest.approx(1, abs=0.06 if ratio == 1.5 else 0.01)
        assert np.argwhere(found).mean(0) == pytest.approx((np.argwhere(ball).mean(0) + 0.5) / target - 0.5, abs=0.25)


def test_an_axis_whose_spacing_nearly_stays_keeps_its_slices():
    image, label = np.ones((4, 4, 600), np.float32), np.ones((4, 4, 600), np.uint8)
    spacing, target = (1.0, 1.0, 1.0), (2.0, 2.0, 1.00095)
    assert resample(image, spacing, target).shape == (2, 2, 600)
    assert resample_label(label, spacing, target, [1], set()).shape == (2, 2, 600)
