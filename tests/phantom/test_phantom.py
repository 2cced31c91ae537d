"""The phantom data set: seeded, whole, anatomically consistent at any size and spacing."""

import json

import nibabel as nib
import numpy as np
import pytest
from benchmarks import phantom_figure as figure
from scipy import ndimage

from lldm3d.errors import UserError
from lldm3d.phantom.case import HCC, HEPATIC, LIVER, PORTAL, make_case
from lldm3d.phantom.painting import NEIGHBOURS
from lldm3d.phantom.patient import draw_patient
from lldm3d.phantom.write import write_phantom

SIZE, SPACING = (48, 48, 32), (5.0, 5.0, 6.0)
GRIDS = [(SIZE, SPACING), ((64, 64, 48), (4.0, 4.0, 4.0)), ((40, 32, 24), (3.0, 4.0, 7.0)), ((72, 56, 40), (5, 5, 6))]


@pytest.fixture(scope="module")
def cases():
    return [make_case(index, SIZE, SPACING, seed=0) for index in range(4)]


def components(mask: np.ndarray) -> int:
    return ndimage.label(mask, NEIGHBOURS)[1]


@pytest.mark.parametrize(("size", "spacing"), GRIDS)
def test_any_grid_holds_one_liver_with_two_connected_trees_that_never_touch(size, spacing):
    image, label = make_case(3, size, spacing, seed=1)
    assert image.shape == label.shape == size
    assert components(label > 0) == components(label == PORTAL) == components(label == HEPATIC) == 1
    assert not (ndimage.binary_dilation(label == PORTAL, NEIGHBOURS) & (label == HEPATIC)).any()
    edge = np.ones(size, bool)
    edge[1:-1, 1:-1, 1:-1] = False
    assert not label[edge].any(), "the liver is cut by the edge of the field of view"


def test_trees_branch_inside_the_liver(cases):
    for _, label in cases:
        vessels = (label == PORTAL) | (label == HEPATIC)
        organ = ndimage.binary_closing(label > 0, NEIGHBOURS, 2)
        in_liver = ndimage.binary_erosion(organ, NEIGHBOURS)
        assert (vessels & in_liver).sum() > 0.75 * vessels.sum()
        assert 0.02 < vessels.sum() / (label > 0).sum() < 0.12


def test_a_finer_grid_shows_the_same_anatomy_with_finer_branches(cases):
    _, coarse = cases[0]
    _, fine = make_case(0, (96, 96, 64), (2.5, 2.5, 3.0), seed=0)
    volume = [np.prod(s) * (label > 0).sum() for s, label in ((SPACING, coarse), ((2.5, 2.5, 3.0), fine))]
    assert volume[0] == pytest.approx(volume[1], rel=0.03)
    for vein in (PORTAL, HEPATIC):
        assert (fine == vein).sum() > 3 * (coarse == vein).sum()


def test_without_twigs_the_main_branches_stay_whole_in_label_and_image(cases):
    image, label = make_case(0, SIZE, SPACING, seed=0, thinnest_vessel=2.5)
    for vein in (PORTAL, HEPATIC):
        assert components(label == vein) == 1
        assert (label == vein).sum() < 0.8 * (cases[0][1] == vein).sum()
    twigs = np.isin(cases[0][1], (PORTAL, HEPATIC)) & (label == LIVER)
    assert image[twigs].mean() > 1.05 * cases[0][0][twigs].mean()  # liver is brighter than blood


def test_lesions_are_0_to_5_of_5_to_60_mm_and_lie_apart():
    drawn = [draw_patient(np.random.default_rng([2, index])) for index in range(10)]
    counts = [len(p.lesions) for p in drawn]
    axes = [2 * lesion.radius for p in drawn for lesion in p.lesions]
    assert min(counts) >= 0 and max(counts) <= 5 and len(set(counts)) > 2
    assert min(axes) >= 5 and max(axes) <= 60 and max(axes) > 2 * min(axes)
    for index, count in enumerate(counts[:3]):
        assert components(make_case(index, SIZE, SPACING, seed=2)[1] == HCC) == count


def test_liver_is_brighter_than_vessels_and_lesions(cases):
    for image, label in cases:
        means = {value: image[label == value].mean() for value in np.unique(label)}
        assert all(means[LIVER] > 1.25 * means[value] for value in (PORTAL, HEPATIC))
        assert HCC not in means or means[LIVER] > 1.2 * means[HCC]


def test_case_depends_on_seed_and_index_alone(tmp_path, cases):
    write_phantom(tmp_path / "one", 1, SIZE, SPACING, seed=0)
    write_phantom(tmp_path / "two", 2, SIZE, SPACING, seed=0)
    read = [nib.load(tmp_path / run / "imagesTr" / "phantom_0000.nii.gz").get_fdata() for run in ("one", "two")]
    assert np.array_equal(*read) and np.array_equal(read[0], cases[0][0])
    assert not np.array_equal(cases[0][1], cases[1][1])
    assert not np.array_equal(cases[0][1], make_case(0, SIZE, SPACING, seed=1)[1])


def test_data_set_loads_and_nothing_half_written_is_left(tmp_path):
    output = tmp_path / "phantom"
    write_phantom(output, 2, [40, 40, 24], (6, 6, 8), seed=0)
    content = json.loads((output / "dataset.json").read_text())
    assert list(content["labels"].values()) == ["background", "liver", "portal vein", "hepatic vein", "HCC"]
    assert len(content["training"]) == content["numTraining"] == 2
    for entry in content["training"]:
        image, label = (nib.load(output / entry[key]) for key in ("image", "label"))
        assert image.shape == label.shape == (40, 40, 24) and np.allclose(image.affine, label.affine)
        assert nib.aff2axcodes(image.affine) == ("R", "A", "S") and image.header.get_zooms() == (6, 6, 8)
        assert label.get_data_dtype() == np.uint8 and set(np.unique(label.dataobj)) <= set(range(5))
    assert len(list(output.rglob("*.*"))) == 6  # two pairs, dataset.json and the list of them


def test_an_earlier_data_set_is_kept_unless_overwrite(tmp_path):
    output, arguments = tmp_path / "phantom", {"size": (32, 32, 24), "spacing": (7, 7, 8)}
    write_phantom(output, 2, **arguments)
    with pytest.raises(UserError, match="not empty.*--overwrite"):
        write_phantom(output, 1, **arguments)
    write_phantom(output, 1, **arguments, overwrite=True)
    assert len(list((output / "imagesTr").iterdir())) == 1
    (output / "imagesTr/scan.nii.gz").write_text("mine")
    with pytest.raises(UserError, match="imagesTr/scan.nii.gz, which this command did not write"):
        write_phantom(output, 1, **arguments, overwrite=True)
    assert (output / "imagesTr/scan.nii.gz").read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_cases": 0}, "num_cases is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": "a"}, "seed is 'a'"),
        ({"size": (48, -48, 32)}, r"size is \(48, -48, 32\)"),
        ({"size": (48, 48)}, "three"),
        ({"size": 48}, "three"),
        ({"spacing": (5, 0, 6)}, "positive"),
        ({"spacing": (5, float("nan"), 6)}, "positive"),
        ({"thinnest_vessel": -1}, "thinnest_vessel is -1"),
        ({"thinnest_vessel": "2"}, "thinnest_vessel is '2'"),
        ({"size": (16, 16, 16), "spacing": (1, 1, 1)}, "field of view.*at least 80 mm"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, change, message):
    arguments = {"num_cases": 1, "size": SIZE, "spacing": SPACING, "seed": 0} | change
    with pytest.raises(UserError, match=message):
        write_phantom(tmp_path / "phantom", **arguments)
    assert not (tmp_path / "phantom").exists()


def test_figure_is_drawn(tmp_path):
    figure.draw(str(tmp_path / "f.png"), (0,), SIZE, SPACING)
    assert (tmp_path / "f.png").stat().st_size > 10_000
