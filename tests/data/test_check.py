import gzip
import json
import re

import nibabel as nib
import numpy as np
import pytest

from lldm3d.data.checks import faults_of
from lldm3d.data.label_map import load_label_map
from lldm3d.data.sources import open_source
from lldm3d.data.volumes import load_volume
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


def edited(raw, **change):
    """The Decathlon folder with these entries of its dataset.json."""
    path = raw / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    return raw


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": {"0": "background", "\u00b2": "liver"}}, "each class needs a whole number"),
        ({"labels": {"0": "background", "1": " ", "2": "vein"}}, "the class of the value 1 is named ' '; give it"),
        ({"labels": {"0": "background", "1": "a\nb", "2": "vein"}}, "the class of the value 1 is named 'a.nb'"),
        ({"training": [None]}, 'None in training: each needs an "image" and a "label"'),
        ({"training": ["./imagesTr/case_0.nii.gz"]}, 'each needs an "image" and a "label"'),
        ({"training": [{"image": "a\0b.nii.gz", "label": "c.nii.gz"}]}, "must be one file each"),
        (
            {"training": [{"image": "a.nii.gz", "label": "c.nii.gz", "patient": ["anna"]}]},
            "neither a name nor a number",
        ),
        ({"training": [{"image": "a.nii.gz", "label": "c.nii.gz", "patient": False}]}, "neither a name nor a number"),
    ],
)
def test_what_a_description_cannot_mean_is_refused_in_one_line(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        faults_of(open_source(edited(write_decathlon(tmp_path, 1), **change)))


@pytest.mark.parametrize("patient", [None, float("nan"), ""])
def test_cases_without_a_patient_are_patients_of_their_own(tmp_path, patient):
    raw = write_decathlon(tmp_path, 3, patients=[patient] * 3)
    if patient == "":
        edited(
            raw,
            training=[entry | {"patient": ""} for entry in json.loads((raw / "dataset.json").read_text())["training"]],
        )
    assert len({case.patient for case in open_source(raw).cases}) == 3


def nnunet(raw, **change):
    """A raw folder of nnU-Net."""
    write_decathlon(raw, 2)
    for path in (raw / "imagesTr").iterdir():
        path.rename(path.with_name(path.name.replace(".nii", "_0000.nii")))
    about = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "liver": 1, "vein": 2},
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(about | change))
    return raw


@pytest.mark.parametrize("channels", [None, "CT", ["CT"], {"0": "CT"}])
def test_one_channel_may_be_written_in_several_ways(tmp_path, channels):
    assert faults_of(open_source(nnunet(tmp_path, channel_names=channels))) == []


def test_a_channel_of_4d_files_of_nnunet_is_taken_from_them(tmp_path):
    raw = nnunet(tmp_path)
    for path in (raw / "imagesTr").iterdir():
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.stack([image.get_fdata()] * 2, 3), image.affine), path)
    assert "3D is needed (--channel chooses" in faults_of(open_source(raw))[0]
    assert faults_of(open_source(raw, channel=1), channel=1) == []


def test_an_image_of_nnunet_without_its_label_is_named(tmp_path):
    (nnunet(tmp_path) / "labelsTr/case_1.nii.gz").unlink()
    with pytest.raises(UserError, match="1 images have no label in labelsTr, such as case_1_0000.nii.gz"):
        open_source(tmp_path)


def test_a_channel_of_images_that_have_one_is_refused(tmp_path):
    raw = write_decathlon(tmp_path, 1)
    [fault] = faults_of(open_source(raw, channel=5), channel=5)
    assert "case_0.nii.gz: has one channel" in fault and "leave out --channel 5" in fault


def zero_spacing(header):
    header["pixdim"][1:4] = 0


def no_code(header):
    header["sform_code"] = header["qform_code"] = 0


def tilted(header):
    header.set_sform(np.array([[1, 0, 0, 0], [0, 1, 0.4, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), 1)
    header["pixdim"][3] = np.hypot(1, 0.4)


def negative(header):
    header["pixdim"][2] = -1


def both(header):
    header.set_sform(np.eye(4), 2)
    header.set_qform(nib.affines.from_matvec(np.eye(3), [30, 0, 0]), 1)


def no_rotation(header):
    header["qform_code"], header["sform_code"], header["quatern_b"] = 2, 1, 2
    header["srow_x"], header["srow_y"], header["srow_z"] = np.eye(4)[:3]


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("spoil", "fault", "note"),
    [
        (zero_spacing, "the size of its voxels is [0.0, 0.0, 0.0] mm", ""),
        (lambda header: (zero_spacing(header), no_code(header)), "the size of its voxels is [0.0, 0.0, 0.0] mm", ""),
        (negative, "the size of its voxels is [1.0, -1.0, 1.0] mm", ""),
        (tilted, "not at right angles, by 21.8 degrees", ""),
        (no_code, None, "says nothing of its orientation"),
        (both, None, "a sform and a qform that lie 30.0 mm apart; the sform is taken"),
        (lambda header: header["pixdim"].__setitem__(0, 0), None, ""),  # which means 1
        (no_rotation, None, "has a qform that is no rotation; the sform is taken"),
        (lambda header: header["dim"].__setitem__(1, 0), "has the shape (0, 18, 12), 3D is needed", ""),
        (lambda header: header["vox_offset"].__setitem__((), 0), "begin at byte 0, which is within its header", ""),
    ],
)
def test_what_a_header_says_wrongly_twice_or_not_at_all_is_named(tmp_path, capsys, spoil, fault, note, ending):
    for folder, array in zip(("images", "labels"), volumes(), strict=True):
        image = nib.Nifti1Image(array, np.eye(4))
        image.header.set_xyzt_units("mm")
        (tmp_path / folder).mkdir()
        nib.save(image, tmp_path / folder / "a.nii")
        content = bytearray((tmp_path / folder / "a.nii").read_bytes())
        header = nib.Nifti1Header(bytes(content[:348]))
        spoil(header)
        content[:348] = header.binaryblock
        (tmp_path / folder / "a.nii").unlink()
        (tmp_path / folder / f"a{ending}").write_bytes(content if ending == ".nii" else gzip.compress(bytes(content)))
    found = faults_of(open_source(images=tmp_path / "images", labels=tmp_path / "labels"), {"liver": 1, "vein": 2})
    assert (fault in found[0] and len(found) == 2) if fault else found == []
    assert note in capsys.readouterr().out


def test_a_name_that_stands_twice_is_refused(tmp_path):
    raw = write_decathlon(tmp_path, 1)
    text = (raw / "dataset.json").read_text()
    (raw / "dataset.json").write_text(text.replace('"2": "vein"', '"1": "vein"'))
    with pytest.raises(UserError, match="dataset.json: is not valid JSON .'1' stands there twice"):
        open_source(raw)
    (tmp_path / "map.yaml").write_text("classes:\n  liver: 1\n  liver: 2\n")
    (raw / "dataset.json").write_text(text)
    with pytest.raises(UserError, match="map.yaml: is not valid YAML .'liver' stands there twice"):
        faults_of(open_source(raw), tmp_path / "map.yaml")
    (raw / "dataset.json").write_text(json.dumps({**json.loads(text), "labels": {"liver": 0, "vein": 0, "HCC": 1}}))
    with pytest.raises(UserError, match="dataset.json: .'liver', 'vein'. all have the value 0"):
        faults_of(open_source(raw))


def test_names_of_a_label_map_stay_as_they_stand_there(tmp_path):
    """In YAML 1.1 `yes`, `on` and `null` are no words."""
    (tmp_path / "map.yaml").write_text("yes: 1\nnull: [2, 3]\n1.0: 4\n")
    assert load_label_map(tmp_path / "map.yaml", {}, "").classes == {"yes": (1,), "null": (2, 3), "1.0": (4,)}


def test_what_a_header_cannot_mean_is_refused(tmp_path):
    """Voxels of a size that no scanner has, of none in a NIfTI-2 file, and more of them than the file holds."""
    path = tmp_path / "a.nii.gz"
    for spoil, fault in (
        (lambda header: header["pixdim"].__setitem__(slice(1, 4), 1e20), "1e+20 mm; from 0.0001 to 1000 are possible"),
        (zero_spacing, "the size of its voxels is [0.0, 0.0, 0.0] mm"),
        (lambda header: header["dim"].__setitem__(slice(1, 4), 30000), "(30000, 30000, 30000) voxels, 108000000000"),
    ):
        for kind in (nib.Nifti1Image, nib.Nifti2Image):
            image = kind(volumes()[0], np.eye(4))
            content, length = image.to_bytes(), image.header.sizeof_hdr
            header = kind.header_class(content[:length])
            no_code(header)
            spoil(header)
            path.write_bytes(gzip.compress(header.binaryblock + content[length:]))
            with pytest.raises(UserError, match=f"a.nii.gz: .*{re.escape(fault)}"):
                load_volume(path)


@pytest.mark.parametrize(
    "labels, message",
    [
        ({"liver": 0, "background": 1}, "background has the value 1, it must be 0"),
        ({"0": "background", "1": "Liver", "2": "liver "}, "differ in case or spaces alone"),
        ({"0": "background", "1": "mean"}, "a class is named 'mean', as tables name the mean of all"),
        ({"0": "background", "1": None}, "the class of the value 1 is named ''"),
    ],
)
def test_labels_that_may_mean_two_things_are_refused(labels, message):
    with pytest.raises(UserError, match=re.escape(message)):
        load_label_map(None, {"labels": labels}, "raw")


def test_a_class_of_the_value_0_is_told_to_be_the_background(capsys):
    mapping = load_label_map(None, {"labels": {"liver": 0, "tumour": 1.0}}, "raw")
    assert mapping.classes == {"tumour": (1,)}
    assert "'liver' has the value 0, which is the background" in capsys.readouterr().out
    load_label_map(None, {"labels": {"Background": 0, "tumour": 1}}, "raw")
    assert not capsys.readouterr().out


def test_names_that_differ_in_how_they_are_encoded_are_one(tmp_path):
    """macOS writes an umlaut as two signs: images from there and labels from elsewhere belong together."""
    image, label = volumes()
    save(tmp_path / "images" / "Mu\u0308ller.nii.gz", image)
    save(tmp_path / "labels" / "M\u00fcller.nii.gz", label)
    assert [case.name for case in open_source(images=tmp_path / "images", labels=tmp_path / "labels").cases] == [
        "M\u00fcller"
    ]
    save(tmp_path / "images" / "M\u00fcller.nii.gz", image)
    with pytest.raises(UserError, match="are both"):
        open_source(images=tmp_path / "images", labels=tmp_path / "labels")


def test_cases_that_differ_in_capitals_alone_are_refused(tmp_path):
    for folder, array in zip(("images", "labels"), volumes(), strict=True):
        for name in ("p0", "P0"):
            save(tmp_path / folder / f"{name}.nii.gz", array)
    with pytest.raises(UserError, match="'P0' and 'p0' differ in capitals alone"):
        open_source(images=tmp_path / "images", labels=tmp_path / "labels")


def test_paths_as_windows_writes_them_are_read(tmp_path):
    folder = write_decathlon(tmp_path, 2)
    path = folder / "dataset.json"
    path.write_text(path.read_text().replace("Tr/", "Tr\\\\"))
    assert not faults_of(open_source(folder))


def test_values_beyond_all_scanners_and_unknown_units_are_faults(tmp_path):
    folder = write_decathlon(tmp_path, 2)
    save(folder / "imagesTr/case_0.nii.gz", volumes()[0].astype(np.float64) * 1e300)
    with gzip.open(folder / "imagesTr/case_1.nii.gz", "rb") as file:
        content = bytearray(file.read())
    content[123] = 7
    (folder / "imagesTr/case_1.nii.gz").write_bytes(gzip.compress(bytes(content)))
    first, second = faults_of(open_source(folder))[:2]
    assert "which no scanner gives" in first and "unit of length has the code 7" in second
