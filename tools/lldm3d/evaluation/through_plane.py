"""Do the slices of a volume fit each other? How much grey values change from one axial slice to the next.

Only between voxels of the same class, so that the borders of organs, which the label says, do not count. All are
ratios to real test volumes, of which 1 is right: above it slices flicker, below it they are smeared over each other.
"""

from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from lldm3d.data.dataset import Case, Schema
from lldm3d.data.scans import read_pair
from lldm3d.evaluation.metrics import Compared, Metric, Row
from lldm3d.statistics import bootstrap_interval

MOST = 50  # training cases, for the floor
Found = dict[tuple[Metric, str | None], float]  # (metric, class): value of a case


def through_plane(image: np.ndarray, label: np.ndarray, class_names: Sequence[str]) -> Found:
    """The figures of a volume [X, Y, Z] and its label; NaN of a class that has no two slices.

    Step: mean of |x(k+1) - x(k)|. Flicker: mean of |x(k-1) - 2 x(k) + x(k+1)|. Of each class but the background the
    standard deviation, over the slices, of its mean in a slice.
    """
    same = label[..., 1:] == label[..., :-1]
    both = same[..., 1:] & same[..., :-1]
    found = {
        (Metric.THROUGH_PLANE_STEP, None): mean_of(np.abs(np.diff(image))[same]),
        (Metric.THROUGH_PLANE_FLICKER, None): mean_of(np.abs(np.diff(image, n=2))[both]),
    }
    for value, name in list(enumerate(class_names))[1:]:
        mask = label == value
        voxels, sums = mask.sum((0, 1)), (image * mask).sum((0, 1))
        means = sums[voxels > 0] / voxels[voxels > 0]
        found[Metric.THROUGH_PLANE_CLASS_MEANS, name] = float(means.std()) if len(means) > 1 else np.nan
    return found


def mean_of(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else np.nan


def through_plane_rows(
    synthetic: Sequence[Case], training: Sequence[Case], test: Sequence[Case], schema: Schema
) -> list[Row]:
    """Each figure of the synthetic cases over that of the test cases; floor: training cases over test cases."""
    ours, other, real = (figures_of(cases, schema) for cases in (synthetic, training[:MOST], test))
    rows = []
    for metric, name in {key: None for case in ours for key in case}:
        values, floor, true = (values_of(found, (metric, name)) for found in (ours, other, real))
        common = {"class_name": name, "n": min(len(values), len(true))}
        if not len(values) or not len(true) or not true.mean() > 0:
            rows.append(Row(metric, Compared.PAIRS_TEST, note="no two slices of a case to compare", **common))
            continue
        common |= {"interval": bootstrap_interval(ratio, values, true), "note": "over real test volumes: 1 is right"}
        common |= {"floor": ratio(floor, true) if len(floor) else None}
        rows.append(Row(metric, Compared.PAIRS_TEST, ratio(values, true), **common))
    return rows


def figures_of(cases: Sequence[Case], schema: Schema) -> list[Found]:
    """Of each case that has a label."""
    labelled = [case for case in cases if case.label]
    scans = (read_pair(case, schema) for case in tqdm(labelled, desc="evaluate slices", mininterval=1))
    return [through_plane(scan.image, scan.label, schema.class_names) for scan in scans]


def values_of(found: list[Found], key: tuple[Metric, str | None]) -> np.ndarray:
    values = np.array([case[key] for case in found], float)
    return values[~np.isnan(values)]


def ratio(ours: np.ndarray, real: np.ndarray) -> float:
    return float(ours.mean() / real.mean())
