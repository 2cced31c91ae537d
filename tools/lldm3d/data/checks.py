"""Finding every faulty case of a data set before any long work starts."""

import hashlib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np

from lldm3d.data.dataset import Case, load_schema, stem
from lldm3d.data.label_map import MAX_VALUE, LabelMap, load_label_map
from lldm3d.data.sources import Source, open_source
from lldm3d.data.volumes import RAS, bounding_box, corners_apart, header_note, load_volume, spacing_of, turn
from lldm3d.errors import UserError
from lldm3d.processes import in_processes


@dataclass
class CaseRecord:
    """What is kept of a case once it is read: size (voxels), spacing (mm), values and box of the label."""

    faults: list[str]
    size: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    values: tuple[int, ...] = ()
    labelled: tuple[int, ...] = (0, 0, 0)
    range: tuple[float, float] = (0.0, 1.0)  # of the image
    crowded: bool = False  # whether nearly all of the image's values lie in the lowest twentieth of their range
    digest: str = ""  # of the image's voxels
    notes: tuple[str, ...] = ()  # what its headers leave open
    stored: tuple[int, ...] = (0, 1, 2)  # of each axis as it is stored, the thick one last, the axis in RAS

    def as_stored(self) -> "CaseRecord":
        """The record of the case along the axes in which it is stored, the thick one last, instead of RAS."""
        kept = {key: tuple(getattr(self, key)[axis] for axis in self.stored) for key in ("size", "spacing", "labelled")}
        return replace(self, **kept)


def check(
    data: str | Path | None = None,
    images: str | Path | None = None,
    labels: str | Path | None = None,
    label_map: str | Path | dict | None = None,
    channel: int | None = None,
    patient_pattern: str | None = None,
) -> None:
    """Print that the data have no faults, or all faults, one on each line (exit status 2).

    Args:
        data: a Decathlon, nnU-Net raw, BIDS, DICOM or prepared folder; or instead
        images: a folder of NIfTI images (or one file), with
        labels: a folder of labels with the same names (or one file).
        label_map: YAML file or mapping of class names to values of the data; default: the labels of dataset.json.
        channel: which channel of images that have several, from 0.
        patient_pattern: regular expression that finds the patient in a case's name, if dataset.json names none.

    Raises:
        UserError: with all faults, or where there is no data set at all.
    """
    source = open_source(data, images, labels, channel, patient_pattern)
    if faults := faults_of(source, label_map, channel):
        raise UserError(f"{source.path}: {len(faults)} faults\n" + "\n".join(faults))
    print(f"{source.path}: {len(source.cases)} cases without faults")


def faults_of(source: Source, label_map: str | Path | dict | None = None, channel: int | None = None) -> list[str]:
    """All faults of a Decathlon, nnU-Net raw or prepared data set, each naming its file; empty when there are none."""
    mapping = load_label_map(label_map, source.about, source.path)
    records = read_cases(source.cases, mapping, channel)
    faults = [fault for record in records for fault in record.faults]
    if source.about.get("split_by") != "case":
        faults += split_faults(source.cases) + twin_faults(source.cases, records)
    return faults + (prepared_faults(source.path, source.cases, records) if "roi_size" in source.about else [])


def read_cases(cases: list[Case], label_map: LabelMap, channel: int | None = None) -> list[CaseRecord]:
    """Read and check every case; printed are what headers leave open, classes that none has, and values left out."""
    records = list(in_processes(partial(read_record, label_map=label_map, channel=channel), cases, "checking"))
    if notes := [note for record in records for note in record.notes]:
        print(notes[0] + (f" (and {len(notes) - 1} more files of the kind)" if notes[1:] else ""))
    if values := {value for record in records for value in record.values}:
        if absent := [name for name, group in label_map.classes.items() if not values.intersection(group)]:
            print(f"classes that no case has: {', '.join(absent)}")
        if dropped := sorted(values - label_map.named - {0} - set(label_map.unknown(values))):
            words = "values of the data, they become background"
            print(f"the label map leaves out {len(dropped)} {words}: {dropped}")
    return records


def read_record(case: Case, label_map: LabelMap, channel: int | None = None) -> CaseRecord:
    """Read one case and list its faults."""
    found = CaseRecord(faults=[])
    image = _load(case.image, found.faults, channel)
    label = _load(case.label, found.faults, axes=image[1] if image else RAS) if case.label else None
    if image and channel and len(shape := nib.load(case.image).shape) < 4 and not numbered(case.image, channel):
        found.faults.append(f"{case.image}: has one channel, {shape} voxels; leave out --channel {channel}")
    if image:
        found.range = image[0].min(), image[0].max()
        faults = image_faults(case.image, image[0], found.range)
        found.faults += faults
        found.size, found.spacing = image[0].shape, spacing_of(image[1])
        low, high = map(float, found.range)
        found.crowded = bool(np.quantile(image[0].ravel("K")[::16], 0.99) < low + (high - low) / 20)
        affine = nib.load(case.image).affine
        found.stored = tuple(turn(affine, RAS)[np.argsort(turn(affine, None)[:, 0]), 0].astype(int).tolist())
        found.digest = "" if faults else f"{found.size} {hashlib.blake2b(image[0].tobytes('F')).hexdigest()}"
    if label:
        found.values = label_values(case.label, label[0], found.faults)
        found.faults += label_faults(case.label, found.values, label_map)
        if label_map.named.intersection(found.values):
            low, high = bounding_box(label_map.apply(label[0]) > 0)
            found.labelled = tuple((high - low).tolist())
    if image and label:
        found.faults += pair_faults(case, image, label)
        found.notes = tuple(f"{path}: {note}" for path in (case.image, case.label) if (note := header_note(path)))
    return found


def numbered(path: str, channel: int) -> bool:
    """Whether a file is that of a channel, as nnU-Net names it."""
    return stem(path).endswith(f"_{channel:04d}")


def _load(
    path: Path, faults: list[str], channel: int | None = None, axes: np.ndarray = RAS
) -> tuple[np.ndarray, np.ndarray] | None:
    try:
        return load_volume(path, channel, axes)
    except UserError as error:
        faults.append(str(error))
        return None


def image_faults(path: Path, image: np.ndarray, extremes: tuple[float, float]) -> list[str]:
    """NaN, infinite, constant or impossible values."""
    low, high = extremes
    if not np.isfinite(extremes).all():
        wrong = image.size - np.count_nonzero(np.isfinite(image))
        return [f"{path}: {wrong} voxels are NaN or infinite; all must be finite"]
    if max(-low, high) > np.finfo(np.float32).max:
        return [f"{path}: values from {low:g} to {high:g}, which no scanner gives; write it anew"]
    return [f"{path}: every voxel is {low}; a constant image cannot be scaled"] if low == high else []


def label_values(path: Path, label: np.ndarray, faults: list[str]) -> tuple[int, ...]:
    """The values of a label in order; a fault and no values where they are not whole numbers from 0 to MAX_VALUE."""
    whole = label.min() >= 0 and label.max() <= MAX_VALUE  # false where a value is NaN
    if not whole or (label.dtype.kind == "f" and (label % 1).any()):
        examples = np.unique(label[~((label >= 0) & (label <= MAX_VALUE) & (label % 1 == 0))])[:5].tolist()
        faults.append(f"{path}: label values {examples} are not whole numbers from 0 to {MAX_VALUE}")
        return ()
    return tuple(int(value) for value in np.flatnonzero(np.bincount(label.astype(np.int64).ravel(order="K"))))


def label_faults(path: Path, values: tuple[int, ...], label_map: LabelMap) -> list[str]:
    """Values outside the label map, and labels without any class."""
    if unknown := label_map.unknown(values):
        allowed = {name: list(group) for name, group in label_map.classes.items()}
        return [f"{path}: the label values {unknown} are not in the label map {allowed}"]
    if values and not label_map.named.intersection(values):
        return [f"{path}: the label is empty: values {list(values)}, the classes are {sorted(label_map.named)}"]
    return []


def pair_faults(case: Case, image: tuple, label: tuple) -> list[str]:
    """Image and label must have one shape and lie in one place, to a tenth of a voxel at each corner."""
    if image[0].shape != label[0].shape:
        return [f"{case.label}: label shape {label[0].shape} differs from image shape {image[0].shape} of {case.image}"]
    distance, allowed = corners_apart(image[0].shape, image[1], label[1]), 0.1 * min(spacing_of(image[1]))
    fault = f"{case.label}: the affine differs from that of {case.image}: corners lie {distance:.2f} mm apart"
    return [f"{fault}, allowed are {allowed:.2f} mm"] if distance > allowed else []


def split_faults(cases: list[Case]) -> list[str]:
    """Patients with cases in more than one split."""
    splits: dict[str, set[str]] = {}
    for case in cases:
        splits.setdefault(case.patient, set()).add(case.split)
    crossed = {patient: ", ".join(sorted(names)) for patient, names in splits.items() if len(names) > 1}
    return [
        f"patient {patient}: in the splits {names}; a patient may be in one only" for patient, names in crossed.items()
    ]


def twin_faults(cases: list[Case], records: list[CaseRecord]) -> list[str]:
    """Scans that are filed under two patients, voxel for voxel: one may be learnt from, the other be tested on."""
    first: dict[str, Case] = {}
    faults = []
    for case, record in zip(cases, records, strict=True):
        other = first.setdefault(record.digest, case)
        if record.digest and other.patient != case.patient:
            faults.append(
                f"{case.image}: is the same scan as {other.image}, of another patient ({case.patient}, {other.patient})"
                "; keep one of them, or give both one patient (--patient_pattern, or `patient` in dataset.json)"
            )
    return faults


def unlabelled_faults(cases: list[Case], held_out: set[str], names: set[str]) -> list[str]:
    """Scans without labels that show a patient of the validation or test cases, or bear the name of a labelled case.

    Args:
        held_out: patients of the validation and test cases.
        names: of the labelled cases.
    """
    reasons = {
        case.image: f"its patient {case.patient} is in the validation or test cases, which nothing may learn from"
        if case.patient in held_out
        else "is named as a labelled case"
        for case in cases
        if case.patient in held_out or case.name in names
    }
    return [f"{image}: {reason}; remove it from --unlabelled" for image, reason in reasons.items()]


def prepared_faults(dataset_dir: Path, cases: list[Case], records: list[CaseRecord]) -> list[str]:
    """Volumes of a prepared data set whose size is not roi_size or whose image leaves [0, 1]."""
    schema, faults = load_schema(dataset_dir), []
    roi_size = schema.roi_size
    for case, found in zip(cases, records, strict=True):
        found = found.as_stored() if schema.orientation == "stored" else found
        if found.size and found.size != roi_size:
            faults.append(f"{case.image}: the shape {found.size} is not the roi_size {roi_size} of dataset.json")
        low, high = found.range
        if low < 0 or high > 1:
            faults.append(f"{case.image}: values from {low:g} to {high:g}; [0, 1] is allowed")
    return faults
