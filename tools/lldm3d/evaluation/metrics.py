"""The metrics and what each compares, by key; the table of figures that an evaluation writes, and how it is read."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import pandas as pd

from lldm3d.data.dataset import read_description
from lldm3d.errors import UserError
from lldm3d.files import atomic_write, read_json
from lldm3d.statistics import bootstrap_interval

FORMAT = 4  # of metrics.json: raised when a key changes its name or its meaning
FIDELITY, DIVERSITY, LABELS = "fidelity", "diversity", "labels"
ALIGNMENT, PAIRED, COPIES, SLICES, LESIONS = "alignment", "paired", "copies", "slices", "lesions"
LOWER, HIGHER, NEAR_FLOOR = "lower", "higher", "near floor"


class Metric(StrEnum):
    """A metric: the key by which programs find it; group, title, direction (what is good) and unit for readers."""

    FID = "fid", FIDELITY, "FID", LOWER
    KID = "kid", FIDELITY, "KID", LOWER
    FID_RATIO = "fid_ratio", FIDELITY, "FID ratio", LOWER
    KID_RATIO = "kid_ratio", FIDELITY, "KID ratio", LOWER
    PRECISION = "precision", FIDELITY, "precision", HIGHER
    DENSITY = "density", FIDELITY, "density", HIGHER
    RECALL = "recall", DIVERSITY, "recall", HIGHER
    COVERAGE = "coverage", DIVERSITY, "coverage", HIGHER
    PAIRWISE_SSIM = "pairwise_ssim", DIVERSITY, "SSIM of pairs", NEAR_FLOOR
    PAIRWISE_MS_SSIM = "pairwise_ms_ssim", DIVERSITY, "MS-SSIM of pairs", NEAR_FLOOR
    DRAW_DIVERSITY = "draw_diversity", DIVERSITY, "1 − MS-SSIM of two draws", HIGHER
    DRAW_LPIPS = "draw_lpips", DIVERSITY, "LPIPS of two draws", HIGHER
    VOLUME_DISTANCE = "volume_distance", LABELS, "volume: Wasserstein distance", LOWER, "ml"
    COMPONENTS_DISTANCE = "components_distance", LABELS, "components: Wasserstein distance", LOWER
    EULER_NUMBER_DISTANCE = "euler_number_distance", LABELS, "Euler number: Wasserstein distance", LOWER
    SKELETON_LENGTH_DISTANCE = "skeleton_length_distance", LABELS, "skeleton length: Wasserstein distance", LOWER, "mm"
    CONTINUITY_DISTANCE = "continuity_distance", LABELS, "continuity: Wasserstein distance", LOWER
    LESION_COUNT_DISTANCE = "lesion_count_distance", LABELS, "lesion count: Wasserstein distance", LOWER
    LESION_AXIS_DISTANCE = "lesion_long_axis_distance", LABELS, "lesion long axis: Wasserstein distance", LOWER, "mm"
    HELD_SHARE = "held_share", LABELS, "held share", HIGHER
    ENCLOSED_SHARE = "enclosed_share", LABELS, "enclosed share", HIGHER
    SHAPE_PRECISION = "shape_precision", LABELS, "shape precision", HIGHER
    SHAPE_RECALL = "shape_recall", LABELS, "shape recall", HIGHER
    ONE_ORGAN = "one_organ", LABELS, "one organ", HIGHER
    ALIGNMENT_DICE = "alignment_dice", ALIGNMENT, "Dice", HIGHER
    ALIGNMENT_DICE_RATIO = "alignment_dice_ratio", ALIGNMENT, "Dice ratio", HIGHER
    ALIGNMENT_RECALL = "alignment_recall", ALIGNMENT, "recall of the label", HIGHER
    ALIGNMENT_RECALL_RATIO = "alignment_recall_ratio", ALIGNMENT, "recall ratio", HIGHER
    ALIGNMENT_HD95 = "alignment_hd95", ALIGNMENT, "HD95", LOWER, "mm"
    ALIGNMENT_MISSED = "alignment_missed", ALIGNMENT, "share missed", LOWER
    PAIRED_PSNR = "paired_psnr", PAIRED, "PSNR", HIGHER, "dB"
    PAIRED_SSIM = "paired_ssim", PAIRED, "SSIM", HIGHER
    PAIRED_MS_SSIM = "paired_ms_ssim", PAIRED, "MS-SSIM", HIGHER
    PAIRED_LPIPS = "paired_lpips", PAIRED, "LPIPS", LOWER
    THROUGH_PLANE_STEP = "through_plane_step", SLICES, "step between slices", NEAR_FLOOR
    THROUGH_PLANE_FLICKER = "through_plane_flicker", SLICES, "flicker of slices", NEAR_FLOOR
    THROUGH_PLANE_CLASS_MEANS = "through_plane_class_means", SLICES, "spread of slice means", NEAR_FLOOR
    PLANE_GAP = "fid_plane_gap", SLICES, "FID across slices", NEAR_FLOOR
    LESION_AUC = "lesion_auc", LESIONS, "AUC of new against real lesions", NEAR_FLOOR
    MASKED_LESION_AUC = "masked_lesion_auc", LESIONS, "AUC with the lesions masked", NEAR_FLOOR
    LESION_INTENSITY_DISTANCE = "lesion_intensity_distance", LESIONS, "lesion intensity: Wasserstein distance", LOWER
    SHELL_INTENSITY_DISTANCE = "shell_intensity_distance", LESIONS, "shell intensity: Wasserstein distance", LOWER
    EDGE_GRADIENT_RATIO = "edge_gradient_ratio", LESIONS, "gradient at the edge over real lesions", NEAR_FLOOR
    LESION_FID = "lesion_fid", LESIONS, "FID of crops round lesions", LOWER
    LESION_KID = "lesion_kid", LESIONS, "KID of crops round lesions", LOWER
    NEAR_COPIES_SHARE = "near_copies_share", COPIES, "share of near copies", LOWER
    NEAR_COPIES = "near_copies", COPIES, "near copies", LOWER, "cases"
    NEARER_SHARE = "nearer_share", COPIES, "share nearer than 5 % of held-out cases", LOWER
    NEAREST_DISTANCE = "nearest_distance", COPIES, "median distance to the nearest training case", HIGHER

    def __new__(cls, key: str, group: str, title: str, direction: str, unit: str = "") -> "Metric":
        member = str.__new__(cls, key)
        member._value_ = key
        member.group, member.title, member.direction, member.unit = group, title, direction, unit
        return member


class Compared(StrEnum):
    """What a figure compares: a key, and the words for it, what is synthetic first."""

    SYNTHETIC_TRAINING = "synthetic_training", "synthetic / real training"
    SYNTHETIC_TEST = "synthetic_test", "synthetic / real test"
    SYNTHETIC_HELD_OUT = "synthetic_held_out", "synthetic / real held-out, to nearest training case"
    SYNTHETIC_ALL_TRAINING = "synthetic_all_training", "synthetic / all real training"
    BLURRED_TRAINING = "blurred_training", "blurred real training / real training"
    BLURRED_ALL_TRAINING = "blurred_all_training", "blurred real training / the same, sharp"
    SYNTHETIC_BLURRED = "synthetic_blurred", "synthetic / blurred, both to all real training"
    AMONG_SYNTHETIC = "among_synthetic", "pairs of synthetic / pairs of real training"
    SYNTHETIC_ALONE = "synthetic_alone", "synthetic; floor: real"
    LABEL_SEGMENTATION = "label_segmentation", "label of a synthetic pair / segmentation of its image"
    PAIRS_TEST = "pairs_test", "synthetic pairs / real test"
    SAME_LABEL = "same_label", "synthetic / real image with the same label"
    SAME_LABEL_TWICE = "same_label_twice", "two synthetic images with the same label"

    def __new__(cls, key: str, title: str) -> "Compared":
        member = str.__new__(cls, key)
        member._value_, member.title = key, title
        return member


@dataclass(frozen=True)
class Row:
    """One figure. `value` is None where it cannot be had; `note` then says why."""

    metric: Metric
    compared: Compared
    value: float | None = None
    class_name: str | None = None
    variant: str | None = None  # feature space or program, where it is not the segmentation network's own content
    interval: tuple[float, float] | None = None  # 95 %
    n: int | None = None  # cases on each side
    floor: float | None = None  # what real data gets by the same computation
    network: str | None = None  # the network that the figure depends on, and the SHA-256 of its weights
    weights: str | None = None
    note: str = ""

    def as_dict(self) -> dict:
        """The row as in metrics.json: keys for programs, words for readers; NaN and infinity become None."""
        low, high = map(finite, self.interval or (None, None))
        metric = self.metric
        return {
            "key": str(metric),
            "variant": self.variant,
            "compared": str(self.compared),
            "class": self.class_name,
            "group": metric.group,
            "name": f"{metric.title}, {self.variant}" if self.variant else metric.title,
            "between": self.compared.title,
            "value": finite(self.value),
            "interval_low": None if high is None else low,
            "interval_high": None if low is None else high,
            "unit": metric.unit,
            "direction": metric.direction,
            "n": self.n,
            "floor": finite(self.floor),
            "network": self.network,
            "weights": self.weights,
            "note": self.note,
        }


def mean_row(
    metric: Metric, compared: Compared, ours: np.ndarray, real: np.ndarray, note: str, **identity: str | None
) -> Row:
    """The mean of the values [N] of cases with its interval, and of real ones [M]; None where there are no values."""
    value, floor = (float(np.mean(values)) if len(values) else None for values in (ours, real))
    interval = bootstrap_interval(np.mean, ours)
    return Row(metric, compared, value, interval=interval, n=len(ours), floor=floor, note=note, **identity)


def finite(value: float | None) -> float | None:
    """`value` as a float, or None where it is None, NaN or infinite."""
    return float(value) if value is not None and math.isfinite(value) else None


def read_metrics(path: str | Path) -> dict:
    """The content of a `metrics.json`. Raises UserError where the file is missing, broken or of another version."""
    content = read_description(Path(path))
    again = "evaluate these data again (`lldm3d evaluate --overwrite`)"
    if content.get("format") != FORMAT:
        raise UserError(f"{path}: has the format {content.get('format')}, this version reads {FORMAT}; {again}")
    if not isinstance(content.get("rows"), list):
        raise UserError(f"{path}: has no list of rows; {again}")
    return content


def find_rows(rows: Iterable[dict], metric: Metric, compared: Compared | None = None) -> list[dict]:
    """The rows of a metric that have a value, of all classes and variants; None compares anything."""
    known = [row for row in rows if row.get("key") == metric and row["value"] is not None]
    return [row for row in known if compared in (None, row["compared"])]


def find_row(
    rows: Iterable[dict],
    metric: Metric,
    compared: Compared | None = None,
    class_name: str | None = None,
    variant: str | None = None,
) -> dict | None:
    """The first row of a metric that has a value, of just this class and variant."""
    found = find_rows(rows, metric, compared)
    return next((row for row in found if (row["class"], row["variant"]) == (class_name, variant)), None)


def near_copies_share(metrics: dict) -> tuple[float, int] | None:
    """The share of near copies in the content of a `metrics.json`, and of how many cases; None if not measured."""
    row = find_row(metrics.get("rows", []), Metric.NEAR_COPIES_SHARE)
    return (row["value"], row["n"]) if row else None


def most_copies(paths: Iterable[Path]) -> tuple[Path, float, int] | None:
    """Of some `metrics.json` the one with the largest share of near copies, the share, and of how many cases."""
    found = [(path, *share) for path in paths if (share := near_copies_share(read_json(path)))]
    return max(found, key=lambda item: item[1:], default=None)


def format_number(value: float | None, signed: bool = False) -> str:
    """A figure for reading: three digits or so; a dash where there is none."""
    if value is None:
        return "–"
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3 if size >= 0.01 else None
    if value == int(value):
        text = f"{int(value):,}"
    elif digits is None:
        text = f"{value:.2g}" if size >= 1e-4 else f"{value:.1e}"
    else:
        text = f"{value:,.{digits}f}"
    return (f"+{text}" if signed and value > 0 else text).replace("-", "−")


def write_csv(path: str | Path, columns: Sequence[str] | None, rows: Iterable[dict] | pd.DataFrame) -> None:
    """Write rows as CSV, or with tabs to a `.tsv`; what is None or absent stays empty, and entries beside `columns`
    (None: all) are left out. Names that come from data are no formulas: see `as_text`."""
    table = pd.DataFrame(rows, columns=columns)
    if "n" in table:
        table["n"] = table["n"].astype("Int64")  # else a single absent count would make all of them floats
    for name in table.select_dtypes(exclude="number"):
        table[name] = pd.Series(map(as_text, table[name]), table.index, object)
    with atomic_write(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n", sep="\t" if Path(path).suffix == ".tsv" else ",")


def read_csv(path: str | Path, **options: object) -> pd.DataFrame:
    """What `write_csv` wrote, with the options of pandas, as it was. Raises ValueError where it is no table."""
    table = pd.read_csv(path, **options)
    for name in table.select_dtypes(exclude="number"):
        table[name] = [cell.removeprefix("'") if isinstance(cell, str) else cell for cell in table[name]]
    return table


def as_text(cell: object) -> object:
    """The cell, with an apostrophe before a text that a spreadsheet would calculate, or that has one itself.

    Source: OWASP, CSV Injection. Numbers stay as they are.
    """
    if not isinstance(cell, str) or cell[:1] not in tuple("=+-@\t\r\n'"):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell
