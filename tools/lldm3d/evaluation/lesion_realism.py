"""Do new lesions in real scans look like real ones? Crops of twice the long axis, figures with floors (SYSTEMS 5).

Lesions count alike whatever their size. Real ones are drawn by patient, new ones by scan.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from scipy import ndimage
from tqdm import tqdm

from lldm3d.data.dataset import SPLITS, Case, Schema
from lldm3d.data.scans import Scan, read_pair
from lldm3d.evaluation.distances import compare, fid, kid, wasserstein
from lldm3d.evaluation.features import CONTENT, Segmenter
from lldm3d.evaluation.metrics import Metric, Row
from lldm3d.lesions.masks import lesion_parts, long_axis
from lldm3d.lesions.placement import CUBE
from lldm3d.pairs.folder import manifest_of

SHELL = 2  # voxels round a lesion
QUANTILES = np.linspace(0, 1, 33)  # of a lesion's intensities, that stand for all of them
FINE = 1.0  # voxels: what a Gaussian of this deviation takes away is texture
FOLDS = 5  # of the cross-validation, and the fewest patients of a side
CROP_SIDES = 32  # voxels of a crop for the segmentation network, whatever the lesion's length
RIDGE = 1.0  # on a classifier's weights, in variances of its measures


@dataclass(frozen=True)
class LesionLook:
    """What is measured of a lesion and of its surroundings."""

    patient: str
    inside: np.ndarray  # quantiles of the image
    shell: np.ndarray  # the same of the shell; empty where it has no voxel
    edge: float  # gradient, 1/mm
    within: np.ndarray  # measures of the lesion and its edge
    around: np.ndarray  # measures of what lies in the crop beside it
    features: np.ndarray  # of the crop by a segmentation network; empty without one


Looks = Sequence[Sequence[LesionLook]]  # of each patient, or scan


def lesion_look(
    scan: Scan,
    mask: np.ndarray,
    others: np.ndarray,
    spacing: tuple[float, float, float],
    patient: str,
    segmenter: Segmenter | None = None,
) -> LesionLook:
    """Measure a lesion, in a crop of twice its long axis along each axis or as far as the scan reaches.

    Of lesion, shell and all outside: `region_measures`. Of the lesion also its darkest and brightest tenth, its middle
    less its border, itself less the shell, and the gradient at its edge; of the shell itself less all outside. Neither
    size nor shape: masks are compared apart (`lesion_shapes`). What lies around is measured with the lesion filled.

    Args:
        mask: of the lesion [X, Y, Z].
        others: of other lesions, which are no surroundings.
        spacing: mm.
    """
    half = np.ceil(long_axis(mask, spacing) / np.array(spacing)).astype(int) + SHELL
    centre = np.rint(np.argwhere(mask).mean(0)).astype(int)
    box = tuple(slice(max(c - h, 0), c + h + 1) for c, h in zip(centre, half, strict=True))
    image, mask, others = scan.image[box].astype(float), mask[box], others[box]
    core, wider = ndimage.binary_erosion(mask), ndimage.binary_dilation(mask)
    shell = ndimage.binary_dilation(mask, CUBE, iterations=SHELL) & ~mask & ~others
    edge = float(np.linalg.norm(np.gradient(image, *spacing), axis=0)[wider & ~core].mean())
    filled = np.where(mask, image[shell if shell.any() else ~mask].mean(), image)
    lesion = region_measures(image, mask)
    near, outside = (region_measures(filled, region) for region in (shell, ~mask & ~others))
    middle = image[core].mean() - image[mask & ~core].mean() if core.any() else 0.0
    tenths = np.quantile(image[mask], (0.1, 0.9))
    return LesionLook(
        patient,
        np.quantile(image[mask], QUANTILES),
        np.quantile(image[shell], QUANTILES) if shell.any() else np.empty(0),
        edge,
        np.array([*lesion, *tenths, middle, lesion[0] - near[0], edge]),
        np.array([*near, *outside, near[0] - outside[0]]),
        crop_features(image, segmenter) if segmenter else np.empty(0),
    )


def crop_features(image: np.ndarray, segmenter: Segmenter) -> np.ndarray:
    """Features of content [D] of a crop, resampled to a cube of `CROP_SIDES` voxels."""
    zoomed = ndimage.zoom(image, CROP_SIDES / np.array(image.shape), order=1, mode="nearest", grid_mode=True)
    return segmenter(zoomed)[0][CONTENT]


def region_measures(image: np.ndarray, region: np.ndarray) -> tuple[float, float, float]:
    """Mean and deviation of intensities in a region, and the deviation of their fine texture; 0 where it is empty."""
    if not region.any():
        return 0.0, 0.0, 0.0
    fine = image - ndimage.gaussian_filter(image, FINE)
    return image[region].mean(), image[region].std(), fine[region].std()


def looks_of(
    scan: Scan,
    case: Case,
    name: str,
    schema: Schema,
    segmenter: Segmenter | None = None,
    new: np.ndarray | None = None,
) -> list[LesionLook]:
    """The lesions of a class in a scan, 26-connected, but those that the edge of the scan cuts.

    Args:
        new: voxels [X, Y, Z] that are new; lesions without any are left out.
    """
    value, found = schema.class_names.index(name), []
    lesions = np.isin(scan.label, [schema.class_names.index(lesion) for lesion in schema.lesions])
    for part, box in lesion_parts(scan.label, value):
        cut = any(axis.start == 0 or axis.stop == size for axis, size in zip(box, scan.label.shape, strict=True))
        if cut or (new is not None and not new[box][part].any()):
            continue
        mask = np.zeros(scan.label.shape, bool)
        mask[box] = part
        found.append(lesion_look(scan, mask, lesions & ~mask, schema.spacing, case.patient, segmenter))
    return found


def real_looks(cases: Sequence[Case], name: str, schema: Schema, segmenter: Segmenter | None = None) -> Looks:
    """Of each patient that has lesions of a class."""
    found: dict[str, list[LesionLook]] = {}
    for case in tqdm([case for case in cases if case.label], desc=f"evaluate {name}", mininterval=1):
        found.setdefault(case.patient, []).extend(looks_of(read_pair(case, schema), case, name, schema, segmenter))
    return [looks for looks in found.values() if looks]


def new_looks(
    cases: Sequence[Case], sources: dict[str, Case], name: str, schema: Schema, segmenter: Segmenter | None = None
) -> Looks:
    """Of each edited scan the lesions that the real scan has not.

    Args:
        sources: by the name of an edited scan the real one.
    """
    found = []
    for case in tqdm([case for case in cases if case.name in sources], desc=f"evaluate new {name}", mininterval=1):
        scan, before = read_pair(case, schema), read_pair(sources[case.name], schema)
        found.append(looks_of(scan, case, name, schema, segmenter, scan.label != before.label))
    return [looks for looks in found if looks]


def sources_of(folder: str | Path, cases: dict[str, list[Case]]) -> dict[str, Case]:
    """By the name of each edited scan in a folder of pairs the scan that it was, where the real splits have that."""
    known, found = {case.name: case for split in SPLITS for case in cases[split] if case.label}, {}
    for case in manifest_of(Path(folder))["cases"]:
        edits = case.get("edits")
        scans = {row.get("scan") for row in (edits if isinstance(edits, list) else []) if isinstance(row, dict)}
        if len(scans) == 1 and (scan := scans.pop()) in known:
            found[case["name"]] = known[scan]
    return found


def realism_rows(
    folder: str | Path, cases: dict[str, list[Case]], schema: Schema, segmenter: Segmenter | None = None
) -> list[Row]:
    """The figures of each class of lesions that edited scans have; none where no scan was edited.

    Args:
        folder: of the pairs, whose manifest says which are edited scans.
        cases: of each split of the real data set, and "synthetic".
        segmenter: whose features the distances of crops take; without one those are left out.
    """
    identity = segmenter.spaces[0].identity if segmenter else {}
    sources, rows = sources_of(folder, cases) if schema.lesions else {}, []
    for name in schema.lesions if sources else ():
        ours = new_looks(cases["synthetic"], sources, name, schema, segmenter)
        sides = ours, *(real_looks(cases[split], name, schema, segmenter) for split in ("training", "test"))
        for metric, (measure, least) in MEASURES.items() if ours else ():
            rows += [Row(metric, class_name=name, **vars(item)) for item in compare(measure, *sides, least=least)]
        for metric, distance in CROP_DISTANCES.items() if ours and segmenter else ():
            compared = compare(partial(feature_distance, distance), *sides)
            rows += [Row(metric, class_name=name, **identity, **vars(item)) for item in compared]
    return rows


def pooled(looks: Looks, key: str) -> list:
    return [getattr(look, key) for case in looks for look in case]


def intensity_distance(key: str, ours: Looks, real: Looks) -> float:
    """Wasserstein distance of the intensities, of the prepared range of 0 to 1."""
    return wasserstein(pooled(ours, key), pooled(real, key))


def feature_distance(distance: Callable, ours: Looks, real: Looks) -> float:
    """FID or KID of the crops. Lengths of lesions count in it too: crops are resampled to one size."""
    return distance(np.array(pooled(ours, "features")), np.array(pooled(real, "features")))


def edge_ratio(ours: Looks, real: Looks) -> float:
    """Mean gradient at the edge over that of real lesions: below 1 edges are blurred."""
    return float(np.mean(pooled(ours, "edge")) / np.mean(pooled(real, "edge")))


def separability(keys: Sequence[str], ours: Looks, real: Looks) -> float:
    """Area under the ROC curve of a classifier that tells new lesions from real ones; 0.5 where it cannot.

    A linear discriminant with a ridge on a dozen standardised measures, which 15 patients suffice for; five folds by
    patient, and the area within each fold, as thresholds of folds differ. In closed form, since an evaluation fits a
    thousand: a logistic regression of statsmodels takes a hundred times as long. A copy of a real lesion of another
    fold counts as real: copy-paste may have less than 0.5.
    """
    sides = np.repeat([1, 0], [len(pooled(ours, "edge")), len(pooled(real, "edge"))])
    samples = np.concatenate([np.array([*pooled(ours, key), *pooled(real, key)]) for key in keys], 1)
    folds = folds_of([*pooled(ours, "patient"), *pooled(real, "patient")], sides)
    won, pairs = 0.0, 0
    for number in range(FOLDS):
        held = folds == number
        if len({*sides[held]}) < 2 or len({*sides[~held]}) < 2:
            continue
        scores = samples[held] @ discriminant(samples[~held], sides[~held])
        gaps = scores[sides[held] == 1][:, None] - scores[sides[held] == 0]
        won, pairs = won + (gaps > 0).sum() + (gaps == 0).sum() / 2, pairs + gaps.size
    return won / pairs if pairs else np.nan


def folds_of(patients: Sequence[str], sides: np.ndarray) -> np.ndarray:
    """The fold [N] of each lesion, by patient: those of one side, of the other and of both are dealt out in turn."""
    held: dict[str, set[int]] = {}
    for patient, side in zip(patients, sides.tolist(), strict=True):
        held.setdefault(patient, set()).add(side)
    order = sorted(held, key=lambda patient: sorted(held[patient]))
    place = {patient: number % FOLDS for number, patient in enumerate(order)}
    return np.array([place[patient] for patient in patients])


def discriminant(samples: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """The weights [K] of ridge regression of the side on standardised measures [N, K]: Fisher's discriminant."""
    spreads = samples.std(0) + 1e-9
    scaled = (samples - samples.mean(0)) / spreads
    covariance = scaled.T @ scaled / len(scaled)
    weights = np.linalg.solve(covariance + RIDGE * np.eye(len(spreads)), scaled.T @ (sides - sides.mean()))
    return weights / spreads


# each with the fewest patients or scans of a side
MEASURES = {
    Metric.LESION_AUC: (partial(separability, ("within", "around")), FOLDS),
    Metric.MASKED_LESION_AUC: (partial(separability, ("around",)), FOLDS),
    Metric.LESION_INTENSITY_DISTANCE: (partial(intensity_distance, "inside"), 2),
    Metric.SHELL_INTENSITY_DISTANCE: (partial(intensity_distance, "shell"), 2),
    Metric.EDGE_GRADIENT_RATIO: (edge_ratio, 2),
}
CROP_DISTANCES = {Metric.LESION_FID: fid, Metric.LESION_KID: kid}
