"""Size, spacing and split of a data set, and the writing of its cases."""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from lldm3d.data import volumes
from lldm3d.data.body import body_mask
from lldm3d.data.checks import CaseRecord
from lldm3d.data.dataset import SPLITS, Case, axes_of
from lldm3d.data.label_map import LabelMap
from lldm3d.data.volumes import load_volume, resample, resample_label, resampled_affine, resampled_size, spacing_of
from lldm3d.errors import UserError
from lldm3d.files import save_nifti
from lldm3d.processes import in_processes

MULTIPLE = 16  # autoencoder and diffusion networks halve a volume up to four times
MOST_VOXELS = 2**31  # of a scan, 8 GB of float32
HELD = 0.95  # share of the cases whose labelled voxels a size must hold along an axis


def choose_orientation(records: list[CaseRecord], orientation: str | None) -> str:
    """The given orientation, else ras; stored, said in a line, where the slices of some stacks lie across another axis.

    Turned to the nearest RAS, oblique stacks would mix thick and thin axes: some would be resampled in their planes to
    the distance of their slices. nnU-Net keeps the stored axes always.
    """
    counts = Counter("xyz"[axis] for record in records if (axis := volumes.thick_axis(record.spacing)) is not None)
    if orientation is None and len(counts) > 1:
        found = ", ".join(f"{axis} in {number}" for axis, number in sorted(counts.items()))
        print(
            f"orientation: in RAS the slices lie across {found} cases; all keep the axes in which they are stored, "
            "the one across the slices last (--orientation ras turns them all the same)"
        )
        return "stored"
    return orientation or "ras"


def choose_spacing(records: list[CaseRecord], spacing: Sequence[float] | None) -> tuple[float, float, float]:
    """The given spacing (mm), else that of the data; where cases differ the median of each axis, said in a line."""
    found = np.array([record.spacing for record in records])
    if spacing is None:
        spacing = tuple(float(f"{length:.6g}") for length in np.median(found, axis=0))
        if not np.allclose(found, spacing, rtol=volumes.SAME):
            low, high = found.min(0).round(4).tolist(), found.max(0).round(4).tolist()
            print(f"spacing: the cases have {low} to {high} mm; all are resampled to the median {list(spacing)} mm")
    spacing = tuple(float(length) for length in spacing)
    sizes = [resampled_size(record.size, record.spacing, spacing) for record in records]
    size, own = max(zip(sizes, found, strict=True), key=lambda pair: math.prod(pair[0]))
    if math.prod(size) > MOST_VOXELS:
        raise UserError(
            f"--spacing {spacing} (mm) makes a scan of {size} voxels; give one near that of its file, "
            f"{own.round(4).tolist()}, or mend its header"
        )
    return spacing


def choose_roi_size(
    records: list[CaseRecord], spacing: tuple[float, float, float], roi_size: Sequence[int] | None
) -> tuple[int, int, int]:
    """The given size (voxels), else along each axis what the median scan fills and the labels need.

    That is the largest multiple of 16 within the median scan, or more where the labelled voxels of one case in twenty
    would not fit. Holding every scan whole instead would fill most of a small one with zeros: networks then learn
    where the scan ends, at a multiple of the cost (hippocampus MR: 58 % zeros at 48x64x48, 3 % at 32x48x32).
    """
    if roi_size is not None and math.prod(roi_size) > MOST_VOXELS:
        raise UserError(f"--roi_size {tuple(roi_size)} has more than {MOST_VOXELS} voxels; give a smaller one")
    if roi_size is not None:
        return tuple(int(size) for size in roi_size)
    scans = [resampled_size(record.size, record.spacing, spacing) for record in records]
    labelled = [resampled_size(record.labelled, record.spacing, spacing) for record in records]
    filled = np.floor(np.median(scans, axis=0) / MULTIPLE)
    needed = np.ceil(np.quantile(labelled, HELD, axis=0) / MULTIPLE)
    return tuple((np.maximum(np.maximum(filled, needed), 1) * MULTIPLE).astype(int).tolist())


def crop_names(case: Case, crops: int | None) -> list[str]:
    """The names under which a case is written: its own, or one for each of its crops."""
    return [case.name] if crops is None else [f"{case.name}_crop{number:02d}" for number in range(crops)]


def parse_fold(text: str | None) -> tuple[int, int] | None:
    """The number of a fold, from 1, and of all folds. Raises UserError for what is none."""
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", str(text))
    number, folds = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= folds or folds < 2:
        raise UserError(f"--fold {text!r}: a fold and the number of all are needed, such as 1/5, from 1 on")
    return number, folds


def split_cases(
    cases: list[Case],
    crops: int | None,
    fractions: Sequence[float],
    split_by: str,
    seed: int,
    fold: tuple[int, int] | None = None,
) -> dict[str, str]:
    """Draw the split of each written case: all of a patient fall into one, unless `split_by` is "case".

    Every split gets at least one.

    Args:
        fold: whose patients are the test split, as `parse_fold` gives it, instead of a part of all.

    Raises:
        UserError: where there are too few.
    """
    unit_of = {name: name if split_by == "case" else case.patient for case in cases for name in crop_names(case, crops)}
    units = sorted(set(unit_of.values()))
    order = [units[index] for index in np.random.default_rng(seed).permutation(len(units))]
    validation, test = (max(1, round(len(units) * fraction)) for fraction in fractions[1:])
    if fold:
        number, folds = fold
        held_out = order[number - 1 :: folds]
        order, test = [unit for unit in order if unit not in held_out] + held_out, len(held_out)
        if len(units) < folds:
            raise UserError(f"{len(units)} {split_by}(s) do not fill {folds} folds; take fewer folds")
    training = len(units) - validation - test
    if training < 1:
        remedy = "give --split_by case with --crops 10 or more" if split_by == "patient" else "give more --crops"
        raise UserError(
            f"{len(units)} {split_by}(s) cannot be split into training, validation and test at {tuple(fractions)}: "
            f"each needs one at least. Add data; or, where results on unseen patients do not matter, {remedy}"
        )
    names = np.repeat(SPLITS, [training, validation, test])
    chosen = {unit: str(name) for unit, name in zip(order, names, strict=True)}
    return {name: chosen[unit] for name, unit in unit_of.items()}


@dataclass(frozen=True)
class Recipe:
    """How every case is prepared; roi_size in voxels, spacing in mm, `scale` maps a whole image to [0, 1]."""

    roi_size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    center: str
    crops: int | None
    scale: Callable[[np.ndarray], np.ndarray]
    label_map: LabelMap
    channel: int | None
    seed: int
    orientation: str = "ras"
    body: bool = False  # the last class is the body


def write_cases(cases: list[Case], recipe: Recipe, folder: Path) -> tuple[list[dict], float, np.ndarray]:
    """Write the volumes of all cases.

    Returns entries for dataset.json, the part of labelled voxels that the crops cut off, and the volume of each class
    before and after resampling, [case, 2, class] in ml.
    """
    write = partial(write_prepared, recipe=recipe, folder=folder)
    written = in_processes(write, list(enumerate(cases)), "preparing")
    entries, kept, labelled, volumes = zip(*written, strict=True)
    return sum(entries, []), 0.0 if recipe.crops else 1 - sum(kept) / max(sum(labelled), 1), np.array(volumes)


def write_prepared(numbered: tuple[int, Case], recipe: Recipe, folder: Path) -> tuple[list[dict], int, int, np.ndarray]:
    """Write the volumes of one case.

    Returns their entries, the numbers of labelled voxels kept and before, and `class_volumes` before and after.
    """
    number, case = numbered
    image, label, affine, before = load_case(case, recipe)
    mask = volumes.center_mask(label, recipe.center, ["background", *recipe.label_map.classes])
    rng = np.random.default_rng([recipe.seed, number])
    if recipe.crops is None:
        centers = [sum(volumes.bounding_box(mask)) // 2]  # a crop around it keeps the whole of what fits
    else:
        centers = np.transpose(np.unravel_index(rng.choice(np.flatnonzero(mask), recipe.crops), mask.shape))
    body = body_mask(image, recipe.spacing) if recipe.body and case.label else None
    entries, kept, seen = [], 0, 0
    for name, center in zip(crop_names(case, recipe.crops), centers, strict=True):
        start = volumes.window(center, label.shape, recipe.roi_size)
        cropped = {"image": volumes.crop_volume(image, start, recipe.roi_size)}
        if case.label:
            cropped["label"] = volumes.crop_volume(label, start, recipe.roi_size)
            kept += np.count_nonzero(cropped["label"])
        if body is not None:
            inside = volumes.crop_volume(body, start, recipe.roi_size) & (cropped["label"] == 0)
            cropped["label"] = np.where(inside, np.uint8(len(recipe.label_map.classes)), cropped["label"])
            seen += np.count_nonzero(inside)
        files = {key: f"./{key}sTr/{name}.nii.gz" for key in cropped}
        for key, volume in cropped.items():
            save_nifti(folder / files[key], volume, volumes.move(affine, start))
        entries.append({**files, "patient": case.patient})
    after = class_volumes(label, recipe.spacing, len(recipe.label_map.classes))
    if body is not None:
        before[-1] = after[-1] = seen * np.prod(recipe.spacing) / 1000
    return entries, kept, np.count_nonzero(label), np.stack([before, after])


def class_volumes(label: np.ndarray, spacing: Sequence[float], classes: int) -> np.ndarray:
    """Millilitres of each class but the background, [classes]; `spacing` in mm."""
    return np.bincount(label.ravel(order="K"), minlength=classes + 1)[1:] * np.prod(spacing) / 1000


def load_case(case: Case, recipe: Recipe) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Read one case as image float32 in [0, 1], label uint8 (class indices), both [X, Y, Z], and affine (mm).

    A case without a label gets an empty one: its crops then lie anywhere, or in the middle of the image.
    The image is scaled before it is cropped: so a tissue has the same value in all crops of a patient, a crop without
    bright tissue is not stretched to noise, and the 0 that is padded is the image's minimum. Last comes the volume of
    each class before resampling, in ml.
    """
    image, affine = load_volume(case.image, recipe.channel, axes_of(recipe.orientation))
    label = load_volume(case.label, axes=affine)[0] if case.label else np.zeros(image.shape, np.uint8)
    spacing, names = spacing_of(affine), list(recipe.label_map.classes)
    priority = [names.index(name) + 1 for name in recipe.label_map.priority]
    thin = {names.index(name) + 1 for name in recipe.label_map.thin}
    image = resample(image, spacing, recipe.spacing)
    image = np.asarray(recipe.scale(image.T), np.float32).T  # MONAI's would turn the file's order of voxels round
    if not (image.min() >= 0 and image.max() <= 1):
        raise UserError(f"{case.image}: cannot be scaled to [0, 1], its percentiles are equal; use --intensity min_max")
    if image.min() == image.max():
        raise UserError(
            f"{case.image}: is constant once scaled: its values lie outside of --window, or differ too little"
        )
    label = recipe.label_map.apply(label)
    before = class_volumes(label, spacing, len(names))
    label = resample_label(label, spacing, recipe.spacing, priority, thin)
    return image, label, resampled_affine(affine, recipe.spacing), before
