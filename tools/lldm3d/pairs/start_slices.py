"""The real slices from which volumes begin: of another patient, or of the case itself (GEM-3D's modes)."""

from pathlib import Path

import numpy as np
import torch

from lldm3d.data.dataset import SPLITS, Case, Schema, load_cases, load_schema
from lldm3d.data.volumes import load_volume, spacing_of
from lldm3d.errors import UserError, did_you_mean
from lldm3d.methods.slice_volumes import StartSlice
from lldm3d.pairs.cases import CaseDataset

GENERATED, OTHER, OWN = "generated", "other_patient", "own"
STARTS = (GENERATED, OTHER, OWN)


def start_slices(
    dataset: CaseDataset, dataset_dir: str, start: str, reference: str | None, number: int | None, seed: int
) -> dict[str, StartSlice]:
    """By the name of each case of `dataset` the slice from which its volume begins; none for generated ones.

    A slice of the case itself is kept in its volume. One of another patient, from the same relative depth, is only
    looked at, as it does not fit the label.

    Args:
        dataset_dir: prepared data set. A case's own scan is the one whose name the label's name begins with, so that
            edited and warped labels have one; other patients are drawn from its training cases.
        start: one of `STARTS`.
        reference: instead the scan or slice of all cases: the name of a case, or a NIfTI file.
        number: of the slice in the volume; None: the middle one.
        seed: of the choice of patients.

    Raises:
        UserError: before anything is drawn, for a slice of another size or range, or a case without a scan of its own.
    """
    if start not in STARTS:
        raise UserError(f"--start {start!r}: {did_you_mean(start, STARTS)}allowed are {', '.join(STARTS)}")
    if number is not None and type(number) is not int:
        raise UserError(f"--start_slice {number!r}: give the number of a slice, from 0")
    if start == GENERATED:
        if reference is not None:
            raise UserError(f"--reference {reference}: is of --start {OTHER} or {OWN}; a generated start has none")
        return {}
    cases = {case.name: case for split in SPLITS for case in load_cases(dataset_dir, split)}
    schema, found = load_schema(dataset_dir), {}
    for item in dataset.data:
        shape, name = tuple(item["label"].shape[1:]), item["name"]
        path = reference_path(reference, cases) if reference else scan_of(name, item["index"], start, cases, seed)
        at = shape[2] // 2 if number is None else number
        if not 0 <= at < shape[2]:
            raise UserError(f"--start_slice {at}: lies outside {name}, whose {shape[2]} slices are numbered from 0")
        found[name] = StartSlice(real_slice(path, shape, at, schema, start == OWN), at, start == OWN)
    return found


def reference_path(reference: str, cases: dict[str, Case]) -> str:
    """The file of a case, or the file itself."""
    if reference in cases:
        return cases[reference].image
    if Path(reference).is_file():
        return reference
    raise UserError(
        f"--reference {reference}: neither a file nor a case of the data set; {did_you_mean(reference, cases)}"
        "give a NIfTI scan or slice, or the name of a case"
    )


def scan_of(name: str, index: int, start: str, cases: dict[str, Case], seed: int) -> str:
    """The scan of a label's own patient, or of another one of the training cases."""
    own = max((other for other in cases if name == other or name.startswith(f"{other}_")), key=len, default=None)
    if start == OWN:
        if own is None:
            raise UserError(
                f"--start {OWN}: no case of the data set has the name of the label {name}, or the beginning of it; "
                "name the scan with --reference"
            )
        return cases[own].image
    patient = cases[own].patient if own else None
    others = [case for case in cases.values() if case.split == "training" and case.patient != patient]
    if not others:
        raise UserError(f"--start {OTHER}: the data set has no training case of another patient than {name}")
    return others[np.random.default_rng([seed, index]).integers(len(others))].image


def real_slice(path: str, shape: tuple[int, ...], number: int, schema: Schema, own: bool) -> torch.Tensor:
    """A slice [1, 1, X, Y, 1] of a scan, at the relative depth that `number` has in a volume of `shape`.

    Raises UserError where it has another size, spacing or range than the scans of the data set.
    """
    image, affine = load_volume(path, axes=schema.axes)
    if not np.allclose(spacing := spacing_of(affine)[:2], schema.spacing[:2], rtol=0.05):
        raise UserError(
            f"{path}: its slices have a spacing of {np.round(spacing, 3).tolist()} mm, the data set "
            f"{list(schema.spacing[:2])}; bring both to one grid with `lldm3d prepare`"
        )
    whole = image.shape if own and image.shape[2] > 1 else (*image.shape[:2], shape[2])
    if whole != shape:
        raise UserError(
            f"{path}: a slice of {' x '.join(map(str, image.shape))} voxels cannot begin a volume of "
            f"{' x '.join(map(str, shape))}; bring both to one grid with `lldm3d prepare`"
        )
    found = image[..., round(number / max(shape[2] - 1, 1) * (image.shape[2] - 1))].astype(np.float32)
    if not np.isfinite(found).all() or found.min() < -1e-3 or found.max() > 1 + 1e-3:
        raise UserError(
            f"{path}: holds intensities from {found.min():g} to {found.max():g}, but prepared scans have 0 to 1; "
            "prepare it as the data set, or name one of its cases"
        )
    return torch.as_tensor(found)[None, None, ..., None]
