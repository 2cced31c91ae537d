"""Real training pairs, smoothly warped: the labels of the source `training`, and the images that truly fit them."""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lldm3d.data.dataset import Case, Schema, load_cases, load_schema
from lldm3d.data.warping import warp_pair
from lldm3d.errors import UserError
from lldm3d.files import load_nifti, save_nifti, write_json
from lldm3d.pairs.folder import write_dataset_json
from lldm3d.pairs.sources import TRAINING, LabelFile
from lldm3d.processes import in_processes


class Warp(NamedTuple):
    """One warped pair to be written."""

    index: int  # of all, from which the warp follows
    case: Case
    name: str


def write_warped_pairs(
    dataset_dir: str | Path, output_dir: str | Path, n: int, seed: int = 0, strength: float = 1.0
) -> list[LabelFile]:
    """Write `n` pairs of real training cases, each smoothly warped anew, as a folder of pairs on the prepared grid.

    The cases are taken in turn; `labels.json` lists the labels. Methods draw images for these labels; the warped real
    images show what warping alone is worth, and which drawn ones repeat a patient.

    Args:
        strength: of the warp; 0 leaves the pairs as they are, 1 is what `data.warping` says.
    """
    folder, dataset_dir = Path(output_dir).resolve(), Path(dataset_dir)
    cases = [case for case in load_cases(dataset_dir, TRAINING) if case.label]
    if not cases:
        raise UserError(f"{dataset_dir}: has no labelled training cases to warp")
    rounds = [(index, cases[index % len(cases)], index // len(cases)) for index in range(n)]
    warps = [Warp(index, case, f"{case.name}_warp{number:02d}") for index, case, number in rounds]
    schema = load_schema(dataset_dir)
    write = partial(write_warped, folder=folder, schema=schema, seed=seed, strength=strength)
    list(in_processes(write, warps, "warping real pairs"))
    files = [LabelFile(str(folder / f"labelsTr/{w.name}.nii.gz"), w.name, w.case.patient) for w in warps]
    about = "Real training scans, smoothly warped: no synthetic data."
    write_dataset_json(folder, dataset_dir, about, [w.name for w in warps], [w.case.patient for w in warps])
    write_json(folder / "labels.json", {"strength": strength, "labels": [asdict(file) for file in files]})
    return files


def write_warped(warp: Warp, folder: Path, schema: Schema, seed: int, strength: float) -> None:
    """Write one warped pair."""
    (image, affine), (label, _) = load_nifti(warp.case.image), load_nifti(warp.case.label)
    classes, thin = len(schema.class_names), schema.thin
    image, label = warp_pair(image, label.astype(np.uint8), classes, [seed, warp.index], strength, thin)
    save_nifti(folder / f"labelsTr/{warp.name}.nii.gz", label, affine)
    save_nifti(folder / f"imagesTr/{warp.name}.nii.gz", image.astype(np.float32), affine)
