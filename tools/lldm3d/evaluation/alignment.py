"""Alignment: does a segmentation network find in a synthetic image what its label says?"""

import shlex
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from lldm3d import agreement
from lldm3d.data.dataset import Case, Schema
from lldm3d.data.scans import check_grid, check_label, read_label
from lldm3d.data.volumes import load_volume
from lldm3d.errors import UserError
from lldm3d.evaluation.metrics import Compared, Metric, Row, mean_row
from lldm3d.evaluation.records import Scores
from lldm3d.statistics import bootstrap_interval


def class_agreement(pred: np.ndarray, label: np.ndarray, schema: Schema) -> Scores:
    """{"dice" | "recall" | "hd95" | "voxels": {class: value}} of a prediction [X, Y, Z] against the label [X, Y, Z].

    Only classes that the label holds. HD95 in mm is NaN where the prediction lacks the class; voxels are the label's.
    """
    result = {"dice": {}, "recall": {}, "hd95": {}, "voxels": {}}
    for value, name in list(enumerate(schema.class_names))[1:]:
        truth, guess = label == value, pred == value
        if truth.any():
            result["dice"][name] = agreement.dice(guess, truth)
            result["recall"][name] = float((truth & guess).sum() / truth.sum())
            result["hd95"][name] = agreement.hd95(guess, truth, schema.spacing)
            result["voxels"][name] = float(truth.sum())
    return result


WANTED_RATIO = 0.8
THIRDS, MIN_THIRD = ("small third", "middle third", "large third"), 3  # variants of rows; real cases in each
MEANS = {"dice": Metric.ALIGNMENT_DICE, "recall": Metric.ALIGNMENT_RECALL, "hd95": Metric.ALIGNMENT_HD95}
RATIOS = {"dice": Metric.ALIGNMENT_DICE_RATIO, "recall": Metric.ALIGNMENT_RECALL_RATIO}


def alignment_rows(synthetic: list[Scores], test: list[Scores], schema: Schema, identity: dict) -> list[Row]:
    """Dice, recall, HD95 and share missed of each class on synthetic pairs, beside real test cases, and ratios.

    Below them Dice and share missed of the small, the middle and the large of each class.
    """
    rows = []
    for name in schema.class_names[1:]:
        for key, metric in MEANS.items():
            ours, real = class_scores(synthetic, key, name), class_scores(test, key, name)
            common = {"class_name": name, **identity}
            rows.append(agreement_row(metric, ours, real, common))
            if key in RATIOS:
                rows.append(ratio_row(RATIOS[key], ours, real, common))
            if key == "recall":
                rows.append(agreement_row(Metric.ALIGNMENT_MISSED, ours == 0, real == 0, common))
    return rows + [row for name in schema.class_names[1:] for row in size_rows(synthetic, test, name, identity)]


def size_rows(synthetic: list[Scores], test: list[Scores], name: str, identity: dict) -> list[Row]:
    """Dice and share missed of a class by its size: the thirds of the real test cases that have it."""
    sizes, real_sizes = (class_scores(scores, "voxels", name) for scores in (synthetic, test))
    if len(real_sizes) < len(THIRDS) * MIN_THIRD:
        return []
    bounds, rows = np.quantile(real_sizes, [1 / 3, 2 / 3]), []
    ours, real = (class_scores(scores, "dice", name) for scores in (synthetic, test))
    for number, third in enumerate(THIRDS):
        inside, real_inside = (np.digitize(found, bounds) == number for found in (sizes, real_sizes))
        common = {**identity, "class_name": name, "variant": " ".join(filter(None, (identity.get("variant"), third)))}
        a, b = ours[inside], real[real_inside]
        rows.append(agreement_row(Metric.ALIGNMENT_DICE, a, b, common))
        rows.append(agreement_row(Metric.ALIGNMENT_MISSED, a == 0, b == 0, common))
    return rows


def class_scores(scores: list[Scores], key: str, name: str) -> np.ndarray:
    """The values of all cases whose label holds the class; NaN where HD95 is undefined."""
    return np.array([case[key][name] for case in scores if name in case[key]], float)


def agreement_row(metric: Metric, ours: np.ndarray, real: np.ndarray, common: dict) -> Row:
    lost = int(np.isnan(ours).sum())
    ours, real = ours[~np.isnan(ours)], real[~np.isnan(real)]
    note = f"floor: {len(real)} real test cases" if len(real) else "no real test case has this class"
    if lost:
        note += f"; undefined in {lost} synthetic cases, where the network finds nothing"
    if not len(ours):
        note = f"undefined in all {lost} synthetic cases that have this class" if lost else "no synthetic case is here"
    return mean_row(metric, Compared.LABEL_SEGMENTATION, ours, real, note, **common)


def ratio_row(metric: Metric, ours: np.ndarray, real: np.ndarray, common: dict) -> Row:
    """Mean on synthetic pairs as a share of the mean on real test cases."""

    def ratio(a: np.ndarray, b: np.ndarray) -> float:
        return a.mean() / b.mean() if b.mean() > 0 else np.nan

    known = len(ours) and len(real) and real.mean() > 0
    row = Row(
        metric, Compared.PAIRS_TEST, n=min(len(ours), len(real)), note="no synthetic case has this class", **common
    )
    if not known:
        return replace(row, note="no real test case in which the network finds this class") if len(ours) else row
    interval = bootstrap_interval(ratio, ours, real)
    return replace(row, value=float(ratio(ours, real)), interval=interval, note=f"at least {WANTED_RATIO} is wanted")


OPTION, PLACEHOLDERS = "--segmenter_command", ("{images}", "{labels}")


def check_command(command: str) -> None:
    """Raises UserError where the command cannot be found, or does not say where it reads and writes."""
    if missing := [name for name in PLACEHOLDERS if name not in command]:
        raise UserError(
            f"{OPTION} {command!r}: has no {' and no '.join(missing)}; give a command such as "
            "'nnUNetv2_predict -i {images} -o {labels} -d 4 -c 3d_fullres -f all'"
        )
    try:
        program = shlex.split(command)[0]
    except ValueError as error:
        raise UserError(f"{OPTION} {command!r}: {error}; close each quotation mark") from None
    if shutil.which(program) is None:
        raise UserError(f"{OPTION}: there is no program {program!r}; install it, or give its path")


def command_rows(command: str, synthetic: list[Case], test: list[Case], schema: Schema) -> list[Row]:
    """The rows of alignment by what `command` makes of the images; its program is their variant.

    The command runs once for the synthetic and once for the test cases: `{images}` is a folder with the images as
    `<case>_0000.nii.gz` (nnU-Net's names), and `{labels}` an empty folder in which it writes `<case>.nii.gz` with the
    values of the data set's classes.

    Raises:
        UserError: where the command fails, or a label map is missing or does not fit its image.
    """
    scores = (command_scores(command, cases, schema) for cases in (synthetic, test))
    program = Path(shlex.split(command)[0]).name
    return alignment_rows(*scores, schema, {"network": command, "variant": program})


def command_scores(command: str, cases: list[Case], schema: Schema) -> list[Scores]:
    """The agreement of the command's label maps with the labels of the cases."""
    if not cases:
        return []
    with tempfile.TemporaryDirectory(prefix="lldm3d-") as folder:
        images, labels = Path(folder, "images"), Path(folder, "labels")
        images.mkdir()
        labels.mkdir()
        for case in cases:
            (images / f"{case.name}_0000.nii.gz").symlink_to(case.image)
        words = shlex.split(command)
        words = [word.replace("{images}", str(images)).replace("{labels}", str(labels)) for word in words]
        if status := subprocess.run(words).returncode:
            raise UserError(f"{OPTION}: {shlex.join(words)} ended with status {status}; see its messages above")
        return [score_prediction(labels / f"{case.name}.nii.gz", case, schema) for case in cases]


def score_prediction(path: Path, case: Case, schema: Schema) -> Scores:
    """Agreement of a written label map with the label of its case."""
    if not path.is_file():
        raise UserError(f"{OPTION}: wrote no {path.name} for {case.image}; one is needed for each image")
    pred, affine = load_volume(path, axes=schema.axes)
    check_grid(f"{OPTION}: {path.name}", pred.shape, affine, schema)
    check_label(f"{OPTION}: {path.name}", pred, schema)
    return class_agreement(pred.astype("uint8"), read_label(case.label, schema), schema)
