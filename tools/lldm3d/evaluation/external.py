"""A segmenter of the user's own: any command that reads images and writes label maps as NIfTI."""

import shlex
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

from lldm3d.data.dataset import Schema
from lldm3d.errors import UserError
from lldm3d.evaluation.agreement import agreement
from lldm3d.evaluation.alignment import alignment_rows
from lldm3d.evaluation.rows import Row
from lldm3d.evaluation.scans import case_name, check_grid, check_label, read
from lldm3d.evaluation.survey import Survey
from lldm3d.files import load_nifti

OPTION, PLACEHOLDERS = "--segmenter_command", ("{images}", "{labels}")


def check_command(command: str) -> None:
    """Raises UserError where the command cannot be found, or does not say where it reads and writes."""
    if missing := [name for name in PLACEHOLDERS if name not in command]:
        raise UserError(
            f"{OPTION} {command!r}: has no {' and no '.join(missing)}; give a command such as "
            "'nnUNetv2_predict -i {images} -o {labels} -d 4 -c 3d_fullres -f all'"
        )
    program = shlex.split(command)[0]
    if shutil.which(program) is None:
        raise UserError(f"{OPTION}: there is no program {program!r}; install it, or give its path")


def external_rows(command: str, synthetic: Survey, test: Survey, schema: Schema) -> list[Row]:
    """The rows of alignment by what `command` makes of the images, named after its first word.

    The command runs once for each side: `{images}` is a folder with the images as `<case>_0000.nii.gz` (nnU-Net's
    names), and `{labels}` an empty folder in which it writes `<case>.nii.gz` with the values of the data set's classes.

    Raises:
        UserError: where the command fails, or a label map is missing or does not fit its image.
    """
    scores = (segmented(command, side.cases, schema) for side in (synthetic, test))
    name = Path(shlex.split(command)[0]).name
    return [replace(row, name=f"{row.name}, {name}") for row in alignment_rows(*scores, schema, {"network": command})]


def segmented(command: str, cases: list[dict], schema: Schema) -> list[dict]:
    """The agreement of the command's label maps with the labels of the cases."""
    if not cases:
        return []
    names = [case_name(case) for case in cases]
    with tempfile.TemporaryDirectory(prefix="lldm3d-") as folder:
        paths = {name: Path(folder, name.strip("{}")) for name in PLACEHOLDERS}
        for path in paths.values():
            path.mkdir()
        for name, case in zip(names, cases, strict=True):
            (paths["{images}"] / f"{name}_0000.nii.gz").symlink_to(case["image"])
        words = shlex.split(command)
        for placeholder, path in paths.items():
            words = [word.replace(placeholder, str(path)) for word in words]
        run(words)
        written = [paths["{labels}"] / f"{name}.nii.gz" for name in names]
        return [score(path, case, schema) for path, case in zip(written, cases, strict=True)]


def run(words: list[str]) -> None:
    status = subprocess.run(words).returncode
    if status:
        raise UserError(f"{OPTION}: {shlex.join(words)} ended with status {status}; see its messages above")


def score(path: Path, case: dict, schema: Schema) -> dict[str, dict[str, float]]:
    """Agreement of a written label map with the label of its case."""
    if not path.is_file():
        raise UserError(f"{OPTION}: wrote no {path.name} for {case['image']}; one is needed for each image")
    pred, affine = load_nifti(path)
    check_grid(f"{OPTION}: {path.name}", pred, affine, schema)
    check_label(f"{OPTION}: {path.name}", pred, schema)
    return agreement(pred.astype("uint8"), read(case, schema), schema)
