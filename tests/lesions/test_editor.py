"""Edits: where lesions may lie, what stays bit by bit, and that a row alone makes the edit again."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from lldm3d.data.dataset import load_cases
from lldm3d.errors import UserError
from lldm3d.lesions.calibre import with_calibre
from lldm3d.lesions.editor import Edit, open_editor
from lldm3d.lesions.masks import lesion_parts
from lldm3d.lesions.placement import CLEAR, CUBE, draw_centre, in_volume, misfit, place_density, possible_centres
from lldm3d.lesions.pool import LesionPool, Scans, lesion_classes
from lldm3d.lesions.textures import harmonic, with_rim

CASE, TUMOUR = "case_01", 3
MASK_SOURCES = ("ellipsoids", "real_shapes")  # those of LN-Gen: test_lngen.py


@pytest.fixture(scope="module", params=MASK_SOURCES)
def edits(request, editor) -> list[Edit]:
    """New lesions for a case with two, of 8 mm at most, so that there is room."""
    rng, found = np.random.default_rng(4), []
    label = editor.own.scans.read(CASE).label
    for length in (8.0, 7.0):
        edit = editor.new_lesion(rng, CASE, request.param, length)
        centre = draw_centre(rng, label, editor.mask(edit), editor.classes, editor.pool.places)
        found.append(replace(edit, centre=centre))
        label = editor.label(label, found[-1:])
    return found


def test_all_outside_the_rim_of_what_is_new_stays_bit_by_bit(editor, edits):
    before, after = editor.own.scans.read(CASE), editor.scan(edits)
    new = after.label != before.label
    assert new.sum() > 10 and (after.label[new] == TUMOUR).all()
    assert (after.image.view(np.int32) == before.image.view(np.int32))[~with_rim(new)].all()
    assert after.image.dtype == np.float32 and after.image[new].mean() < 0.45, "as dark as real ones"
    assert 0 <= after.image.min() <= after.image.max() <= 1


def test_a_row_alone_makes_the_edit_again(lesion_dataset, editor, edits):
    open_editor.cache_clear()
    rows = [Edit.of(json.loads(json.dumps(edit.as_row()))) for edit in edits]
    again = open_editor(lesion_dataset, rows[0].lesion, rows[0].organ).scan(rows)
    first = editor.scan(edits)
    np.testing.assert_array_equal(again.image, first.image)
    np.testing.assert_array_equal(again.label, first.label)


def test_a_new_lesion_lies_in_the_organ_and_touches_no_other(editor, edits):
    label = editor.own.scans.read(CASE).label
    for edit in edits:
        mask = in_volume(editor.mask(edit), edit.centre, label.shape)
        assert np.isin(label[mask], (1, 2)).all() and mask.sum() == editor.mask(edit).sum()
        near = ndimage.binary_dilation(mask, CUBE, iterations=CLEAR)
        assert not (label[near] == TUMOUR).any()
        label = editor.label(label, [edit])
    assert len(lesion_parts(label, TUMOUR)) == 2 + len(edits)


@pytest.mark.parametrize("source", MASK_SOURCES)
def test_drawing_for_a_scan_finds_the_same_edits_for_the_same_seed(editor, source):
    drawn = [[editor.draw(np.random.default_rng(seed), "case_00", source, uniform=True)] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2] and all(1 <= len(edits) <= 3 for (edits,) in drawn)


def test_real_lesions_are_those_of_training_scans_alone(lesion_dataset, editor):
    training = {case.name for case in load_cases(lesion_dataset, "training")}
    assert {lesion.scan for lesion in editor.pool.lesions} <= training and len(editor.pool.lesions) == 6
    with pytest.raises(UserError, match="has no labelled case 'case_05'"):
        editor.pool.scans.read("case_05")


def test_places_with_room_are_exactly_those(editor):
    label, mask = editor.own.scans.read(CASE).label, np.ones((5, 3, 3), bool)
    allowed = np.isin(label, (1, 2))
    found = np.zeros(label.shape, bool)
    found[tuple(possible_centres(allowed, mask).T)] = True
    np.testing.assert_array_equal(found, ndimage.binary_erosion(allowed, mask))
    assert not len(possible_centres(allowed, np.ones((31, 31, 31), bool)))


def test_lesions_are_likely_where_real_ones_lie():
    places = np.array([[0.2, 0.5, 0.5]])
    near, far = place_density(np.array([[0.25, 0.5, 0.5], [0.8, 0.5, 0.5]]), places)
    assert near > 0.5 and 0 < far < 1e-3


def test_reasons_are_named(editor):
    label, mask = editor.own.scans.read(CASE).label, np.ones((3, 3, 3), bool)
    inside = tuple(np.argwhere(ndimage.binary_erosion(label == 1, iterations=1))[0])
    lesion = np.argwhere(label == TUMOUR)[0]
    assert misfit(label, (0, 0, 0), mask, editor.classes) == "that is outside the organ"
    assert misfit(label, tuple(lesion), mask, editor.classes) == "there is a lesion already"
    assert misfit(label, inside, np.ones((25, 25, 19), bool), editor.classes) in (
        "it would leave the organ",
        "it would leave the scan",
    )


def test_a_removed_lesion_leaves_organ_and_nothing_else_changes(editor):
    before = editor.own.scans.read(CASE)
    after = editor.scan([replace(editor.begun(CASE), removes=0)])
    gone = after.label != before.label
    assert (before.label[gone] == TUMOUR).all() and (after.label[gone] == 1).all()
    assert (after.image == before.image)[~with_rim(gone)].all()
    around = ndimage.binary_dilation(gone, CUBE, iterations=3) & (before.label == 1) & ~with_rim(gone)
    assert after.image[gone].mean() == pytest.approx(before.image[around].mean(), abs=0.03)
    assert after.image[gone].std() > 0.4 * before.image[around].std(), "it has texture"


def test_a_lesion_grows_in_its_place(editor):
    label = editor.own.scans.read(CASE).label
    mask, box = lesion_parts(label, TUMOUR)[0]
    middle = np.array([axis.start for axis in box]) + ndimage.center_of_mass(mask)
    own = {"lesion": 0}
    centre = tuple(map(int, middle.round()))
    edit = replace(editor.begun(CASE), removes=0, shape=own, donor=own, scale=1.4, centre=centre)
    after = editor.scan([edit])
    larger = (after.label == TUMOUR).sum() - (label == TUMOUR).sum()
    assert larger > 0.8 * mask.sum() and (after.label == TUMOUR)[box][mask].mean() > 0.9
    assert after.image[after.label == TUMOUR].mean() < 0.4


def test_the_harmonic_fill_of_a_ramp_is_the_ramp():
    ramp = np.broadcast_to(np.arange(12.0)[:, None, None], (12, 12, 12))
    hole = np.zeros(ramp.shape, bool)
    hole[4:8, 3:9, 3:9] = True
    np.testing.assert_allclose(harmonic(ramp, ~hole, hole, (1.0, 1.0, 2.0)), ramp[hole], atol=1e-5)


def test_classes_are_those_the_data_name_or_refused(editor, lesion_dataset):
    schema = Scans(lesion_dataset).schema
    assert lesion_classes(schema, "x").organ == (1, 2)
    for arguments, message in (
        ({"lesion": "tumor"}, "x: has no class 'tumor'; did you mean tumour"),
        ({"organ": ["lever"]}, "x: has no class 'lever'; did you mean liver"),
        ({"lesion": "liver"}, "does not say in which class liver lies; name it: organ, of vein, tumour"),
        ({"organ": ["tumour"]}, "cannot lie in"),
    ):
        with pytest.raises(UserError, match=message):
            lesion_classes(schema, "x", **arguments)
    with pytest.raises(UserError, match="says of no class that it is a lesion; name one: lesion, of liver, vein"):
        lesion_classes(replace(schema, lesions=()), "x")
    empty = LesionPool(Scans(lesion_dataset), lesion_classes(schema, "x", "vein", ["liver"]))
    empty.scans.cases.clear()
    with pytest.raises(UserError, match="scan has a whole vein to learn from"):
        _ = empty.lesions


def test_a_vessel_widens_and_thins_along_its_centre_line():
    label = np.zeros((30, 30, 40), np.uint8)
    label[3:27, 3:27, 3:37] = 1
    points = np.stack(np.meshgrid(np.arange(30), np.arange(30), np.arange(40), indexing="ij"))
    x, y, z = points - np.array([14.3, 14.6, 20]).reshape(3, 1, 1, 1)
    label[(np.hypot(x - 0.1 * z, y) < 4) & (np.abs(z) < 15)] = 2
    label[24, 14:16, 20] = 3
    wide, thin = (with_calibre(label, 2, factor, (1.0, 1.0, 1.0), (2, 3)) for factor in (1.5, 0.5))
    area = [int((volume[:, :, 20] == 2).sum()) for volume in (thin, label, wide)]
    assert area[0] < 0.5 * area[1] and 1.7 * area[1] < area[2] < 2.8 * area[1]
    assert (wide == 3).sum() == (label == 3).sum(), "what is kept stays"
    assert (thin[label == 2] != 0).all() and ndimage.label(thin == 2, CUBE)[1] == 1
