import json

import numpy as np
import pytest

from lldm3d.data.checks import faults_of
from lldm3d.data.sources import open_source
from lldm3d.errors import UserError

from .raw import save, volumes, write_decathlon


def test_every_faulty_case_is_named_at_once(tmp_path):
    raw = write_decathlon(tmp_path / "raw", 11)
    image, label = volumes()
    moved = np.eye(4)
    moved[0, 3] = 5
    save(raw / "labelsTr/case_0.nii.gz", label[:-1])
    save(raw / "labelsTr/case_1.nii.gz", label, moved)
    save(raw / "labelsTr/case_2.nii.gz", label + 7 * (label == 2).astype(np.uint8))
    save(raw / "labelsTr/case_3.nii.gz", np.zeros_like(label))
    save(raw / "imagesTr/case_4.nii.gz", np.where(label == 1, np.nan, image))
    save(raw / "imagesTr/case_5.nii.gz", np.where(label == 1, np.inf, image))
    (raw / "imagesTr/case_6.nii.gz").write_bytes(b"no scan")
    (raw / "labelsTr/case_7.nii.gz").unlink()
    save(raw / "imagesTr/case_8.nii.gz", np.stack([image, image], -1))
    save(raw / "labelsTr/case_9.nii.gz", label * np.float32(0.5))
    expected = [
        "label shape (19, 18, 12) differs from image shape (20, 18, 12)",
        "corners lie 5.00 mm apart",
        "label values [9] are not in the label map {'liver': [1], 'vein': [2]}",
        "the label is empty",
        "voxels are NaN or infinite",
        "voxels are NaN or infinite",
        "cannot be read as NIfTI",
        "no such file",
        "3D is needed",
        "[0.5] are not whole numbers",
    ]
    faults = faults_of(open_source(raw))
    assert len(faults) == len(expected)
    for number, (fault, text) in enumerate(zip(faults, expected, strict=True)):
        assert text in fault and f"case_{number}" in fault


def test_a_patient_in_two_splits_is_a_fault(tmp_path):
    raw = write_decathlon(tmp_path / "raw", 4, patients=["anna", "anna", "bert", "carl"])
    content = json.loads((raw / "dataset.json").read_text())
    content["validation"] = content["training"][1:2]
    content["training"] = content["training"][:1] + content["training"][2:]
    (raw / "dataset.json").write_text(json.dumps(content))
    assert faults_of(open_source(raw)) == [
        "patient anna: in the splits training, validation; a patient may be in one only"
    ]


def test_a_prepared_data_set_is_checked_for_size_and_range(tiny_dataset, tmp_path):
    twins = faults_of(open_source(tiny_dataset))
    assert len(twins) == 3 and all("is the same scan as" in fault for fault in twins)
    content = json.loads((tiny_dataset / "dataset.json").read_text())
    for entry in content["training"][:2]:
        for key in ("image", "label"):
            entry[key] = str((tiny_dataset / entry[key]).resolve())
    content["training"], content["validation"], content["test"] = content["training"][:2], [], []
    (tmp_path / "dataset.json").write_text(json.dumps(content | {"roi_size": [32, 16, 16]}))
    faults = faults_of(open_source(tmp_path))
    assert len(faults) == 2 and all("roi_size" in fault for fault in faults)


@pytest.mark.parametrize("content", [None, "{", "{}", '{"training": []}', '{"training": [{"label": "a.nii"}]}'])
def test_a_folder_without_a_data_set_is_told(tmp_path, content):
    if content:
        (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(UserError, match=str(tmp_path)):
        faults_of(open_source(tmp_path))
