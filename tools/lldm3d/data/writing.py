"""Writing the cases of a prepared data set."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from monai.transforms import ScaleIntensity, ScaleIntensityRangePercentiles

from lldm3d.data import crop
from lldm3d.data.label_map import LabelMap
from lldm3d.data.sources import Case
from lldm3d.data.split import crop_names
from lldm3d.data.volumes import load_volume, resample, resample_label, resampled_affine, spacing_of
from lldm3d.errors import UserError
from lldm3d.files import save_nifti
from lldm3d.processes import in_processes


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


def scaler(intensity: str, percentiles: Sequence[float]) -> Callable[[np.ndarray], np.ndarray]:
    """The transform of a whole image to [0, 1]."""
    if intensity == "min_max":
        return ScaleIntensity(minv=0.0, maxv=1.0)
    return ScaleIntensityRangePercentiles(*percentiles, b_min=0.0, b_max=1.0, clip=True)


def write_cases(cases: list[Case], recipe: Recipe, folder: Path) -> tuple[list[dict], float]:
    """Write the volumes of all cases; returns entries for dataset.json, and the part of labelled voxels cut off."""
    write = partial(write_case, recipe=recipe, folder=folder)
    entries, kept, labelled = zip(*in_processes(write, list(enumerate(cases)), "preparing"), strict=True)
    return sum(entries, []), 0.0 if recipe.crops else 1 - sum(kept) / max(sum(labelled), 1)


def write_case(numbered: tuple[int, Case], recipe: Recipe, folder: Path) -> tuple[list[dict], int, int]:
    """Write the volumes of one case; returns their entries, and the numbers of labelled voxels kept and before."""
    number, case = numbered
    image, label, affine = load_case(case, recipe)
    starts = crop_starts(label, recipe, np.random.default_rng([recipe.seed, number]))
    entries, kept = [], 0
    for name, start in zip(crop_names(case, recipe.crops), starts, strict=True):
        files = {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
        for key, volume in {"image": image, "label": label}.items():
            part = crop.cut(volume, start, recipe.roi_size)
            save_nifti(folder / files[key], part, crop.move(affine, start))
        kept += np.count_nonzero(part)
        entries.append({**files, "patient": case.patient})
    return entries, kept, np.count_nonzero(label)


def load_case(case: Case, recipe: Recipe) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read one case as image float32 in [0, 1], label uint8 (class indices), both [X, Y, Z], and affine (mm).

    The image is scaled before it is cropped: so a tissue has the same value in all crops of a patient, a crop without
    bright tissue is not stretched to noise, and the 0 that is padded is the image's minimum.
    """
    image, affine = load_volume(case.image, recipe.channel)
    label, _ = load_volume(case.label)
    spacing, names = spacing_of(affine), list(recipe.label_map.classes)
    priority = [names.index(name) + 1 for name in recipe.label_map.priority]
    thin = {names.index(name) + 1 for name in recipe.label_map.thin}
    image = resample(image, spacing, recipe.spacing)
    image = np.asarray(recipe.scale(image.T), np.float32).T  # MONAI's would turn the file's order of voxels round
    if not (image.min() >= 0 and image.max() <= 1):
        raise UserError(f"{case.image}: cannot be scaled to [0, 1], its percentiles are equal; use --intensity min_max")
    label = resample_label(recipe.label_map.apply(label), spacing, recipe.spacing, priority, thin)
    return image, label, resampled_affine(affine, recipe.spacing)


def crop_starts(label: np.ndarray, recipe: Recipe, rng: np.random.Generator) -> list[np.ndarray]:
    """The first voxels of the crops of one case."""
    mask = crop.center_mask(label, recipe.center, ["background", *recipe.label_map.classes])
    centers = [crop.middle(mask)] if recipe.crops is None else rng.choice(np.argwhere(mask), recipe.crops)
    return [crop.window(center, label.shape, recipe.roi_size) for center in centers]
