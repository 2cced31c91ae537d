"""Reading and writing files so that no half-written file ever bears its final name."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from lldm3d.errors import UserError


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` (same suffixes) and rename it to `path` when the block ends well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = "".join(path.suffixes[-2:])
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".partial-", suffix=suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes files private to the user
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, content: object) -> None:
    """Write `content` as indented JSON; NaN is refused since it is not JSON."""
    with whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_json(path: str | Path) -> dict:
    """Read a JSON file. Raises UserError where it is missing or broken."""
    try:
        return json.loads(Path(path).read_text())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the path of an existing JSON file") from None
    except ValueError as error:
        raise UserError(f"{path}: is not valid JSON ({error})") from None


def save_nifti(path: str | Path, array: np.ndarray, affine: np.ndarray) -> None:
    """Write `array` [X, Y, Z] as NIfTI with its own dtype; `affine` [4, 4] in mm."""
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    with whole(path) as temporary:
        nib.save(image, temporary)


def load_nifti(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a NIfTI file as (array in its scaled dtype, affine [4, 4]). Raises UserError where it cannot be read."""
    try:
        image = nib.load(path)
        return np.asanyarray(image.dataobj), image.affine
    except Exception as error:  # nibabel, gzip and the file system each raise their own kinds
        raise UserError(f"{path}: cannot be read as NIfTI ({error})") from None


def save_checkpoint(path: str | Path, content: dict) -> None:
    """Write a checkpoint of plain tensors, numbers, strings, lists and dicts: what `weights_only=True` reads back."""
    with whole(path) as temporary, open(temporary, "wb") as file:
        torch.save(content, file)  # given a path, torch writes the temporary name into the file, and its hash changes


def load_checkpoint(path: str | Path, made_by: str) -> dict:
    """Read a checkpoint onto the CPU with `weights_only=True`; `made_by` is the stage that the error message names."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such checkpoint; it is made by the stage {made_by!r}: run that stage first")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch each raise their own kinds
        raise UserError(f"{path}: is not a readable checkpoint ({error}); run the stage {made_by!r} again") from None


def sha256(path: str | Path) -> str:
    """The file's SHA-256 as hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
