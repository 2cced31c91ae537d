"""Synthetic pairs as DICOM: for each a series of MR or CT images, and a segmentation object of its label.

PS3.3: A.4 (MR), A.3 (CT), A.51 (SEG). There is no patient: names, identifiers and UIDs are new, and each object says so
by Synthetic Data (0008,001C).
"""

import re
from datetime import datetime
from pathlib import Path

import nibabel as nib
import numpy as np

from lldm3d import __version__
from lldm3d.data.dataset import Schema, Task
from lldm3d.errors import UserError, needs_package
from lldm3d.export.nnunet import read_listed

WHITE = 2**15 - 1  # stored value of 1.0: 15 bits, which readers take alike with and without a sign
AXES = "HPL"  # slices go to the head, rows to the back, columns to the left: an axial series
MARKS = {"SpecificCharacterSet": "ISO_IR 192", "SyntheticData": "YES"}
MAKER = {"Manufacturer": "3D-LLDM", "ManufacturerModelName": "3D-LLDM", "SoftwareVersions": __version__}


def write_dicom(content: dict, schema: Schema, task: Task, folder: Path) -> None:
    """Write `synthetic-0001/image/*.dcm` and `synthetic-0001/label.dcm` for each training case of a regime without R.

    Cases are numbered, as the names of those with a warped label hold the name of its patient. They are CT where the
    data say so, else MR.

    Raises:
        UserError: where highdicom is missing, or a class has a name that DICOM cannot hold.
    """
    hd = needs_package("highdicom", "dicom")
    if odd := [name for name in task.class_names if len(name) > 64 or "\\" in name or not name.isprintable()]:
        raise UserError(f"the class {odd[0]!r}: DICOM holds names of at most 64 letters and signs but \\; rename it")
    kind = "CT" if re.search(r"\bCT\b", str(content.get("modality", "")), re.IGNORECASE) else "MR"
    for number, case in enumerate(content["training"], start=1):
        name = f"synthetic-{number:04d}"
        scan = read_listed(case, schema)
        label = np.array(task.targets, np.uint8)[scan.label]
        image, label = (
            hd.Volume.from_nibabel(nib.Nifti1Image(volume, scan.affine)).to_patient_orientation(AXES)
            for volume in (stored_values(scan.image), label)
        )
        slices = image_series(image, name, kind)
        (folder / name / "image").mkdir(parents=True)
        for index, dataset in enumerate(slices, start=1):
            dataset.save_as(folder / name / f"image/{index:04d}.dcm", enforce_file_format=True)
        segmentation(label.array, task, slices).save_as(folder / name / "label.dcm")


def stored_values(image: np.ndarray) -> np.ndarray:
    """An image as uint16 from 0 to `WHITE`: intensities of 0 to 1 as they are, any others by their own range."""
    low, high = min(float(image.min()), 0.0), max(float(image.max()), 1.0)
    return np.round((image - low) / (high - low) * WHITE).astype(np.uint16)


def image_series(volume, name: str, kind: str) -> list:
    """The datasets of the slices of a highdicom volume [slice, row, column] uint16, in one new study."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

    sop_class = CTImageStorage if kind == "CT" else MRImageStorage
    common = described(name) | of_modality(kind) | geometry(volume) | {"SOPClassUID": sop_class}
    slices = []
    for index, pixels in enumerate(volume.array):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        position = decimal_strings(volume.map_indices_to_reference(np.array([[index, 0, 0]]))[0])
        own = {"SOPInstanceUID": generate_uid(), "InstanceNumber": index + 1, "ImagePositionPatient": position}
        for keyword, value in (common | own).items():
            setattr(dataset, keyword, value)
        dataset.PixelData = pixels.astype("<u2").tobytes()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        slices.append(dataset)
    return slices


def described(name: str) -> dict:
    """Who and what: a subject that does not exist, and a study that was made now."""
    from pydicom.uid import generate_uid

    now = datetime.now()
    times = {f"{of}{key}": now.strftime(form) for of in ("Study", "Series", "Content")
             for key, form in (("Date", "%Y%m%d"), ("Time", "%H%M%S"))}  # fmt: skip
    uids = {f"{key}UID": generate_uid() for key in ("StudyInstance", "SeriesInstance", "FrameOfReference")}
    subject = {"PatientName": name.replace("-", "^"), "PatientID": name, "PatientBirthDate": "", "PatientSex": ""}
    study = {"StudyID": "", "AccessionNumber": "", "ReferringPhysicianName": "", "StudyDescription": "Synthetic data"}
    series = {"SeriesNumber": 1, "SeriesDescription": "Synthetic image by 3D-LLDM", "PositionReferenceIndicator": ""}
    return times | uids | subject | study | series | MAKER | MARKS


def of_modality(kind: str) -> dict:
    """What an image of MR or CT must say of how it was taken: nothing was."""
    common = {"Modality": kind, "ImageType": ["DERIVED", "PRIMARY", "AXIAL" if kind == "CT" else "OTHER"],
              "PatientPosition": "HFS", "AcquisitionNumber": "", "Laterality": ""}  # fmt: skip
    if kind == "CT":
        return common | {"KVP": None, "RescaleIntercept": 0, "RescaleSlope": 1, "RescaleType": "US"}
    taken = {"ScanningSequence": "RM", "SequenceVariant": "NONE", "ScanOptions": "", "MRAcquisitionType": "3D"}
    return common | taken | {"EchoTime": None, "EchoTrainLength": None, "RepetitionTime": None}


def geometry(volume) -> dict:
    """Size, place and pixel format that all slices of a highdicom volume share; lengths in mm."""
    spacing = volume.spacing
    return {
        **{"Rows": volume.shape[1], "Columns": volume.shape[2], "PixelSpacing": decimal_strings(spacing[1:])},
        **{"SliceThickness": decimal_strings(spacing[:1])[0], "SpacingBetweenSlices": decimal_strings(spacing[:1])[0]},
        "ImageOrientationPatient": decimal_strings([*volume.direction[:, 2], *volume.direction[:, 1]]),
        **{"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "PixelRepresentation": 0},
        **{"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15},
        **{"WindowCenter": (WHITE + 1) // 2, "WindowWidth": WHITE + 1},
    }


def decimal_strings(values) -> list:
    """Numbers as the decimal strings of DICOM hold them, in 16 characters."""
    from pydicom.valuerep import DSfloat

    return [DSfloat(float(value), auto_format=True) for value in values]


def segmentation(label: np.ndarray, task: Task, slices: list):
    """The SEG of a label map [slice, row, column] of the classes of a task, on the images of its series."""
    import highdicom as hd
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    made_by = hd.AlgorithmIdentificationSequence("3D-LLDM", codes.cid7162.ArtificialIntelligence, __version__)
    segments = [
        hd.seg.SegmentDescription(
            value, name, codes.SCT.Tissue, codes.SCT.Tissue, hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC, made_by
        )
        for value, name in enumerate(task.class_names)
        if value
    ]
    found = hd.seg.Segmentation(
        **{"source_images": slices, "pixel_array": label, "segment_descriptions": segments},
        **{"segmentation_type": hd.seg.SegmentationTypeValues.BINARY, "series_number": 2, "instance_number": 1},
        **{"series_instance_uid": generate_uid(), "sop_instance_uid": generate_uid(), "device_serial_number": "0"},
        **{"manufacturer": "3D-LLDM", "manufacturer_model_name": "3D-LLDM", "software_versions": __version__},
        content_description="Synthetic label by 3D-LLDM",
    )
    for keyword, value in {**MARKS, "ContentCreatorName": ""}.items():
        setattr(found, keyword, value)
    return found
