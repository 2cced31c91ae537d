"""The DICOM export: what other programs read of it, and that it bears no trace of a patient."""

import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from tests.conftest import write_dataset

from lldm3d.data.checks import check
from lldm3d.data.dicom import image_volume, read_headers
from lldm3d.data.sources import open_source
from lldm3d.errors import UserError
from lldm3d.export.write import export
from lldm3d.files import read_json, write_json

hd = pytest.importorskip("highdicom", reason="pip install 'lldm3d[dicom]'")
pydicom = pytest.importorskip("pydicom")
from lldm3d.export.dicom import WHITE, image_series  # noqa: E402

MARKED = {"SyntheticData": "YES", "PatientName": "synthetic^0001", "PatientID": "synthetic-0001", "PatientSex": ""}
# a scan that lies askew, with voxels of three lengths: rows, columns and slices each to another side of the patient
ASKEW = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.2, -0.13, 0.31) @ np.diag([0.8123457, 1.0987654, 2.4]),
                                [-71.234567, 33.3333333, -1012.7654321])  # fmt: skip


@pytest.fixture(scope="module")
def pairs(tiny_dataset, tmp_path_factory) -> Path:
    """Two pairs that bear the name of a real patient, as those of its warped label do."""
    folder = tmp_path_factory.mktemp("pairs")
    write_dataset(folder, {"training": 4, "validation": 0, "test": 0}, prefix="case_00_warp", seed=100)
    content = read_json(folder / "dataset.json")
    cases = [case | {"patient": "case_00"} for case in content["training"]]
    write_json(folder / "dataset.json", content | {"training": cases})
    return folder


@pytest.fixture(scope="module")
def exported(tiny_dataset, pairs, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dicom") / "dicom"
    export(str(tiny_dataset), str(folder), str(pairs), "S", format="dicom")
    return folder


def upright(image: nib.Nifti1Image) -> tuple[np.ndarray, np.ndarray]:
    turned = nib.as_closest_canonical(image)
    return np.asanyarray(turned.dataobj), turned.affine


def test_scans_of_patients_are_not_marked_as_synthetic(tiny_dataset, pairs, tmp_path):
    warped = shutil.copytree(pairs, tmp_path / "warped")
    write_json(warped / "dataset.json", read_json(warped / "dataset.json") | {"synthetic": False})
    with pytest.raises(UserError, match="shows patients, whom --format dicom would mark as synthetic"):
        export(str(tiny_dataset), str(tmp_path / "out"), str(warped), "S", format="dicom")


def test_each_object_says_that_it_is_synthetic_and_of_no_patient(exported):
    files = sorted(path for path in exported.rglob("*") if path.suffix == ".dcm")
    assert len(files) == 4 * 17 and {path.parents[-2].name for path in [p.relative_to(exported) for p in files]}
    for path in files:
        dataset = pydicom.dcmread(path)
        assert dataset.SyntheticData == "YES" and dataset.PatientID.startswith("synthetic-")
        assert b"case_00" not in path.read_bytes() and "case" not in path.relative_to(exported).as_posix()
    first = [pydicom.dcmread(path) for path in files if "synthetic-0001" in str(path)]
    assert all(dataset.get(keyword) == value for dataset in first for keyword, value in MARKED.items())
    assert len({dataset.SOPInstanceUID for dataset in first}) == 17
    assert len({dataset.StudyInstanceUID for dataset in map(pydicom.dcmread, files)}) == 4


def test_uids_are_new_each_time(tiny_dataset, pairs, exported, tmp_path):
    export(str(tiny_dataset), str(tmp_path / "again"), str(pairs), "S", format="dicom")
    folders = (exported, tmp_path / "again")
    uids = [pydicom.dcmread(folder / "synthetic-0001/label.dcm").SOPInstanceUID for folder in folders]
    assert uids[0] != uids[1]


def test_what_was_written_is_read_back_as_data(exported, pairs):
    check(exported)
    source = open_source(exported)
    assert source.about["labels"] == {"1": "liver", "2": "portal vein"} and source.about["modality"] == {"0": "MR"}
    found = {pair_of(pairs, nib.load(case.image), nib.load(case.label)) for case in source.cases}
    assert found == {path.name.removesuffix(".nii.gz") for path in (pairs / "imagesTr").iterdir()}


def pair_of(pairs: Path, image: nib.Nifti1Image, label: nib.Nifti1Image | None = None) -> str:
    """The name of the pair with these voxels in this place: a regime draws pairs in an order of its own."""
    (ours, affine), found = upright(image), []
    for path in sorted((pairs / "imagesTr").iterdir()):
        theirs, expected = upright(nib.load(path))
        if np.array_equal(ours, np.round(theirs * WHITE)) and np.abs(affine - expected).max() < 1e-4:
            found.append(path.name.removesuffix(".nii.gz"))
    (name,) = found
    if label:
        (ours, affine), (theirs, expected) = upright(label), upright(nib.load(pairs / f"labelsTr/{name}.nii.gz"))
        assert np.array_equal(ours, theirs) and np.abs(affine - expected).max() < 1e-4
    return name


def test_a_series_keeps_voxels_and_affine_however_it_lies(tmp_path):
    array = np.random.default_rng(0).integers(0, WHITE, (7, 6, 5)).astype(np.uint16)
    volume = hd.Volume.from_nibabel(nib.Nifti1Image(array, ASKEW)).to_patient_orientation("HPL")
    for number, dataset in enumerate(image_series(volume, "synthetic-0001", "CT")):
        dataset.save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
    (images,) = read_headers(tmp_path)[0].values()
    found, affine = upright(image_volume(images).to_nibabel())
    expected, truth = upright(nib.Nifti1Image(array, ASKEW))
    assert np.array_equal(found, expected) and np.abs(affine - truth).max() < 1e-4


@pytest.mark.skipif(shutil.which("dcm2niix") is None, reason="no dcm2niix; pip install dcm2niix")
def test_dcm2niix_reads_the_same_voxels_in_the_same_place(exported, pairs, tmp_path):
    done = subprocess.run(
        ["dcm2niix", "-o", tmp_path, "-f", "out", "-z", "n", exported / "synthetic-0001/image"], capture_output=True
    )
    assert done.returncode == 0, done.stdout
    assert pair_of(pairs, nib.load(tmp_path / "out.nii"))


@pytest.mark.skipif(shutil.which("segimage2itkimage") is None, reason="no segimage2itkimage; pip install dcmqi")
def test_dcmqi_reads_the_label_and_writes_it_again_as_it_was(exported, tmp_path):
    """Its SEG of what it read, laid beside the series in place of ours, is the same data to this package."""
    of_ours = open_source(exported)  # whose files are there as long as it is
    ours = nib.load(of_ours.cases[0].label)
    pair, series = exported / "synthetic-0001", tmp_path / "series"
    read = ["segimage2itkimage", "--inputDICOM", pair / "label.dcm", "--outputDirectory", tmp_path, "--mergeSegments"]
    done = subprocess.run([*read, "-t", "nii"], capture_output=True, text=True)
    assert done.returncode == 0 and "absent" not in done.stdout + done.stderr, done.stdout + done.stderr
    theirs = nib.load(tmp_path / "1.nii.gz")
    (found, affine), (expected, truth) = upright(theirs), upright(ours)
    start = np.linalg.solve(truth, affine[:, 3])[:3]  # it leaves out slices without a label
    assert np.abs(affine[:3, :3] - truth[:3, :3]).max() < 1e-4 and np.abs(start - np.round(start)).max() < 1e-4
    inside = tuple(slice(a, a + n) for a, n in zip(np.round(start).astype(int), found.shape, strict=True))
    assert np.array_equal(found, expected[inside]) and found.sum() == expected.sum()
    shutil.copytree(pair / "image", series / "image")
    write = ["itkimage2segimage", "--inputImageList", tmp_path / "1.nii.gz", "--inputDICOMDirectory", series / "image"]
    write += ["--inputMetadata", tmp_path / "meta.json", "--outputDICOM", series / "label.dcm"]
    subprocess.run(write, check=True, capture_output=True)
    source = open_source(series)
    again = nib.load(source.cases[0].label)
    assert np.array_equal(again.dataobj, ours.dataobj) and np.abs(again.affine - ours.affine).max() < 1e-4
    assert source.about["labels"] == {"1": "liver", "2": "portal vein"}


def test_highdicom_reads_the_segments_with_their_names(exported):
    seg = hd.seg.segread(exported / "synthetic-0001/label.dcm")
    names = [seg.get_segment_description(number).segment_label for number in seg.segment_numbers]
    assert names == ["liver", "portal vein"]
    image = [pydicom.dcmread(path) for path in (exported / "synthetic-0001/image").iterdir()]
    assert seg.FrameOfReferenceUID == image[0].FrameOfReferenceUID
    referred = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert {item.ReferencedSOPInstanceUID for item in referred} == {dataset.SOPInstanceUID for dataset in image}


def test_real_cases_are_not_written(tiny_dataset, pairs, tmp_path):
    for regime in ("R", "R+S", "S>R"):
        with pytest.raises(UserError, match="synthetic pairs alone"):
            export(str(tiny_dataset), str(tmp_path / "dicom"), str(pairs), regime, format="dicom")
    assert not list(tmp_path.iterdir())
