"""Alignment: does a segmentation network find in a synthetic image what its label says?"""

import shlex
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from lldm3d import agreement as metrics
from lldm3d.data.dataset import Schema
from lldm3d.errors import UserError
from lldm3d.evaluation.metrics import HIGHER, LOWER, Row, bootstrap
from lldm3d.evaluation.records import Survey
from lldm3d.evaluation.scans import Scan, case_name, check_grid, check_label, read
from lldm3d.files import load_nifti


def class_agreement(pred: np.ndarray, scan: Scan, schema: Schema) -> dict[str, dict[str, float]]:
    """{"dice" | "recall" | "hd95": {class: value}} of a prediction [X, Y, Z] against the label.

    Only classes that the label holds. HD95 in mm is NaN where the prediction lacks the class.
    """
    result = {"dice": {}, "recall": {}, "hd95": {}}
    for value, name in list(enumerate(schema.class_names))[1:]:
        truth, guess = scan.label == value, pred == value
        if truth.any():
            result["dice"][name] = metrics.dice(guess, truth)
            result["recall"][name] = float((truth & guess).sum() / truth.sum())
            result["hd95"][name] = metrics.hd95(guess, truth, schema.spacing)
    return result


WANTED_RATIO = 0.8
Scores = dict[str, dict[str, float]]  # metric: class: value, of a case
METRICS = {"dice": ("Dice", "", HIGHER), "recall": ("recall", "", HIGHER), "hd95": ("HD95", "mm", LOWER)}


def alignment_rows(synthetic: list[Scores], test: list[Scores], schema: Schema, identity: dict) -> list[Row]:
    """Dice, recall and HD95 of each class on synthetic pairs beside those on real test cases, and ratios to them."""
    rows = []
    for name in schema.class_names[1:]:
        for key, (title, unit, direction) in METRICS.items():
            ours, real = scores(synthetic, key, name), scores(test, key, name)
            common = {"group": "alignment", "class_name": name, **identity}
            rows.append(mean_row(title, unit, direction, ours, real, common))
            if key != "hd95":
                rows.append(ratio_row(title, ours, real, common))
    return rows


def scores(side: list[Scores], metric: str, name: str) -> np.ndarray:
    """The values of all cases whose label holds the class; NaN where HD95 is undefined."""
    return np.array([case[metric][name] for case in side if name in case[metric]], float)


def mean_row(title: str, unit: str, direction: str, ours: np.ndarray, real: np.ndarray, common: dict) -> Row:
    lost = int(np.isnan(ours).sum())
    ours, real = ours[~np.isnan(ours)], real[~np.isnan(real)]
    note = f"floor: {len(real)} real test cases" if len(real) else "no real test case has this class"
    if lost:
        note += f"; undefined in {lost} synthetic cases, where the network finds nothing"
    if not len(ours):
        note = f"undefined in all {lost} synthetic cases that have this class"
    return Row(
        name=title,
        unit=unit,
        between="label of a synthetic pair / segmentation of its image",
        value=float(ours.mean()) if len(ours) else None,
        interval=bootstrap(np.mean, ours) if len(ours) else None,
        n=len(ours),
        floor=float(real.mean()) if len(real) else None,
        direction=direction,
        note=note,
        **common,
    )


def ratio_row(title: str, ours: np.ndarray, real: np.ndarray, common: dict) -> Row:
    """Mean on synthetic pairs as a share of the mean on real test cases."""

    def ratio(a: np.ndarray, b: np.ndarray) -> float:
        return a.mean() / b.mean() if b.mean() > 0 else np.nan

    known = len(ours) and len(real) and real.mean() > 0
    reason = (
        f"at least {WANTED_RATIO} is wanted" if known else "no real test case in which the network finds this class"
    )
    return Row(
        name=f"{title} ratio",
        between="synthetic pairs / real test",
        value=float(ratio(ours, real)) if known else None,
        interval=bootstrap(ratio, ours, real) if known else None,
        n=min(len(ours), len(real)),
        direction=HIGHER,
        note=reason if len(ours) else "no synthetic case has this class",
        **common,
    )


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
        run_segmenter(words)
        written = [paths["{labels}"] / f"{name}.nii.gz" for name in names]
        return [score_prediction(path, case, schema) for path, case in zip(written, cases, strict=True)]


def run_segmenter(words: list[str]) -> None:
    status = subprocess.run(words).returncode
    if status:
        raise UserError(f"{OPTION}: {shlex.join(words)} ended with status {status}; see its messages above")


def score_prediction(path: Path, case: dict, schema: Schema) -> dict[str, dict[str, float]]:
    """Agreement of a written label map with the label of its case."""
    if not path.is_file():
        raise UserError(f"{OPTION}: wrote no {path.name} for {case['image']}; one is needed for each image")
    pred, affine = load_nifti(path)
    check_grid(f"{OPTION}: {path.name}", pred, affine, schema)
    check_label(f"{OPTION}: {path.name}", pred, schema)
    return class_agreement(pred.astype("uint8"), read(case, schema), schema)
