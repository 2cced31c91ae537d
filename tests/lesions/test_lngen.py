"""LN-Gen: distances of shapes, what the adapter learns, and drawn masks in edits."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from lldm3d.codec.codec import Codec
from lldm3d.codec.haar import HaarTransform
from lldm3d.diffusion.gaussian import GaussianDiffusion
from lldm3d.errors import UserError
from lldm3d.evaluation.lesion_shapes import shape_measures, write_shape_table
from lldm3d.files import read_json, write_json
from lldm3d.lesions.editor import Edit, open_editor
from lldm3d.lesions.lngen import AdapterBatch, Blocks, ShapeDrawing, ShapeVolumes, distance_volume, write_shapes
from lldm3d.lesions.masks import Ellipsoid, long_axis, packed, unpacked
from lldm3d.pairs.edits import write_edited_labels

BALL = Ellipsoid((10.0, 10.0, 10.0), 0.0, 0)
CODEC = Codec(HaarTransform(), "image", ["background", "liver"], torch.zeros(8), torch.ones(8))


def test_distances_of_a_ball_are_right_within_half_a_voxel_s_diagonal_and_give_its_mask():
    volume, length = distance_volume(BALL, 32), 30 / 32  # mm
    axis = (np.arange(32) - 15.5) * length
    radius = np.linalg.norm(np.meshgrid(axis, axis, axis, indexing="ij"), axis=0)
    distance = (volume * 2 - 1) * 0.2 * 15
    near = np.abs(distance) < 2.9
    assert near.sum() > 5000 and np.abs(distance - (radius - 10))[near].max() < 3**0.5 / 2 * length
    np.testing.assert_array_equal(volume < 0.5, radius <= 10)
    assert volume.min() == 0 and volume.max() == 1


@pytest.mark.parametrize("seed", range(4))
def test_invented_shapes_are_whole_and_lie_in_their_cube(seed):
    rng = np.random.default_rng(seed)
    mask = distance_volume(Blocks.draw(rng), 24, Rotation.random(rng=rng)) < 0.5
    assert mask.sum() > 50 and not (mask & ~np.pad(np.ones((22,) * 3, bool), 1)).any()


def test_volumes_are_turned_lesions_of_training_patients_the_same_each_time(lesion_dataset):
    volumes = ShapeVolumes(str(lesion_dataset), "training", 16, 50)
    assert len(volumes.shapes) == 6 and len(volumes) == 50 and volumes[3]["image"].shape == (1, 16, 16, 16)
    first, again, other = (volumes[number]["image"] for number in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_the_adapter_learns_the_mask_from_a_noisy_code():
    volume = torch.as_tensor(distance_volume(BALL, 16))[None, None]
    noisy, mask = AdapterBatch(CODEC, 0.1, seed=0)({"image": volume, "index": torch.tensor([1])})
    assert torch.equal(mask, (volume < 0.5).float()) and 0.05 < (noisy - volume).abs().max() < 1


def test_drawn_shapes_become_lesions_of_wanted_lengths_and_a_manifest_holds_all_of_them(lesion_dataset, tmp_path):
    code, _ = CODEC.encode(torch.as_tensor(distance_volume(BALL, 16))[None, None])
    process = GaussianDiffusion(2, 4, prediction_type="sample", variance="small", clip=torch.clone)
    path = tmp_path / "shapes.json"
    smaller = lambda volume: 0.4 - volume  # noqa: E731
    draw = ShapeDrawing(CODEC, lambda x, timesteps: code.expand_as(x), process, smaller, (8, 8, 8, 8), "cpu")
    ((mended, surface),) = draw([0])
    np.testing.assert_array_equal(mended, distance_volume(BALL, 16) < 0.4)
    np.testing.assert_array_equal(surface, distance_volume(BALL, 16) < 0.5)
    write_shapes(draw, str(path), str(tmp_path / "unmended.json"), 2, 0)
    shape = unpacked(read_json(path)["shapes"][0])
    assert unpacked(read_json(tmp_path / "unmended.json")["shapes"][0]).mask.sum() == surface.sum()
    assert shape.mask.sum() == mended.sum() and packed(shape.mask) == read_json(path)["shapes"][1]
    labels = write_edited_labels(lesion_dataset, tmp_path, "lngen", 3, long_axis="uniform", shapes=path)
    editor, path = open_editor(lesion_dataset), path.unlink()  # rows alone are enough
    real = [lesion.long_axis for lesion in editor.pool.lesions]
    for row in (row for label in labels for row in label.edits):
        edit = Edit.of(row)
        mask = editor.mask(edit)
        assert long_axis(mask, editor.spacing) == edit.long_axis and edit.donor["scan"] in editor.own.scans.cases
        assert min(real) - 3 < edit.long_axis < max(real) + 3 and 0.2 < mask.mean() < 0.9


def test_what_is_not_drawn_is_refused(lesion_dataset, tmp_path):
    with pytest.raises(UserError, match="holds no drawn shapes; train them with"):
        open_editor(lesion_dataset, shapes=tmp_path / "shapes.json")
    full = np.ones((4, 4, 4), bool)
    with pytest.raises(UserError, match="0 of 16 drawn shapes are whole; train the shape networks longer"):
        write_shapes(lambda seeds: [(full, full)] * len(seeds), *map(str, [tmp_path / "a", tmp_path / "b"]), 2, 0)


def test_shapes_are_compared_with_lesions_in_both_spaces(lesion_dataset, tmp_path):
    editor, n = open_editor(lesion_dataset), 12
    real = [editor.pool.shape(item.scan, item.number) for item in editor.pool.lesions]
    turned = [distance_volume(real[i % 6], 24, Rotation.random(rng=i)) < 0.5 for i in range(n)]
    bars = [np.pad(np.ones((n, 2, 2), bool), 1)] * n
    for name, masks in (("lesions", turned), ("bars", bars)):
        write_json(tmp_path / f"{name}.json", {"shapes": [packed(mask) for mask in masks]})
    files = {name: str(tmp_path / f"{name}.json") for name in ("lesions", "bars")}
    write_shape_table(str(lesion_dataset), files, str(tmp_path / "metrics.json"))
    found = read_json(tmp_path / "metrics.json")
    assert found["n"] == 6
    for space in ("measures", "distances"):
        assert found[space]["lesions"]["precision"] > 0.6 > found[space]["bars"]["precision"] == 0
        assert found[space].keys() == {"lesions", "bars", "ellipsoids", "floor"}


@pytest.mark.parametrize("power", [2.0, 20.0])
def test_measures_do_not_depend_on_size_or_turn(power):
    shape = Blocks(np.zeros((1, 3)), np.array([[4.0, 6.0, 8.0]]), np.array([power]))
    first, second = (shape_measures(distance_volume(shape, 32, Rotation.random(rng=seed))) for seed in (0, 1))
    assert np.abs(first - second).max() < 0.15 and len(first) == 10
