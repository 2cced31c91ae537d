"""Finding labelled scans among DICOM files: series of MR, CT or PET images with SEG or RTSTRUCT objects.

They become NIfTI files of numbered patients, so that nothing that is written later can hold an identifier: the name of
no file, series or patient goes further. (PS3.3: C.7.6.2 for where slices lie, C.7.6.16 where those of enhanced images
do, A.51 SEG, C.8.8.6 contours.)
"""

import os
from collections.abc import Iterator
from itertools import count, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from skimage.draw import polygon2mask

from lldm3d.data.dataset import Case
from lldm3d.errors import UserError, needs_package
from lldm3d.files import save_nifti

MAGIC = b"DICM"  # at byte 128
IMAGES, LABELS = ("MR", "CT", "PT"), ("SEG", "RTSTRUCT")  # modalities
LOOKED_AT = 10_000  # files of a folder without DICOM, until it is taken for one
GAP_TOLERANCE = 0.01  # of the distance between slices
PLANE_TOLERANCE = 0.25  # of that distance: how far a contour may lie from its slice
TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM's axes go to the left and back

Headers = dict[Path, Any]  # the pydicom datasets of files, without pixels


def dicom_files(folder: Path) -> Iterator[Path]:
    """The DICOM files in a folder and those below it, hidden ones and directories of media left out."""
    yield from filter(is_dicom, files_below(folder))


def files_below(folder: Path) -> Iterator[Path]:
    """The files in a folder, then those in the folders below it, in order, as they are found; hidden ones left out."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(files) if not name.startswith("."))


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its first bytes or its name. Raises UserError where it cannot be read."""
    if not path.is_file() or path.name == "DICOMDIR":  # a pipe would be read for ever
        return False
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == MAGIC or path.suffix.lower() == ".dcm"
    except OSError as error:  # left out, it might be a slice
        raise UserError(f"{path}: cannot be read ({error.strerror}); make it readable, or move it away") from None


def holds_dicom(folder: Path) -> bool:
    """Whether one of the first files below a folder is DICOM: a home folder, or a whole disk, has millions."""
    return any(map(is_dicom, islice(files_below(folder), LOOKED_AT)))


def dicom_cases(folder: Path, target: Path) -> tuple[list[Case], dict]:
    """Write each labelled series to `target` as NIfTI; the cases, and their classes and modality as a dataset.json has.

    A class is the name of a segment or structure, its value the rank of the name among all. Where structures overlap,
    the smaller lies over the larger. Patients are numbered in the order of their Patient ID, and so are their series.

    Raises:
        UserError: where a package is missing, a file is broken, slices of a series are missing or unevenly spaced, a
            label belongs to no series or lies elsewhere, or no series has one.
    """
    needs_package("highdicom", "dicom")
    series, objects = read_headers(folder)
    labelled: dict[str, Headers] = {}
    for path, header in objects.items():
        labelled.setdefault(series_of(path, header, series), {})[path] = header
    if not labelled:
        raise UserError(f"{folder}: no series of images has a label; DICOM needs a SEG or RTSTRUCT that refers to one")
    if len(series) > len(labelled):
        print(f"{folder}: {len(series) - len(labelled)} of {len(series)} series have no label and are left out")
    names = sorted({name for headers in labelled.values() for h in headers.values() for name in structures(h).values()})
    values = {name: value for value, name in enumerate(names, start=1)}
    patients = sorted({patient_of(series[uid]) for uid in labelled})
    counts, cases = {patient: count(1) for patient in patients}, []
    for uid in sorted(labelled, key=lambda uid: (patient_of(series[uid]), next(iter(series[uid])))):
        of = patient_of(series[uid])
        patient = f"patient_{patients.index(of) + 1:03d}"
        name = f"{patient}_scan_{next(counts[of])}"
        paths = [str(target / kind / f"{name}.nii.gz") for kind in ("images", "labels")]
        volume = image_volume(series[uid])
        label = label_volume(labelled[uid], volume, values)
        for path, voxels in zip(paths, (volume.array.astype(np.float32), label), strict=True):
            save_nifti(path, voxels, TO_RAS @ volume.affine)
        cases.append(Case(name, *paths, patient))
    modality = "/".join(sorted({next(iter(series[uid].values())).Modality for uid in labelled}))
    labels = {str(value): name for name, value in values.items()}
    return cases, {"name": "DICOM", "modality": {"0": modality}, "labels": labels}


def read_headers(folder: Path) -> tuple[dict[str, Headers], Headers]:
    """The images of each series by its UID, and the labels. Raises UserError where a file cannot be read."""
    import pydicom

    series: dict[str, Headers] = {}
    labels: Headers = {}
    for path in dicom_files(folder):
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
            modality, uid = header.Modality, str(header.SeriesInstanceUID)
            if modality in LABELS:  # what is read of them later
                structures(header), frame_of(header), list(referred_series(header))
            elif modality in IMAGES:
                patient_of({path: header}), frame_of(header)
        except Exception as error:  # of each kind of damage another
            raise UserError(f"{path}: cannot be read as DICOM ({error}); copy the file again") from None
        if modality in LABELS:
            labels[path] = header
        elif modality in IMAGES:
            series.setdefault(uid, {})[path] = header
    return series, labels


def patient_of(images: Headers) -> str:
    """Who a series is of, to tell patients apart: the Patient ID, and of files without one the study."""
    header = next(iter(images.values()))
    return str(header.get("PatientID") or header.StudyInstanceUID)


def series_of(path: Path, header: Any, series: dict[str, Headers]) -> str:
    """The series that a label refers to, or else the only one in its frame of reference.

    Raises UserError where there is none, or it lies in another frame.
    """
    found = [uid for uid in referred_series(header) if uid in series]
    frame = frame_of(header)
    beside = [uid for uid, images in series.items() if frame and frame_of(next(iter(images.values()))) == frame]
    if not found and len(beside) != 1:
        raise UserError(
            f"{path}: the series that this {header.Modality} refers to is not in the folder, and {len(beside)} series "
            "have its frame of reference; add the series or remove the label"
        )
    uid = found[0] if found else beside[0]
    if frame and uid not in beside:
        raise UserError(
            f"{path}: this {header.Modality} has another frame of reference than the series it refers to, such as "
            f"{next(iter(series[uid]))}; a label must have been drawn on its image, or be resampled to it"
        )
    return uid


def referred_series(header: Any) -> Iterator[str]:
    """The UIDs of the series that a SEG or RTSTRUCT names."""
    for item in header.get("ReferencedSeriesSequence", ()):
        yield str(item.SeriesInstanceUID)
    for frame in header.get("ReferencedFrameOfReferenceSequence", ()):
        for study in frame.get("RTReferencedStudySequence", ()):
            for item in study.get("RTReferencedSeriesSequence", ()):
                yield str(item.SeriesInstanceUID)


def frame_of(header: Any) -> str:
    """The frame of reference of an image or label; an RTSTRUCT names it with what it refers to."""
    frames = header.get("ReferencedFrameOfReferenceSequence") or [header]
    return str(frames[0].get("FrameOfReferenceUID", ""))


def structures(header: Any) -> dict[int, str]:
    """{number: name} of the segments of a SEG, or of the regions of an RTSTRUCT."""
    segments = {int(item.SegmentNumber): str(item.SegmentLabel) for item in header.get("SegmentSequence", ())}
    regions = {int(item.ROINumber): str(item.ROIName) for item in header.get("StructureSetROISequence", ())}
    return segments | regions


def image_volume(images: Headers) -> Any:
    """The highdicom volume [slice, row, column] of a series, in the units of its modality.

    Raises UserError where a file is cut off, or its slices are no regular stack.
    """
    import highdicom as hd
    import pydicom

    first, header = next(iter(images.items()))
    if any(map(is_enhanced, images.values())) and len(images) > 1:
        raise UserError(f"{first}: is one of {len(images)} images with many frames of its series; give each a series")
    require_stack(first, [frame for path, header in images.items() for frame in frames_of(path, header)])
    slices = []
    for path in images:
        try:
            slices.append(pydicom.dcmread(path))
            _ = slices[-1].pixel_array  # kept by the dataset
        except Exception as error:
            raise UserError(f"{path}: its pixels cannot be read ({error}); copy the file again") from None
    options = {"dtype": np.float64, "rtol": GAP_TOLERANCE, "apply_presentation_lut": False}
    try:
        if is_enhanced(header):
            return hd.Image.from_dataset(slices[0], copy=False).get_volume(**options)
        return hd.get_volume_from_series(slices, **options)
    except (ValueError, AttributeError, TypeError, RuntimeError) as error:
        raise UserError(f"{first}: its series of {len(images)} images is no volume ({error})") from None


def is_enhanced(header: Any) -> bool:
    """Whether an image holds all frames of a volume, with what is of each (C.7.6.16)."""
    return "PerFrameFunctionalGroupsSequence" in header


def frames_of(path: Path, header: Any) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, orientation [6] and position [3] in mm of each frame of an image: of a slice the one that it is.

    Raises UserError where it does not say where its frames lie.
    """
    try:
        if not is_enhanced(header):
            if header.get("NumberOfFrames", 1) > 1:
                raise AttributeError(f"{header.NumberOfFrames} frames, and none says where it lies")
            found = header.ImageOrientationPatient, header.ImagePositionPatient
            yield str(path), *(np.array(values, float) for values in found)
            return
        shared = header.SharedFunctionalGroupsSequence[0]
        for number, own in enumerate(header.PerFrameFunctionalGroupsSequence, start=1):
            orientation, position = (
                getattr(own if name in own else shared, name)[0]
                for name in ("PlaneOrientationSequence", "PlanePositionSequence")
            )
            found = orientation.ImageOrientationPatient, position.ImagePositionPatient
            yield f"frame {number} of {path}", *(np.array(values, float) for values in found)
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: does not say where its frames lie ({error}); convert it to NIfTI for --images and --labels"
        ) from None


def require_stack(first: Path, frames: list[tuple[str, np.ndarray, np.ndarray]]) -> None:
    """Raise UserError where slices of a series are missing, double, or unevenly spaced.

    Args:
        first: of the files of the series.
        frames: name, orientation and position of each.
    """
    row, column = frames[0][1].reshape(2, 3)
    normal = np.cross(row, column)
    places = sorted((float(normal @ position), name) for name, _, position in frames)
    gaps = np.diff([place for place, _ in places])
    if len(places) < 2:
        raise UserError(f"{first}: is the only image of its series; a volume needs two slices or more")
    usual = float(np.median(gaps))
    for gap, (_, below), (_, above) in ((gap, *pair) for gap, pair in zip(gaps, pairwise(places), strict=True)):
        if gap < GAP_TOLERANCE:
            raise UserError(f"{above}: lies where {below} lies; split series of several phases, or remove one of them")
        if abs(gap - usual) > GAP_TOLERANCE * usual:
            missing = round(gap / usual) - 1
            fault = f"{missing} slices are missing" if missing > 0 else "slices are unevenly spaced"
            raise UserError(
                f"{above}: lies {gap:.3f} mm after {below}, other slices of the series {usual:.3f} mm: {fault}; add "
                "them, or remove the series"
            )


def label_volume(labels: Headers, volume: Any, values: dict[str, int]) -> np.ndarray:
    """The label map [slice, row, column] of all structures of a series, large ones below small ones.

    Raises UserError where a structure stands there twice, or lies elsewhere than the image.
    """
    masks: dict[str, np.ndarray] = {}
    for path, header in labels.items():
        found = segment_masks(path, volume) if header.Modality == "SEG" else region_masks(path, header, volume)
        for name, mask in found:
            if name in masks:
                raise UserError(f"{path}: {name!r} is labelled a second time in its series; keep one of them")
            masks[name] = mask
    label = np.zeros(volume.spatial_shape, np.uint8 if len(values) < 256 else np.uint16)
    for name in sorted(masks, key=lambda name: -np.count_nonzero(masks[name])):
        label[masks[name]] = values[name]
    return label


def segment_masks(path: Path, volume: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Name and mask of each segment of a SEG; of probabilities what is above a half."""
    import highdicom as hd

    try:
        seg = hd.seg.segread(path)
        for number, name in structures(seg).items():
            found = seg.get_volume(segment_numbers=[number]).match_geometry(volume)
            yield name, found.array[..., 0] > 0.5
    except (RuntimeError, ValueError, AttributeError, OSError) as error:
        raise UserError(f"{path}: this SEG is not on the grid of its series, or broken ({error})") from None


def region_masks(path: Path, header: Any, volume: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Name and mask of each region of an RTSTRUCT that has closed contours."""
    for name, contours in closed_contours(path, header):
        yield name, filled(contours, volume.inverse_affine, volume.spatial_shape, f"{path}: a contour of {name!r}")


def closed_contours(path: Path, header: Any) -> list[tuple[str, list[np.ndarray]]]:
    """Name of each region of an RTSTRUCT, and the corners [N, 3] in mm of its closed contours.

    Raises UserError where it is broken.
    """
    names, found = structures(header), []
    try:
        for item in header.get("ROIContourSequence", ()):
            closed = [one for one in item.get("ContourSequence", ()) if one.ContourGeometricType == "CLOSED_PLANAR"]
            corners = [np.array(one.ContourData, float).reshape(-1, 3) for one in closed]
            found += [(names[int(item.ReferencedROINumber)], corners)] if closed else []
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: this RTSTRUCT is broken ({error!r}); write it again") from None
    return found


def filled(contours: list[np.ndarray], to_index: np.ndarray, shape: tuple[int, int, int], what: str) -> np.ndarray:
    """The mask [slice, row, column] of the voxels whose centres lie within contours.

    A contour within another one of its slice cuts a hole (C.8.8.6.3): what an even number of them holds is outside.
    Own code, as rt-utils rounds the corners to pixels, by which its regions grow by half a voxel on all sides.

    Args:
        contours: corners [N, 3] in mm.
        to_index: from mm to indices of the volume, [4, 4].
        what: what messages call the contour.

    Raises:
        UserError: where a contour is oblique to the slices, lies between them or outside.
    """
    mask = np.zeros(shape, bool)
    for contour in contours:
        index = contour @ to_index[:3, :3].T + to_index[:3, 3]
        number = round(index[:, 0].mean())
        corners = index[:, 1:]
        if not 0 <= number < shape[0] or (corners.max(0) < -0.5).any() or (corners.min(0) > np.array(shape[1:])).any():
            raise UserError(f"{what} lies outside its series; a region must lie within the image it was drawn on")
        if np.abs(index[:, 0] - number).max() > PLANE_TOLERANCE:
            low, high = index[:, 0].min(), index[:, 0].max()
            raise UserError(f"{what} spans the slices {low:.2f} to {high:.2f} of its series; it must lie in one slice")
        mask[number] ^= polygon2mask(shape[1:], corners)
    return mask
