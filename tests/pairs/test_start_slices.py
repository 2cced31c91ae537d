"""From which real slice a volume begins, and what cannot be one."""

import nibabel as nib
import numpy as np
import pytest
from tests.bundles.small import CLASS_NAMES

from lldm3d.data.dataset import load_cases, load_schema
from lldm3d.errors import UserError
from lldm3d.files import save_nifti
from lldm3d.pairs.cases import CaseDataset
from lldm3d.pairs.start_slices import start_slices


@pytest.fixture
def found(tiny_dataset, tmp_path):
    """`found(start, name=..., reference=..., number=...)` is the start of a label of the first test case, so named."""
    case = load_cases(tiny_dataset, "test")[0]

    def call(start, name=case.name, reference=None, number=None):
        label, path = nib.load(case.label), tmp_path / f"{name}.nii.gz"
        save_nifti(path, np.asanyarray(label.dataobj), label.affine)
        spacing = load_schema(tiny_dataset).spacing
        dataset = CaseDataset(0, str(tmp_path / "out"), CLASS_NAMES, spacing, label_paths=[str(path)])
        return start_slices(dataset, str(tiny_dataset), start, reference, number, 0).get(name)

    return call


def test_the_own_scan_is_that_of_the_name_and_stays(found, tiny_dataset):
    case = load_cases(tiny_dataset, "test")[0]
    real = nib.load(case.image).get_fdata()
    for name in (case.name, f"{case.name}_edit00"):
        start = found("own", name, number=3)
        assert start.held and start.number == 3
        np.testing.assert_allclose(start.image[0, 0, ..., 0], real[..., 3], rtol=1e-6)
    assert found("own").number == 8 and found("own", "mine", reference=case.name).held
    assert found("generated") is None


def test_another_patient_s_slice_has_the_same_relative_depth_and_is_looked_at(found, tiny_dataset, tmp_path):
    start, images = found("other_patient", number=5), load_cases(tiny_dataset, "training")
    assert not start.held and any(
        np.allclose(start.image[0, 0, ..., 0], nib.load(case.image).get_fdata()[..., 5]) for case in images
    )
    short = np.random.default_rng(0).random((16, 16, 4), np.float32)
    save_nifti(tmp_path / "short.nii.gz", short, np.eye(4))
    image = found("other_patient", reference=str(tmp_path / "short.nii.gz"), number=15).image
    np.testing.assert_allclose(image[0, 0, ..., 0], short[..., 3])


def test_what_cannot_begin_a_volume_is_refused(found, tmp_path):
    coarse = str(tmp_path / "coarse.nii.gz")
    save_nifti(coarse, np.zeros((16, 16, 16), np.float32), np.diag([3.0, 3, 2, 1]))
    small, bright = str(tmp_path / "small.nii.gz"), str(tmp_path / "bright.nii.gz")
    save_nifti(small, np.zeros((8, 8, 1), np.float32), np.eye(4))
    save_nifti(bright, np.full((16, 16, 1), 900, np.float32), np.eye(4))
    wrong = {
        "a slice of 8 x 8 x 1 voxels cannot begin a volume of 16 x 16 x 16": {"reference": small},
        "intensities from 900 to 900, but prepared scans have 0 to 1": {"reference": bright},
        r"slices have a spacing of \[3.0, 3.0\] mm, the data set \[1.0, 1.0\]": {"reference": coarse},
        "neither a file nor a case of the data set": {"reference": "nobody"},
        "--start_slice 16: lies outside": {"number": 16},
        "--start_slice .x.: give the number of a slice": {"number": "x"},
        "no case of the data set has the name of the label mine": {"name": "mine"},
    }
    for message, given in wrong.items():
        with pytest.raises(UserError, match=message):
            found("own", **given)
    with pytest.raises(UserError, match="did you mean own"):
        found("ovn")
    with pytest.raises(UserError, match="a generated start has none"):
        found("generated", reference=small)
