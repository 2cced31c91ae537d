"""`lldm3d join`: one data set of the pairs that several calls of `lldm3d generate` made, each in its own folder."""

import os
from collections import Counter
from glob import glob
from pathlib import Path

from lldm3d.errors import UserError
from lldm3d.files import read_json, write_json


def join(parts: str, output_dir: str, overwrite: bool = False) -> None:
    """Write `dataset.json` and `manifest.json` of all pairs in some folders, which stay where they are.

    Args:
        parts: pattern of the folders, such as "pairs/part_*".
        output_dir: folder of the two files; everything that reads a generated data set reads it too.
        overwrite: replace them.

    Raises:
        UserError: where no folder matches, one is unfinished or was drawn otherwise, or two hold the same case.
    """
    target = Path(output_dir).resolve()
    if (target / "dataset.json").exists() and not overwrite:
        raise UserError(f"{target}: holds a data set already; choose another --output_dir or pass --overwrite")
    folders = [Path(name).resolve() for name in sorted(glob(parts)) if Path(name).resolve() != target]
    manifest = common_manifest(folders, parts)
    contents = [read_json(folder / "dataset.json") for folder in folders]
    cases = [
        moved(case, folder, target)
        for folder, content in zip(folders, contents, strict=True)
        for case in content["training"]
    ]
    if twice := [name for name, count in Counter(case["patient"] for case in cases).items() if count > 1]:
        raise UserError(f"{parts}: several folders hold the cases {twice[:3]}; draw each with a --first of its own")
    write_json(target / "manifest.json", manifest)
    write_json(target / "dataset.json", contents[0] | {"numTraining": len(cases), "training": cases})


def common_manifest(folders: list[Path], parts: str) -> dict:
    """What all folders were drawn with. Raises UserError for a folder that is not whole, or differs from the first."""
    if not folders:
        raise UserError(f"--parts {parts!r}: no such folder")
    if unfinished := [folder.name for folder in folders if not (folder / "dataset.json").is_file()]:
        raise UserError(f"{parts}: {unfinished[:3]} are not finished; run `lldm3d generate` again for them")
    first = read_json(folders[0] / "manifest.json")
    for folder in folders[1:]:
        found = read_json(folder / "manifest.json")
        if changed := sorted(key for key in {**first, **found} if first.get(key) != found.get(key)):
            raise UserError(f"{folder}: was drawn with another {', '.join(changed)} than {folders[0]}")
    return first


def moved(case: dict, folder: Path, target: Path) -> dict:
    """The entry of a case of `folder` as it is seen from `target`."""
    return case | {key: os.path.relpath(folder / case[key], target) for key in ("image", "label")}
