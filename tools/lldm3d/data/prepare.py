"""`lldm3d prepare`: turning a user's scans into the data set that every later stage reads."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from monai.transforms import ScaleIntensity, ScaleIntensityRange, ScaleIntensityRangePercentiles

from lldm3d.data.body import BODY
from lldm3d.data.case_preparation import (
    MULTIPLE,
    Recipe,
    choose_orientation,
    choose_roi_size,
    choose_spacing,
    crop_names,
    parse_fold,
    split_cases,
    write_cases,
)
from lldm3d.data.checks import CaseRecord, read_cases, twin_faults, unlabelled_faults
from lldm3d.data.dataset import ORIENTATIONS, SPLITS, Case, modalities
from lldm3d.data.label_map import LabelMap, load_label_map
from lldm3d.data.sources import Source, open_source, stem, unlabelled_cases
from lldm3d.data.volumes import CENTERS, thick_axis
from lldm3d.errors import UserError
from lldm3d.files import output_folder, require_replaceable, write_json

INTENSITIES = ("min_max", "percentile", "window")
HOUNSFIELD = -500  # the least value of a CT scan is that of air, -1000 or less
REPORTED_CHANGE = 0.05  # of a class's volume by resampling
SPLIT_UNITS = ("patient", "case")
PERCENTILES = (0.5, 99.5)


def require_options(
    roi_size: Sequence[int] | None,
    spacing: Sequence[float] | None,
    crops: int | None,
    intensity: str,
    percentiles: Sequence[float],
    window: Sequence[float] | None,
    split: Sequence[float],
    split_by: str,
    max_cases: int | None,
    orientation: str | None,
    seed: int,
) -> None:
    """Raise one UserError that lists every option with a value that is not allowed."""
    checks = (
        (roi_size is None or _numbers(roi_size, 3, lambda size: size > 0 and size % MULTIPLE == 0),
         f"--roi_size {roi_size!r}: three multiples of {MULTIPLE} (voxels) are needed, such as 160,160,64"),
        (spacing is None or _numbers(spacing, 3, lambda length: 0 < length < math.inf),
         f"--spacing {spacing!r}: three lengths above 0 (mm) are needed, such as 1.5,1.5,3"),
        (crops is None or _count(crops), f"--crops {crops!r}: a number from 1 is needed"),
        (crops is None or roi_size is not None, "--crops needs the size of the crops: give --roi_size"),
        (intensity in INTENSITIES, f"--intensity {intensity!r}: allowed are {', '.join(INTENSITIES)}"),
        (_numbers(percentiles, 2, lambda p: 0 <= p <= 100) and percentiles[0] < percentiles[1],
         f"--percentiles {percentiles!r}: two rising numbers from 0 to 100 are needed, such as 0.5,99.5"),
        (window is None or (_numbers(window, 2, math.isfinite) and window[0] < window[1]),
         f"--window {window!r}: two rising numbers are needed, such as -175,250"),
        ((window is not None) == (intensity == "window"), "--intensity window and --window belong together"),
        (_numbers(split, 3, lambda part: part > 0) and abs(sum(split) - 1) < 1e-6,
         f"--split {split!r}: three parts above 0 with the sum 1 are needed, such as 0.7,0.1,0.2"),
        (split_by in SPLIT_UNITS, f"--split_by {split_by!r}: allowed are {', '.join(SPLIT_UNITS)}"),
        (intensity == "percentile" or tuple(percentiles) == PERCENTILES,
         "--percentiles belong to --intensity percentile"),
        (type(seed) is int and seed >= 0, f"--seed {seed!r}: a whole number from 0 is needed"),
        (orientation in (None, *ORIENTATIONS), f"--orientation {orientation!r}: allowed are {', '.join(ORIENTATIONS)}"),
        (max_cases is None or _count(max_cases), f"--max_cases {max_cases!r}: a number from 1 is needed"),
    )  # fmt: skip
    if faults := [message for good, message in checks if not good]:
        raise UserError("; ".join(faults))


def _numbers(values: object, length: int, good) -> bool:
    listed = isinstance(values, (list, tuple)) and len(values) == length
    return listed and all(type(value) in (int, float) and good(value) for value in values)


def _count(value: object) -> bool:
    return type(value) is int and value >= 1


def prepare(
    output_dir: str | Path,
    data: str | Path | None = None,
    images: str | Path | None = None,
    labels: str | Path | None = None,
    label_map: str | Path | dict | None = None,
    unlabelled: str | Path | None = None,
    roi_size: Sequence[int] | None = None,
    spacing: Sequence[float] | None = None,
    center: str = "foreground",
    crops: int | None = None,
    intensity: str = "min_max",
    percentiles: Sequence[float] = PERCENTILES,
    window: Sequence[float] | None = None,
    split: Sequence[float] = (0.7, 0.1, 0.2),
    fold: str | None = None,
    split_by: str = "patient",
    patient_pattern: str | None = None,
    channel: int | None = None,
    max_cases: int | None = None,
    orientation: str | None = None,
    body: bool = False,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Write a prepared data set: one orientation, one spacing, one size, intensities in [0, 1], split by patient.

    Everything is checked before anything is written, and the folder appears only when it is whole.

    Args:
        output_dir: the new folder.
        data: a Decathlon, nnU-Net raw, BIDS or DICOM folder; or instead
        images: a folder of NIfTI images (or one file), with
        labels: a folder of labels with the same names (or one file).
        label_map: YAML file or mapping of class names to values of the data; default: the labels of dataset.json.
        unlabelled: a folder of further images without labels, which become training cases of what learns images alone.
        roi_size: voxels of each prepared volume, multiples of 16; default: what holds all cases, or the usual one.
        spacing: mm; default: that of the data, where cases differ the median of each axis.
        center: what each crop is centred on: foreground, image, or the name of a class.
        crops: random crops of roi_size to draw from each case, round voxels of `center`; default: one, in its middle.
        intensity: min_max, or percentile (clipped to `percentiles` first), both of each whole image by itself; or
            window, the same for all, as CT needs.
        percentiles: lower and upper percentile for intensity=percentile.
        window: lowest and highest value for intensity=window, such as -175,250 (CT, soft tissue).
        split: parts of training, validation and test.
        fold: of a cross-validation, as 1/5: the first fifth of the patients is the test split.
        split_by: patient, or case (crops of a patient then fall into several splits).
        patient_pattern: regular expression that finds the patient in a case's name, if dataset.json names none.
        channel: which channel of images that have several, from 0.
        max_cases: only the first cases.
        orientation: ras (the nearest axes), or stored (the axes of the files, the one across the slices last); default:
            ras, but stored where the slices of some cases lie across another axis than those of others.
        body: add a class `body`: what is patient and has no label, by threshold and morphology. Networks that draw an
            image from its label alone need it where labels are of a few organs.
        seed: of split and crops.
        overwrite: replace an existing data set.

    Raises:
        UserError: with all faults of the options or of the data.
    """
    output_dir = Path(output_dir)
    inputs = [path for path in (data, images, labels, unlabelled) if path is not None]
    require_replaceable(output_dir, overwrite, inputs)
    require_options(
        roi_size, spacing, crops, intensity, percentiles, window, split, split_by, max_cases, orientation, seed
    )
    source = open_source(data, images, labels, channel, patient_pattern)
    further = unlabelled_cases(unlabelled, patient_pattern) if unlabelled else []
    inputs += [path for case in (*source.cases, *further) for path in (case.image, case.label) if path]
    require_replaceable(output_dir, overwrite, inputs)
    mapping = load_label_map(label_map, source.about, source.path)
    if center not in (allowed := [*CENTERS, *mapping.classes]):
        raise UserError(f"--center {center!r} is unknown; allowed are {', '.join(allowed)}")
    cases = source.cases[:max_cases]
    splits = split_cases(cases, crops, split, split_by, seed, parse_fold(fold))
    held_out = {case.patient for case in cases if any(splits[name] != "training" for name in crop_names(case, crops))}
    records = faultless_records(cases, further, held_out, mapping, channel)
    splits |= {name: "training" for case in further for name in crop_names(case, crops)}
    print_intensities(records, intensity)
    orientation = choose_orientation(records, orientation)
    if orientation == "stored":
        records = [record.as_stored() for record in records]
    spacing = choose_spacing(records, spacing)
    if orientation == "stored" and thick_axis(spacing) not in (None, 2):
        raise UserError(f"--spacing {spacing}: with stored axes the one across the slices is the last; turn it round")
    roi_size, scale = choose_roi_size(records, spacing, roi_size), scaler(intensity, percentiles, window)
    mapping = mapping.with_class(BODY) if body else mapping
    recipe = Recipe(roi_size, spacing, center, crops, scale, mapping, channel, seed, orientation, body)
    with output_folder(output_dir, overwrite, inputs) as folder:
        entries, lost, volumes = write_cases([*cases, *further], recipe, folder)
        require_kept(volumes, mapping)
        if body:
            require_body(volumes[: len(cases), 1, -1])
        about = describe(source, recipe) | {"intensity": intensity, "split_by": split_by, "seed": seed}
        about |= {"fold": fold} if fold else {}
        write_json(folder / "dataset.json", about | listed(entries, splits))
    print_result(output_dir, recipe, splits, split_by, lost, len(further) * (crops or 1))


def faultless_records(
    cases: list[Case], further: list[Case], held_out: set[str], label_map: LabelMap, channel: int | None
) -> list[CaseRecord]:
    """The records of the labelled cases, which decide on the grid.

    Args:
        further: cases without a label.
        held_out: patients of the validation and test cases.

    Raises:
        UserError: with the faults of all cases.
    """
    records = read_cases([*cases, *further], label_map, channel)
    faults = [fault for record in records for fault in record.faults]
    faults += unlabelled_faults(further, held_out, {case.name for case in cases})
    faults += twin_faults([*cases, *further], records)
    if faults:
        more = f"\n... and {len(faults) - 20} more" if len(faults) > 20 else ""
        raise UserError(f"{len(faults)} faults in the data, nothing was written:\n" + "\n".join(faults[:20]) + more)
    return records[: len(cases)]


def scaler(intensity: str, percentiles: Sequence[float], window: Sequence[float] | None) -> Callable:
    """The transform of a whole image to [0, 1]."""
    if intensity == "min_max":
        return ScaleIntensity(minv=0.0, maxv=1.0)
    if intensity == "window":
        return ScaleIntensityRange(*window, b_min=0.0, b_max=1.0, clip=True)
    return ScaleIntensityRangePercentiles(*percentiles, b_min=0.0, b_max=1.0, clip=True)


def describe(source: Source, recipe: Recipe) -> dict:
    """The part of dataset.json that says what the cases share."""
    label_map = recipe.label_map
    about = {key: source.about[key] for key in ("reference", "licence", "license") if key in source.about}
    return about | {
        "name": str(source.about.get("name", stem(source.path))),
        "description": str(source.about.get("description", "")),
        "modality": modalities(source.about),
        "tensorImageSize": "3D",
        "labels": {str(index): name for index, name in enumerate(["background", *label_map.classes])},
        "roi_size": list(recipe.roi_size),
        "spacing": list(recipe.spacing),
        "orientation": recipe.orientation,
        "source_values": {name: list(values) for name, values in label_map.classes.items()},
        "priority": list(label_map.priority),
        "tubular": list(label_map.tubular),
        "lesions": list(label_map.lesions),
        "inside": label_map.inside,
        "tasks": label_map.tasks,
    }


def listed(entries: list[dict], splits: dict[str, str]) -> dict:
    """The entries of each split, and their numbers as the Decathlon has them."""
    lists = {split: [entry for entry in entries if splits[stem(Path(entry["image"]))] == split] for split in SPLITS}
    return {"numTraining": len(lists["training"]), "numTest": len(lists["test"]), **lists}


def print_intensities(records: list[CaseRecord], intensity: str) -> None:
    """Say where another scaling is better: cases nearly black, or values of CT, which mean the same until scaled."""
    if intensity == "min_max" and (crowded := sum(record.crowded for record in records)):
        print(
            f"intensities: in {crowded} of {len(records)} cases nearly all voxels lie in the lowest twentieth of the "
            "range, as beside metal, and become nearly black; --intensity percentile or window prevents it"
        )
    lows = sorted(record.range[0] for record in records)
    if intensity != "window" and -5000 < lows[len(lows) // 2] < HOUNSFIELD:
        print(
            "intensities: the values look like Hounsfield units of CT. Scaled case by case, one tissue gets another "
            "value in each; --intensity window --window -175,250 (soft tissue) maps all in the same way"
        )


def require_body(volumes: np.ndarray) -> None:
    """Print in how many cases of the `volumes` of the body [case] there is none. Raises UserError where none has it."""
    without = len(volumes) - np.count_nonzero(volumes)
    if without == len(volumes):
        raise UserError("--body: no case shows any beside its labels, so there is no such class; leave it out")
    if without:
        print(f"--body: {without} of {len(volumes)} cases show none beside their labels")


def require_kept(volumes: np.ndarray, label_map: LabelMap) -> None:
    """Print how resampling changed classes; `volumes` [case, before or after, class] in ml.

    Raises UserError where a class is gone from all cases that had it.
    """
    gone = []
    for index, name in enumerate(label_map.classes):
        before, after = volumes[:, 0, index], volumes[:, 1, index]
        had, lost = np.count_nonzero(before), np.count_nonzero((before > 0) & (after == 0))
        if not had:
            continue
        if lost == had:
            gone.append(f"{name} (in all {had} cases)")
        elif lost or abs(after.sum() / before.sum() - 1) > REPORTED_CHANGE:
            where = f", and it is gone from {lost} of {had} cases; a finer --spacing keeps it" if lost else ""
            print(f"resampling changed {name} from {before.sum():.3g} to {after.sum():.3g} ml{where}")
    if gone:
        raise UserError(
            f"resampling leaves nothing of {', '.join(gone)}, nothing was written; give a finer --spacing, or name it "
            "under `lesions` or `tubular` in the --label_map, which keeps what is thinner than a voxel"
        )


def print_result(
    output_dir: Path, recipe: Recipe, splits: dict[str, str], split_by: str, lost: float, unlabelled: int
) -> None:
    """Say what was written."""
    counts = Counter(splits.values())
    numbers = ", ".join(f"{counts[split]} {split}" for split in SPLITS)
    size, spacing = "x".join(map(str, recipe.roi_size)), "x".join(f"{length:g}" for length in recipe.spacing)
    print(f"{output_dir}: {numbers} cases of {size} voxels, {spacing} mm, split by {split_by}")
    if unlabelled:
        print(f"{unlabelled} of the training cases have no label: only what learns images alone uses them")
    if split_by == "case":
        print("split by case: a patient may be in several splits, so test results do not hold for new patients")
    if lost > 0:
        print(f"the crop to {size} voxels cuts off {lost:.2%} of the labelled voxels; a larger --roi_size keeps them")
