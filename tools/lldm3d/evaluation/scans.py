"""The two sides of an evaluation: data sets or folders of scans, read and refused where they cannot be compared."""

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np

from lldm3d.data.dataset import ENDINGS, SPLITS, Case, Schema, load_cases, load_schema, stem
from lldm3d.data.scans import Scan, check_grid, check_label, read_label  # noqa: F401
from lldm3d.data.scans import read_pair as read  # noqa: F401
from lldm3d.errors import UserError
from lldm3d.files import load_nifti

MIN_TRAINING, MIN_SYNTHETIC = 4, 2  # two halves of two; a variance


def case_name(case: Case) -> str:
    """The image's file name without its suffix: crops of one patient are cases of their own."""
    return case.name


def check_sides(real: Schema, synthetic: Schema, real_dir: Path, synthetic_dir: Path) -> None:
    """Raises UserError where the two sides differ in spacing, size, or classes where both name them."""
    keys = ["spacing", "roi_size", *(["class_names"] if real.class_names and synthetic.class_names else [])]
    for key in keys:
        ours, theirs = getattr(real, key), getattr(synthetic, key)
        if key == "spacing" and np.allclose(ours, theirs, rtol=0.01):
            continue
        if ours != theirs:
            raise UserError(
                f"the two data sets differ in {key}: {real_dir} has {list(ours)}, {synthetic_dir} has {list(theirs)}; "
                "prepare the real one as it was for training, or generate with models trained on it"
            )


def check_counts(training: list, synthetic: list, real_dir: Path, synthetic_dir: Path) -> None:
    """Raises UserError where either side has too few cases for any metric."""
    for cases, least, folder in ((training, MIN_TRAINING, real_dir), (synthetic, MIN_SYNTHETIC, synthetic_dir)):
        if len(cases) < least:
            raise UserError(f"{folder}: has {len(cases)} training cases, at least {least} are needed; add cases")


IMAGE_FOLDERS, LABEL_FOLDERS = ("imagesTr", "images", "."), ("labelsTr", "labels")


def open_sides(real: Path, synthetic: Path) -> tuple[Schema, dict[str, list[Case]]]:
    """What both sides share, and the cases of each split of the real one and of the synthetic one.

    Raises UserError where they cannot be compared.
    """
    ours, synthetic_cases = open_side(synthetic)  # first, as the likeliest to be refused
    schema, cases = open_side(real)
    if not schema.class_names:
        schema = replace(ours, name=schema.name, roi_size=schema.roi_size, spacing=schema.spacing)
    check_sides(schema, ours, real, synthetic)
    check_counts(cases["training"], synthetic_cases["training"], real, synthetic)
    if not schema.class_names:  # without names a label map says nothing
        for found in (synthetic_cases, cases):
            found["training"] = [replace(case, label=None) for case in found["training"]]
    return schema, {"synthetic": synthetic_cases["training"], **cases}


def open_side(folder: Path) -> tuple[Schema, dict[str, list[Case]]]:
    """The schema and the cases of each split of a prepared data set, or of a plain folder of scans.

    A plain folder has its images in `imagesTr`, `images` or itself, and may have labels of the same names in `labelsTr`
    or `labels`. All its cases are training cases; it knows no classes, and its intensities are brought to [0, 1].
    """
    if (folder / "dataset.json").is_file():
        return load_schema(folder), {split: load_cases(folder, split) for split in SPLITS}
    images = next((found for name in IMAGE_FOLDERS if (found := scans(folder / name))), {})
    if not images:
        raise UserError(f"{folder}: holds neither a dataset.json nor scans (.nii.gz or .nii); give a folder of scans")
    labels = next((found for name in LABEL_FOLDERS if (found := scans(folder / name))), {})
    if labels and (missing := sorted(images.keys() - labels.keys())):
        raise UserError(f"{folder}: has labels, but none for {missing[0]}; add it, or take the labels away")
    cases = [
        Case(stem(path), path, labels.get(name), patient=name, rescale=True) for name, path in sorted(images.items())
    ]
    return plain_schema(folder, cases[0].image), {"training": cases, "validation": [], "test": []}


def scans(folder: Path) -> dict[str, str]:
    """The scans of a folder by name, without the `_0000` that nnU-Net's images end with."""
    paths = [path for path in folder.glob("*") if path.name.endswith(ENDINGS)] if folder.is_dir() else []
    return {stem(path).removesuffix("_0000"): str(path.resolve()) for path in paths}


def plain_schema(folder: Path, image: str) -> Schema:
    """Size and spacing of the first image, which all others must have."""
    array, affine = load_nifti(image)
    spacing = tuple(round(float(length), 4) for length in nib.affines.voxel_sizes(affine))
    return Schema(folder.resolve().name, (), array.shape, spacing)
