"""Labels that images are drawn for: real ones warped or as they are, and those of a folder."""

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import label as components

from lldm3d.data.dataset import load_cases
from lldm3d.data.warping import warp_pair
from lldm3d.errors import UserError
from lldm3d.files import write_json
from lldm3d.pairs.sources import label_files, labels_in, parse_source, read_labels, real_labels
from lldm3d.pairs.warping import write_warped_pairs

CLASSES = 3


def voxels(path: str | Path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj)


@pytest.fixture(scope="module")
def warped(tiny_dataset, tmp_path_factory) -> Path:
    """Six warped labels of the four training cases."""
    folder = tmp_path_factory.mktemp("warped")
    write_warped_pairs(tiny_dataset, folder, n=6, seed=1)
    return folder


def test_strength_0_leaves_the_labels_bit_by_bit(tiny_dataset, tmp_path):
    cases = load_cases(tiny_dataset, "training")
    found = write_warped_pairs(tiny_dataset, tmp_path, n=4, strength=0)
    for case, label in zip(cases, found, strict=True):
        np.testing.assert_array_equal(voxels(label.path), voxels(case.label))
        np.testing.assert_array_equal(nib.load(label.path).affine, nib.load(case.label).affine)


def test_each_case_is_warped_in_turn_and_keeps_its_patient_classes_and_grid(tiny_dataset, warped):
    cases, found = load_cases(tiny_dataset, "training"), read_labels(warped)
    assert [label.patient for label in found] == [case.patient for case in [*cases, *cases[:2]]]
    assert len({label.name for label in found}) == 6
    for case, label in zip([*cases, *cases[:2]], found, strict=True):
        before, after = nib.load(case.label), nib.load(label.path)
        assert after.shape == before.shape and after.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(after.affine, before.affine)
        assert set(np.unique(voxels(label.path))) <= set(range(CLASSES))
        changed = (voxels(label.path) != voxels(case.label)).mean()
        assert 0 < changed < 0.3, "moved, but still anatomy"
    assert (voxels(found[0].path) != voxels(found[4].path)).any(), "the same label is warped anew"


def test_the_seed_alone_says_how(tiny_dataset, warped, tmp_path):
    again = write_warped_pairs(tiny_dataset, tmp_path / "again", n=2, seed=1)
    other = write_warped_pairs(tiny_dataset, tmp_path / "other", n=2, seed=2)
    first = read_labels(warped)
    for place in range(2):
        np.testing.assert_array_equal(voxels(again[place].path), voxels(first[place].path))
        assert (voxels(other[place].path) != voxels(first[place].path)).any()


def test_no_class_appears_between_two_others():
    """A shell of class 2 around 1 alone: interpolated class values would put a 1 between 0 and 2."""
    grid = np.stack(np.meshgrid(*[np.arange(32)] * 3, indexing="ij"), -1)
    ball = (((grid - 15.5) ** 2).sum(-1) < 100).astype(np.uint8) * 2
    for seed in range(3):
        assert set(np.unique(warp_pair(ball, ball, CLASSES, [seed])[1])) == {0, 2}


def test_thin_classes_keep_whole():
    """A vessel one voxel wide, of which the largest part alone left a third, in pieces."""
    label, along = np.ones((32, 32, 32), np.uint8), np.arange(7, 25)
    label[along, 16 + np.round(4 * np.sin(along / 5)).astype(int), along] = 2
    label[13:15, 9:11, 17:20] = 3  # a small lesion
    volumes = []
    for seed in range(6):
        moved = warp_pair(label, label, 4, [seed], thin=[2, 3])[1]
        assert [components(moved == value, np.ones((3, 3, 3)))[1] for value in (2, 3)] == [1, 1]
        volumes.append([(moved == value).sum() / (label == value).sum() for value in (2, 3)])
    np.testing.assert_allclose(np.mean(volumes, 0), 1, atol=0.2)


def test_the_image_is_moved_with_its_label_and_the_folder_is_one_of_pairs(tiny_dataset, warped, tmp_path):
    """An image that shows the label itself still does after the warp, but for voxels that the border cuts in half."""
    grid = np.stack(np.meshgrid(*[np.arange(32)] * 3, indexing="ij"), -1)
    ball = (((grid - 15.5) ** 2).sum(-1) < 100).astype(np.uint8)
    image, label = warp_pair(ball, ball, 2, [3])
    assert (label != ball).any() and 0 <= image.min() <= image.max() <= 1
    assert ((image > 0.5) != label).sum() < 0.01 * label.sum()
    found, cases = load_cases(warped, "training"), load_cases(tiny_dataset, "training")
    assert [pair.patient for pair in found] == [case.patient for case in [*cases, *cases[:2]]]
    for pair, case in zip(found, cases, strict=False):
        assert Path(pair.label).parent.name == "labelsTr" and voxels(pair.image).shape == voxels(case.image).shape
        assert (voxels(pair.image) != voxels(case.image)).any()


def test_the_warped_image_keeps_its_noise():
    """Linear interpolation would take nearly half of it, and what learns from such images would draw smooth ones."""
    noise = np.random.default_rng(0).normal(0.5, 0.1, (32, 32, 32)).astype(np.float32)
    image, label = warp_pair(noise, None, 2, [3])
    assert label is None and image.std() > 0.8 * noise.std()


def test_more_strength_moves_more():
    grid = np.stack(np.meshgrid(*[np.arange(32)] * 3, indexing="ij"), -1)
    ball = (((grid - 15.5) ** 2).sum(-1) < 100).astype(np.uint8)
    little, much = (
        np.mean([(warp_pair(ball, ball, 2, [seed], s)[1] != ball).mean() for seed in range(4)]) for s in (0.3, 2)
    )
    assert 0 < little < much / 2


def test_real_labels_are_those_of_the_split_with_their_patients(tiny_dataset):
    found, cases = real_labels(tiny_dataset, "test"), load_cases(tiny_dataset, "test")
    assert [(label.path, label.patient) for label in found] == [(case.label, case.patient) for case in cases]


def test_a_folder_of_labels_or_of_pairs_is_a_source_of_its_own_name(tiny_dataset, tmp_path):
    folder = tmp_path / "own labels"
    shutil.copytree(tiny_dataset / "labelsTr", folder / "labelsTr")
    source = parse_source(str(folder))
    assert source.kind == "folder" and source.slug.endswith("own_labels")
    assert [label.name for label in labels_in(folder)] == [label.name for label in labels_in(folder / "labelsTr")]
    assert labels_in(folder)[0].name == "case_00"


def test_what_is_no_source_and_a_folder_without_labels_are_refused(tmp_path):
    with pytest.raises(UserError, match="no source of labels 'trainings': give drawn, .*, lngen, or a folder"):
        parse_source("trainings")
    with pytest.raises(UserError, match="holds no label maps"):
        labels_in(tmp_path)


def test_labels_of_a_data_set_or_of_edits_are_of_the_patients_that_it_names(tmp_path, tiny_dataset):
    case = load_cases(tiny_dataset, "test")[0]
    folder = tmp_path / "edited"
    (folder / "labelsTr").mkdir(parents=True)
    shutil.copy(case.label, folder / "labelsTr/case_edit00.nii.gz")
    shutil.copy(case.label, folder / "labelsTr/mine.nii.gz")
    entry = {
        "image": "./imagesTr/case_edit00.nii.gz",
        "label": "./labelsTr/case_edit00.nii.gz",
        "patient": case.patient,
    }
    write_json(folder / "dataset.json", {"training": [entry], "test": ["./imagesTs/of_another_program.nii.gz"]})
    assert [(file.name, file.patient) for file in labels_in(folder)] == [
        ("case_edit00", case.patient), ("mine", "mine"),
    ]  # fmt: skip
    assert label_files([folder / "labelsTr/case_edit00.nii.gz"])[0].patient == case.patient
