"""Folders that appear under their name only when whole."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lldm3d.errors import UserError

CONTENT = {"imagesTr", "labelsTr", "dataset.json"}
CONTENT |= {"imagesTs", "labelsTs", "splits_final.json", "datalist.json", "input.yaml"}  # exports


def require_free(output_dir: Path, overwrite: bool, inputs: list[Path]) -> None:
    """Raise UserError unless `output_dir` may be written: new, or only a data set and `overwrite` set."""
    for path in inputs:
        if output_dir.resolve() in (path.resolve(), *path.resolve().parents):
            raise UserError(f"--output_dir {output_dir} would replace the input {path}; choose another folder")
    if output_dir.exists() and not output_dir.is_dir():
        raise UserError(f"--output_dir {output_dir} is a file; give the name of a new folder")
    found = {path.name for path in output_dir.iterdir() if path.name[0] != "."} if output_dir.exists() else set()
    if found and not overwrite:
        raise UserError(f"--output_dir {output_dir} exists; choose another folder or give --overwrite")
    if found - CONTENT:
        raise UserError(
            f"--output_dir {output_dir} holds {sorted(found - CONTENT)[:5]}, which no data set does, "
            "so it is not replaced; choose another folder"
        )


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder and rename it to `path`, replacing what is there, when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    outer = Path(tempfile.mkdtemp(dir=path.parent, prefix=".partial-"))
    try:
        temporary = outer / "new"  # inside, since mkdtemp makes folders private to the user
        temporary.mkdir()
        yield temporary
        if path.exists():
            path.rename(outer / "old")
        temporary.rename(path)
    finally:
        shutil.rmtree(outer)
