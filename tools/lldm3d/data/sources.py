"""Finding the cases of a user's data: Decathlon, nnU-Net, BIDS and DICOM folders, or images and labels by name."""

import re
import reprlib
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from lldm3d.data import bids, dicom
from lldm3d.data.dataset import ENDINGS, SPLITS, Case, read_description, stem
from lldm3d.errors import UserError

UNWRITABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # control characters, and bytes that are not UTF-8


@dataclass(frozen=True)
class Source:
    """The labelled cases of a data set; `about` is its dataset.json (empty without one)."""

    path: Path
    cases: list[Case]
    about: dict
    converted: TemporaryDirectory | None = None  # where files lie that were no NIfTI, as long as this lives


def open_source(
    data: str | Path | None = None,
    images: str | Path | None = None,
    labels: str | Path | None = None,
    channel: int | None = None,
    patient_pattern: str | None = None,
) -> Source:
    """List the labelled cases of `data` (a folder), or of `images` and `labels` (folders or files).

    A case's patient is the "patient" of its entry in dataset.json, else what `patient_pattern` (a regular expression,
    its first group if it has one) finds in the case's name, else the name; of BIDS it is the `sub-`. Raises UserError
    where no case is found.
    """
    if (data is None) == (images is None and labels is None) or (images is None) != (labels is None):
        raise UserError("give either --data FOLDER, or both --images and --labels (two folders, or two files)")
    source = _folder(Path(data), channel) if data is not None else _pairs(Path(images), Path(labels))
    if not source.cases:
        raise UserError(f"{source.path}: no labelled case found; a case is an image and a label, both .nii.gz or .nii")
    names = [case.name for case in source.cases]
    if odd := [name for name in names if UNWRITABLE.search(name)]:
        raise UserError(f"{source.path}: the case {odd[0]!r} has a name that no table can hold; rename its files")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{source.path}: cases listed more than once: {', '.join(twice[:20])}; list each once")
    alike = {name.casefold(): name for name in names}
    if near := [(name, alike[name.casefold()]) for name in names if alike[name.casefold()] != name]:
        raise UserError(
            f"{source.path}: the cases {near[0][0]!r} and {near[0][1]!r} differ in capitals alone, which not every "
            "disk keeps apart; rename one"
        )
    cases = [replace(case, patient=case.patient or _patient(case.name, patient_pattern)) for case in source.cases]
    return replace(source, cases=cases)


def _folder(folder: Path, channel: int | None) -> Source:
    if not (folder / "dataset.json").is_file():
        if (folder / bids.DESCRIPTION).is_file():
            return Source(folder, *bids.bids_cases(folder))
        if dicom.holds_dicom(folder):
            converted = TemporaryDirectory(prefix="lldm3d-dicom-")
            return Source(folder, *dicom.dicom_cases(folder, Path(converted.name)), converted)
        raise UserError(
            f"{folder}: holds no dataset.json, {bids.DESCRIPTION} or, among its first {dicom.LOOKED_AT} files, DICOM; "
            "--data takes a Decathlon, nnU-Net raw, BIDS or DICOM folder, for others give --images, --labels and "
            "--label_map"
        )
    about = read_description(folder / "dataset.json")
    if "training" in about:
        return Source(folder, _decathlon(folder, about, channel), about)
    if "file_ending" in about or "channel_names" in about:
        return Source(folder, _nnunet(folder, about, channel), about)
    raise UserError(f'{folder / "dataset.json"}: has neither "training" (Decathlon) nor "file_ending" (nnU-Net)')


def raw_case(image: Path, label: Path, patient: str = "", split: str = "training", name: str | None = None) -> Case:
    """A case that bears the name of its label, unless it is given one."""
    return Case(name or stem(label), str(image.absolute()), str(label.absolute()), patient, split)


def _decathlon(folder: Path, about: dict, channel: int | None) -> list[Case]:
    """The entries with a label of all splits; a "test" list of bare image names has none."""
    cases, where = [], folder / "dataset.json"
    for split in SPLITS:
        entries = about.get(split) or []
        if not isinstance(entries, list):
            raise UserError(f"{where}: {split} holds {entries!r}, but a list of cases is needed")
        for entry in entries:
            if isinstance(entry, dict) and "label" in entry:
                if not all(isinstance(entry.get(key), str) and "\0" not in entry[key] for key in ("image", "label")):
                    raise UserError(f'{where}: {entry} in {split}: "image" and "label" must be one file each')
                image = _with_channel(_listed(folder, entry["image"]), about.get("modality"), channel)
                label = _listed(folder, entry["label"])
                cases.append(raw_case(image, label, _named_patient(entry, where), split))
            elif split == "training":
                raise UserError(
                    f'{where}: {reprlib.repr(entry)} in training: each needs an "image" and a "label"; remove it'
                )
    return cases


def _named_patient(entry: dict, where: Path) -> str:
    """The patient of an entry, "" where it names none: null, or NaN as pandas writes it."""
    patient = entry.get("patient")
    if patient is None or patient != patient:
        return ""
    if isinstance(patient, bool) or not isinstance(patient, str | int | float):
        raise UserError(f"{where}: the patient {patient!r} of {entry['image']} is neither a name nor a number")
    return str(patient)


def _listed(folder: Path, name: str) -> Path:
    """A file as dataset.json lists it, also as Windows writes paths."""
    path = folder / name
    return path if path.exists() or "\\" not in name else folder / name.replace("\\", "/")


def _with_channel(image: Path, modality: object, channel: int | None) -> Path:
    """The first nnU-Net format lists `a.nii.gz` for the file `a_0000.nii.gz`, and one more for each other channel."""
    numbered = image.with_name(f"{stem(image)}_{channel or 0:04d}{image.name.removeprefix(stem(image))}")
    if image.exists() or not numbered.exists():
        return image
    if isinstance(modality, dict) and len(modality) > 1 and channel is None:
        raise UserError(f"{image.parent}: the images have the channels {modality}; choose one with --channel NUMBER")
    return numbered


def _nnunet(folder: Path, about: dict, channel: int | None) -> list[Case]:
    ending = about.get("file_ending", ".nii.gz")
    if ending not in ENDINGS:
        raise UserError(f"{folder}: file_ending {ending!r} cannot be read, only {' and '.join(ENDINGS)}")
    channels = about.get("channel_names") or {"0": "image"}
    if isinstance(channels, str):  # one channel, as some write it
        channels = {"0": channels}
    if not isinstance(channels, dict | list):
        raise UserError(f'{folder}/dataset.json: channel_names is {channels!r}; write it as {{"0": "MRI"}}')
    if len(channels) > 1 and channel is None:
        raise UserError(f"{folder}: the images have the channels {channels}; choose one with --channel NUMBER")
    labels = [path for path in scan_files(folder / "labelsTr").values() if path.name.endswith(ending)]
    number = (channel or 0) if len(channels) > 1 else 0  # of the file; one of 4D holds all channels
    images = [folder / "imagesTr" / f"{stem(label)}_{number:04d}{ending}" for label in labels]
    known = {stem(label) for label in labels}
    if alone := [path.name for path in scan_files(folder / "imagesTr").values() if stem(path)[:-5] not in known]:
        raise UserError(f"{folder}: {len(alone)} images have no label in labelsTr, such as {alone[0]}; remove them")
    return [raw_case(image, label) for image, label in zip(images, labels, strict=True)]


def _pairs(images: Path, labels: Path) -> Source:
    """Two files are one case; two folders are matched by file name, `a_0000` of nnU-Net counting as `a`."""
    if images.is_file() and labels.is_file():
        return Source(images, [raw_case(images, labels, name=stem(images))], {})
    for folder in (images, labels):
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; give two folders, or two files of one case")
    right = scan_files(labels)
    left = scan_files(images, "_0000", right)
    if alone := sorted(left.keys() ^ right.keys()):
        sides = [f"{name} (no {'label' if name in left else 'image'})" for name in alone]
        raise UserError(
            f"{images} and {labels}: {len(alone)} files have no partner of the same name: "
            f"{', '.join(sides[:20])}; rename or remove them"
        )
    return Source(images, [raw_case(left[name], right[name], name=name) for name in sorted(left)], {})


def unlabelled_cases(folder: str | Path, patient_pattern: str | None = None) -> list[Case]:
    """The scans of a folder, by name, as training cases without a label; their patients as in `open_source`.

    Raises UserError where there are none.
    """
    folder = Path(folder)
    if not folder.is_dir() or not (found := scan_files(folder, "_0000")):
        raise UserError(f"--unlabelled {folder}: holds no scans (.nii.gz or .nii); give a folder of images")
    return [Case(name, str(path.absolute()), None, _patient(name, patient_pattern)) for name, path in found.items()]


def scan_files(folder: Path, suffix: str = "", kept: Collection[str] = ()) -> dict[str, Path]:
    """The scans of a folder by name, in order, without hidden files.

    Names end without `suffix`, such as nnU-Net's `_0000`, unless they are among those to be `kept`.

    Raises UserError where two files have the same name then.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*")):
        if path.name.lower().endswith(ENDINGS) and not path.name.endswith(ENDINGS):
            raise UserError(f"{path}: its name ends in capitals, so it would be left out; rename it to .nii.gz or .nii")
        if path.name.endswith(ENDINGS) and not path.name.startswith("."):
            name = unicodedata.normalize("NFC", stem(path))  # macOS and Linux write an umlaut in different ways
            name = name if name in kept else name.removesuffix(suffix)
            if name in found:
                raise UserError(f"{folder}: {found[name].name} and {path.name} are both {name!r}; remove one of them")
            found[name] = path
    return found


def _patient(name: str, pattern: str | None) -> str:
    if pattern is None:
        return name
    try:
        found = re.search(pattern, name)
    except re.error as error:
        raise UserError(f"--patient_pattern {pattern!r} is no regular expression ({error})") from None
    if not found:
        raise UserError(f"--patient_pattern {pattern!r} is not in the case name {name!r}; it must match all")
    return next((group for group in found.groups() if group), found.group())
