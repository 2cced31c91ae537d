"""What the report's viewer is given: volumes that fit the page, in one frame, and the tested NiiVue."""

import base64
import gzip
import json
import re
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from lldm3d.data.dataset import load_cases, load_schema
from lldm3d.data.scans import read_pair
from lldm3d.files import save_nifti, sha256
from lldm3d.report import viewer
from lldm3d.report.write import ROOM

from ..evaluation.toys import SIZE, SPACING, scan, write_dataset

NIIVUE = Path(viewer.__file__).parent / "niivue"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("dataset"), {"training": [0, 1, 2], "validation": [], "test": []})


def opened(text: str) -> nib.Nifti1Image:
    """The volume that the page holds."""
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text)))


def test_niivue_is_the_file_that_its_licence_names():
    text = (NIIVUE / "LICENSE").read_text()
    assert sha256(NIIVUE / "niivue.umd.js") in text and "BSD 2-Clause License" in text


def test_the_page_holds_the_voxels_in_a_frame_that_all_cases_share(dataset):
    schema, case = load_schema(dataset), load_cases(dataset, "training")[0]
    pair, truth = viewer.viewed_pair(case, schema), read_pair(case, schema)
    image, label = opened(pair["image"]), opened(pair["label"])
    assert image.get_data_dtype() == label.get_data_dtype() == np.uint8
    grey = 255 * (truth.image - truth.image.min()) / np.ptp(truth.image)
    assert np.abs(image.get_fdata() - grey).max() <= 0.5 and (label.get_fdata() == truth.label).all()
    for volume in (image, label):
        assert volume.header.get_zooms() == SPACING
        assert np.allclose(volume.affine @ [*(np.array(SIZE) - 1) / 2, 1], [0, 0, 0, 1])  # its middle
    place = np.linalg.inv(label.affine) @ [*pair["start"], 1]
    assert truth.label.any((1, 2))[round(place[0])] and np.allclose(place, place.round(), atol=1e-3)


def test_a_case_that_is_stored_along_other_axes_stands_upright(tmp_path):
    """Left is left, whatever the axes of the file."""
    image, label = (np.swapaxes(volume, 0, 2)[:, ::-1] for volume in scan(0))
    affine = np.array([[0, 0, -2, 70], [0, -2, 0, 5], [3, 0, 0, -9], [0, 0, 0, 1]], float)
    write_dataset(tmp_path, {"training": [0], "validation": [], "test": []})
    save_nifti(tmp_path / "imagesTr/training_00.nii.gz", image.astype(np.float32), affine)
    save_nifti(tmp_path / "labelsTr/training_00.nii.gz", label.astype(np.uint8), affine)
    schema = replace(load_schema(tmp_path), orientation="stored")
    shown = opened(viewer.viewed_pair(load_cases(tmp_path, "training")[0], schema)["label"])
    assert (shown.get_fdata() == scan(0)[1][::-1]).all() and shown.header.get_zooms() == SPACING


def test_as_many_pairs_as_there_is_room_for(dataset):
    schema, cases = load_schema(dataset), {"real": load_cases(dataset, "training"), "synthetic": []}
    whole, halved = (len(json.dumps({"real": viewer.viewed_pair(cases["real"][0], schema, k)})) for k in (1, 2))

    def numbers(room: int) -> tuple[int, tuple]:
        found = viewer.viewed_pairs(cases, schema, room).get("real", [])
        return len(found), opened(found[0]["image"]).shape if found else ()

    assert numbers(4 * whole) == (3, SIZE) and numbers(int(2.5 * whole)) == (2, SIZE)
    assert numbers(int(1.5 * halved)) == (1, tuple(length // 2 for length in SIZE))
    assert numbers(100) == (0, ())
    assert viewer.viewer_scripts(cases, schema, 10**6) is None  # NiiVue is larger
    assert viewer.viewer_scripts(cases, schema, ROOM)["sides"] == ["real"]


@pytest.mark.parametrize("step", [1, 2, 5])
def test_averaged_images_lie_where_whole_ones_do(dataset, step):
    schema, case = load_schema(dataset), load_cases(dataset, "training")[0]
    image = opened(viewer.viewed_pair(case, schema, step)["image"])
    first = np.array([(step - 1) / 2] * 3) * SPACING - (np.array(SIZE) - 1) / 2 * SPACING  # mm, of the first block
    assert np.allclose(image.affine[:3, 3], first) and image.shape == tuple(-(-length // step) for length in SIZE)


def test_no_text_of_a_script_ends_it():
    text = viewer.script_text(json.dumps({"a": "</Script><script><!-- </b>"}))
    assert not re.search("</script|<script|<!--", text, re.IGNORECASE)
    assert json.loads(text) == {"a": "</Script><script><!-- </b>"}
