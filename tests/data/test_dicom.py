"""Reading labelled DICOM series: what becomes a case, that nothing of the patient goes on, and what is refused."""

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from lldm3d.data.checks import check
from lldm3d.data.dataset import Task, load_cases, load_schema
from lldm3d.data.dicom import filled
from lldm3d.data.prepare import prepare
from lldm3d.data.sources import open_source
from lldm3d.errors import UserError

hd = pytest.importorskip("highdicom", reason="pip install 'lldm3d[dicom]'")
pydicom = pytest.importorskip("pydicom")
from lldm3d.export.dicom import image_series, segmentation  # noqa: E402

SHAPE = (16, 24, 20)  # slices, rows, columns
LIVER, TUMOUR = (slice(4, 12), slice(6, 18), slice(5, 15)), (slice(6, 9), slice(8, 12), slice(7, 11))
AFFINE = np.array([[0, 0, 1.5, -40], [0.3, 1.5, 0, 12], [2.9, -0.155, 0, 7], [0, 0, 0, 1]])  # mm, a little oblique
IDENTIFIERS = {"PatientName": "Muster^Erika", "PatientBirthDate": "19640812", "AccessionNumber": "A-4711"}


def orthogonal(affine: np.ndarray) -> np.ndarray:
    """The affine with axes that are exactly at right angles."""
    q, r = np.linalg.qr(affine[:3, :3])
    found = affine.copy()
    found[:3, :3] = q * np.diag(r)
    return found


def label() -> np.ndarray:
    found = np.zeros(SHAPE, np.uint8)
    found[LIVER], found[TUMOUR] = 1, 2
    return found


def write_series(folder: Path, patient: str, seed: int, kind: str = "MR") -> list:
    """A series of a real patient, as a scanner writes it."""
    array = np.random.default_rng(seed).integers(0, 2000, SHAPE).astype(np.uint16)
    volume = hd.Volume(array=array, affine=orthogonal(AFFINE), coordinate_system="PATIENT")
    slices = image_series(volume, "x", kind)
    folder.mkdir(parents=True)
    for number, dataset in enumerate(slices):
        del dataset.SyntheticData
        for keyword, value in (IDENTIFIERS | {"PatientID": patient}).items():
            setattr(dataset, keyword, value)
        dataset.save_as(folder / f"IM{(7 * number) % SHAPE[0]:03d}", enforce_file_format=True)
    return slices


def write_seg(path: Path, slices: list, values: np.ndarray) -> None:
    task = Task("multi", ("background", "liver", "tumour"), (0, 1, 2), (), ())
    segmentation(values, task, slices).save_as(path)


def reference_to(image: "pydicom.Dataset") -> "pydicom.Dataset":
    found = pydicom.Dataset()
    found.ReferencedSOPClassUID, found.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    return found


def write_rtstruct(path: Path, slices: list, regions: dict[str, list[np.ndarray]]) -> None:
    """Contours [N, 3] (mm) of each region, on a series."""
    first, dataset = slices[0], pydicom.Dataset()
    series, study, frame = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    series.SeriesInstanceUID, study.RTReferencedSeriesSequence = first.SeriesInstanceUID, [series]
    series.ContourImageSequence = [reference_to(image) for image in slices]
    frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = first.FrameOfReferenceUID, [study]
    dataset.ReferencedFrameOfReferenceSequence = [frame]
    dataset.Modality, dataset.SeriesInstanceUID = "RTSTRUCT", pydicom.uid.generate_uid()
    dataset.SOPClassUID, dataset.SOPInstanceUID = pydicom.uid.RTStructureSetStorage, pydicom.uid.generate_uid()
    dataset.StructureSetROISequence, dataset.ROIContourSequence, dataset.RTROIObservationsSequence = [], [], []
    for number, (name, contours) in enumerate(regions.items(), start=1):
        roi, item = pydicom.Dataset(), pydicom.Dataset()
        roi.ROINumber = item.ReferencedROINumber = number
        roi.ROIName, item.ContourSequence = name, []
        for points in contours:
            contour = pydicom.Dataset()
            nearest = min(slices, key=lambda dataset: np.linalg.norm(points.mean(0) - dataset.ImagePositionPatient))
            contour.ContourImageSequence = [reference_to(nearest)]
            contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
            contour.ContourData = [f"{value:.9g}" for value in points.ravel()]
            item.ContourSequence.append(contour)
        dataset.StructureSetROISequence.append(roi)
        dataset.ROIContourSequence.append(item)
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)


def box(region: tuple[slice, ...]) -> list[np.ndarray]:
    """The contours (mm) round the voxels of a box: half a voxel outside the centres of its outermost ones."""
    (top, bottom), (left, right) = ((axis.start - 0.5, axis.stop - 0.5) for axis in region[1:])
    corners = [(top, left), (top, right), (bottom, right), (bottom, left)]
    affine = orthogonal(AFFINE)
    slices = range(region[0].start, region[0].stop)
    return [np.array([(k, *corner) for corner in corners]) @ affine[:3, :3].T + affine[:3, 3] for k in slices]


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three patients: one with two series, one with an RTSTRUCT; a series without a label, and files of other kinds."""
    folder = tmp_path / "Muster_Erika"
    for number, (patient, place) in enumerate([("P77", "a/1"), ("P77", "a/2"), ("P12", "b")]):
        write_seg(folder / f"{place}_label.dcm", write_series(folder / place, patient, number), label())
    slices = write_series(folder / "c", "P50", 3)
    write_rtstruct(folder / "c/RS", slices, {"tumour": box(TUMOUR), "liver": box(LIVER), "empty": []})
    write_series(folder / "d", "P99", 4)
    (folder / "notes.txt").write_text("not DICOM")
    return folder


def require_same(path: str, voxels: np.ndarray) -> None:
    """A NIfTI file holds the voxels, each where it was in DICOM."""
    expected = nib.Nifti1Image(voxels.astype(np.int32), np.diag([-1, -1, 1, 1]) @ orthogonal(AFFINE))
    found, expected = nib.as_closest_canonical(nib.load(path)), nib.as_closest_canonical(expected)
    assert np.array_equal(found.get_fdata(), expected.get_fdata())
    assert np.abs(found.affine - expected.affine).max() < 1e-4


def test_each_labelled_series_is_a_case_of_a_numbered_patient(folder, capsys):
    source = open_source(folder)
    assert "1 of 5 series have no label" in capsys.readouterr().out
    assert [(case.name, case.patient) for case in source.cases] == [
        ("patient_001_scan_1", "patient_001"),  # P12
        ("patient_002_scan_1", "patient_002"),  # P50
        ("patient_003_scan_1", "patient_003"),
        ("patient_003_scan_2", "patient_003"),
    ]
    assert source.about["labels"] == {"1": "empty", "2": "liver", "3": "tumour"}
    for case, seed in zip(source.cases, (2, 3, 0, 1), strict=True):
        require_same(case.label, np.array([0, 2, 3], np.uint8)[label()])  # of SEG and RTSTRUCT alike
        require_same(case.image, np.random.default_rng(seed).integers(0, 2000, SHAPE))


def test_nothing_of_a_patient_is_in_what_is_written(folder, tmp_path, capsys):
    prepare(tmp_path / "dataset", data=folder, roi_size=(16, 16, 16), split=(0.34, 0.33, 0.33))
    assert load_schema(tmp_path / "dataset").class_names == ("background", "empty", "liver", "tumour")
    splits = ("training", "validation", "test")
    assert sum(len(load_cases(tmp_path / "dataset", split)) for split in splits) == 4
    uids = [str(pydicom.dcmread(path).SeriesInstanceUID) for path in (folder / "b").iterdir()][:1]
    told = [*map(str, IDENTIFIERS.values()), "Muster", "P77", "P12", "P50", *uids]
    for path in (tmp_path / "dataset").rglob("*"):
        assert not [word for word in told if word in path.name]
        if path.is_file():
            content = path.read_bytes() if path.suffix == ".json" else nib.load(path).to_bytes()
            assert not [word for word in told if word.encode() in content], path


def test_ct_is_read_in_hounsfield_units(tmp_path):
    slices = write_series(tmp_path / "x/ct", "P1", 0, "CT")
    for path in (tmp_path / "x/ct").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.RescaleIntercept, dataset.RescaleSlope = -1024, 2
        dataset.save_as(path)
    write_seg(tmp_path / "x/label.dcm", slices, label())
    source = open_source(tmp_path / "x")
    raw = np.random.default_rng(0).integers(0, 2000, SHAPE)
    require_same(source.cases[0].image, 2 * raw - 1024)
    assert source.about["modality"] == {"0": "CT"}


def write_enhanced(path: Path, slices: list, series: str | None = None) -> "pydicom.Dataset":
    """Slices as one image of many frames, as highdicom converts them."""
    kind = {"MR": hd.legacy.LegacyConvertedEnhancedMRImage, "CT": hd.legacy.LegacyConvertedEnhancedCTImage}
    uids = [pydicom.uid.generate_uid() for _ in range(2)]
    image = kind[slices[0].Modality](slices, series or uids[0], 7, uids[1], 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save_as(path)
    return image


@pytest.mark.parametrize("kind", ["MR", "CT"])
def test_an_image_of_many_frames_is_read_like_slices(tmp_path, kind):
    slices = write_series(tmp_path / "slices", "P1", 0, kind)
    if kind == "CT":
        for number, dataset in enumerate(slices):
            dataset.RescaleIntercept, dataset.RescaleSlope = -1024 - number, 2  # of each frame another
    image = write_enhanced(tmp_path / "x/image.dcm", slices)
    write_seg(tmp_path / "x/label.dcm", [image], label()[::-1])  # frames go from the head to the feet
    source = open_source(tmp_path / "x")  # its files are there as long as it is
    raw = np.random.default_rng(0).integers(0, 2000, SHAPE)
    require_same(source.cases[0].image, raw if kind == "MR" else 2 * raw - 1024 - np.arange(SHAPE[0])[:, None, None])
    require_same(source.cases[0].label, label())


def write_two(path: Path, slices: list) -> None:
    uid = pydicom.uid.generate_uid()
    write_enhanced(path, slices[:8], uid)
    write_enhanced(path.with_name("other.dcm"), slices[8:], uid)


def write_placeless(path: Path, slices: list) -> None:
    image = write_enhanced(path, slices)
    for frame in image.PerFrameFunctionalGroupsSequence:
        del frame.PlanePositionSequence
    image.save_as(path)


FRAMES = {
    "a frame is missing": (lambda path, slices: write_enhanced(path, slices[:5] + slices[6:]), "frame .* 1 slices are"),
    "two phases": (lambda path, slices: write_enhanced(path, slices + again(slices)), "split series of several"),
    "two of one series": (write_two, "is one of 2 images with many frames"),
    "no place": (write_placeless, "does not say where its frames lie .*PlanePositionSequence"),
    "cut off": (lambda path, slices: (write_enhanced(path, slices), cut(path, -300)), "pixels cannot be read"),
}


def again(slices: list) -> list:
    """The slices of a second phase."""
    found = [pydicom.dcmread(pydicom.filebase.DicomBytesIO(encoded(dataset))) for dataset in slices]
    for dataset in found:
        dataset.SOPInstanceUID = pydicom.uid.generate_uid()
    return found


def encoded(dataset: "pydicom.Dataset") -> bytes:
    buffer = pydicom.filebase.DicomBytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.mark.parametrize("name", FRAMES)
def test_frames_that_are_no_volume_are_told(tmp_path, name):
    write, words = FRAMES[name]
    slices = write_series(tmp_path / "slices", "P1", 0)
    write(tmp_path / "x/image.dcm", slices)
    write_seg(tmp_path / "x/label.dcm", slices, label())
    seg, image = (pydicom.dcmread(tmp_path / "x" / name) for name in ("label.dcm", "image.dcm"))
    seg.ReferencedSeriesSequence[0].SeriesInstanceUID = image.SeriesInstanceUID
    seg.save_as(tmp_path / "x/label.dcm")
    with pytest.raises(UserError, match=words) as found:
        check(tmp_path / "x")
    assert "\n" not in str(found.value)


def test_a_tree_without_dicom_is_not_walked_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr("lldm3d.data.dicom.LOOKED_AT", 3)
    for number in range(9):
        (tmp_path / f"{number}.txt").touch()
    (tmp_path / "zz.dcm").touch()
    with pytest.raises(UserError, match="among its first 3 files, DICOM;"):
        open_source(tmp_path)


def files_of(folder: Path) -> list[Path]:
    """The slices of the one series, from feet to head."""
    paths = [path for path in (folder / "images").iterdir()]
    return sorted(paths, key=lambda path: pydicom.dcmread(path).InstanceNumber)


def cut(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])


def moved(path: Path, by: float) -> None:
    dataset = pydicom.dcmread(path)
    dataset.ImagePositionPatient = [*dataset.ImagePositionPatient[:2], dataset.ImagePositionPatient[2] + by]
    dataset.save_as(path)


def other_frame(path: Path) -> None:
    dataset = pydicom.dcmread(path)
    dataset.FrameOfReferenceUID = pydicom.uid.generate_uid()
    dataset.save_as(path)


def shifted(path: Path) -> None:
    """A SEG half a voxel beside its image."""
    dataset = pydicom.dcmread(path)
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        frame.PlanePositionSequence[0].ImagePositionPatient[0] += 0.75
    dataset.save_as(path)


def without(path: Path, keyword: str) -> None:
    """A SEG whose reference or segment lacks an entry."""
    dataset = pydicom.dcmread(path)
    del (dataset.ReferencedSeriesSequence if keyword.startswith("Series") else dataset.SegmentSequence)[0][keyword]
    dataset.save_as(path)


FAULTS = {
    "cut off": (
        lambda folder: cut(files_of(folder)[3], -300),
        "pixels cannot",
    ),
    "cut short": (
        lambda folder: cut(files_of(folder)[3], 400),
        "cannot be read",
    ),
    "a slice is missing": (lambda folder: files_of(folder)[5].unlink(), "1 slices are missing"),
    "varying distances": (lambda folder: moved(files_of(folder)[-1], 0.7), "slices are unevenly spaced"),
    "a slice twice": (
        lambda folder: shutil.copy(files_of(folder)[5], folder / "images/again"),
        "split series of several",
    ),
    "one slice": (lambda folder: [path.unlink() for path in files_of(folder)[1:]], "two slices or more"),
    "another frame": (lambda folder: other_frame(folder / "label.dcm"), "another frame of reference"),
    "no images": (lambda folder: shutil.rmtree(folder / "images"), "the series that this SEG refers to is not in"),
    "no labels": (lambda folder: (folder / "label.dcm").unlink(), "no series of images has a label"),
    "twice": (lambda folder: shutil.copy(folder / "label.dcm", folder / "b.dcm"), "'liver' is labelled a second time"),
    "a label cut off": (lambda folder: cut(folder / "label.dcm", -200), "not on the grid of its series, or broken"),
    "no series": (lambda folder: without(folder / "label.dcm", "SeriesInstanceUID"), "cannot be read as DICOM"),
    "no name": (lambda folder: without(folder / "label.dcm", "SegmentLabel"), "cannot be read as DICOM"),
    "another grid": (lambda folder: shifted(folder / "label.dcm"), "not on the grid of its series"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_cannot_be_a_labelled_volume_is_told(tmp_path, refusal, name):
    change, words = FAULTS[name]
    folder = tmp_path / "data"
    write_seg(folder / "label.dcm", write_series(folder / "images", "P1", 0), label())
    change(folder)
    assert words in refusal(folder)


@pytest.mark.parametrize(
    ("shift", "words"),
    [
        ((0, 0, 300), "lies outside its series"),
        ((300, 0, 0), "lies outside its series"),
        ((0, 0, 1.4), "must lie in one slice"),
    ],
)
def test_a_contour_outside_or_between_the_slices_is_told(tmp_path, refusal, shift, words):
    folder = tmp_path / "data"
    slices = write_series(folder / "images", "P1", 0)
    write_rtstruct(folder / "rs.dcm", slices, {"liver": [points + shift for points in box(LIVER)]})
    assert words in refusal(folder)


def disc(centre: tuple[float, float], radius: float, number: int = 0) -> np.ndarray:
    """A contour in voxels."""
    angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    return np.stack([np.full(200, number), centre[0] + radius * np.sin(angle), centre[1] + radius * np.cos(angle)], 1)


def test_contours_are_filled_by_the_centres_of_voxels_with_holes():
    contours = [disc((15.3, 20.7), 10), disc((15.3, 20.7), 4), disc((30, 40), 3.3, 2)]
    mask = filled(contours, np.eye(4), (3, 40, 50), "a contour")
    rows, columns = np.indices((40, 50))
    distance = np.hypot(rows - 15.3, columns - 20.7)
    assert np.array_equal(mask[0], (distance < 10) & (distance > 4))
    assert mask[2].sum() == np.count_nonzero(np.hypot(rows - 30, columns - 40) < 3.3) and not mask[1].any()
    whole = filled([disc((15.3, 20.7), 10)], np.eye(4), (1, 20, 30), "a contour")  # what is cut at the edge stays
    assert np.array_equal(whole[0], distance[:20, :30] < 10)


def test_contours_are_filled_as_another_reader_fills_them(tmp_path):
    """rt-utils rounds corners to pixels and takes them in: its regions are larger, by less than a voxel."""
    rt_utils = pytest.importorskip("rt_utils", reason="pip install rt-utils")
    slices = write_series(tmp_path / "images", "P1", 0)
    affine = orthogonal(AFFINE)
    contours = [disc((11, 9.5), 7, k) @ affine[:3, :3].T + affine[:3, 3] for k in range(3, 9)]
    write_rtstruct(tmp_path / "rs.dcm", slices, {"liver": contours})
    reader = rt_utils.RTStructBuilder.create_from(str(tmp_path / "images"), str(tmp_path / "rs.dcm"))
    theirs = np.moveaxis(reader.get_roi_mask_by_name("liver"), 2, 0)[:, :20, :20]  # it takes rows for columns
    ours = filled(contours, np.linalg.inv(affine), SHAPE, "a contour")[:, :20, :20]
    grown = np.stack([binary_dilation(mask, np.ones((3, 3))) for mask in ours])
    assert not (ours & ~theirs).any() and not (theirs & ~grown).any()
