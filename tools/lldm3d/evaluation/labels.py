"""Label statistics: volumes, counts and lengths of each class, their distances with floors, and rules of anatomy."""

from collections.abc import Iterator

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial import cKDTree
from skimage.measure import euler_number
from skimage.measure import label as components
from skimage.morphology import skeletonize

from lldm3d.data.dataset import Schema
from lldm3d.evaluation.distances import NEIGHBOURS, compare, precision, recall, wasserstein
from lldm3d.evaluation.metrics import Compared, Metric, Row, mean_row
from lldm3d.evaluation.records import CaseRecords, Statistics
from lldm3d.lesions.masks import long_axis

RULES = {  # shares that anatomy wants high, of a class inside {}
    "held_share": "share of the components that touch {} or a class inside it",
    "enclosed_share": "share of the border voxels that are {} or a class inside it",
}


def metric_of(statistic: str) -> Metric:
    """The metric of a statistic of `label_statistics`: its distance between data sets, or the rule of anatomy."""
    return Metric(statistic if statistic in RULES else f"{statistic}_distance")


def label_statistics(label: np.ndarray, schema: Schema) -> Statistics:
    """All statistics of a label map [X, Y, Z]: {(statistic, class): values}, an empty array where none is defined.

    Counts and volumes are 0 where the class is absent. Components are 26-connected. The Euler number is that of
    components and cavities, less that of tunnels: a solid piece has 1, a loop of a vessel 0.
    """
    found: Statistics = {}
    for value, name in list(enumerate(schema.class_names))[1:]:
        mask = label == value
        parts, count = components(mask, return_num=True, connectivity=3)
        found["volume", name] = np.array([mask.sum() * np.prod(schema.spacing) / 1000])
        found["lesion_count" if name in schema.lesions else "components", name] = np.array([float(count)])
        found["euler_number", name] = np.array([float(euler_number(mask, connectivity=3))])
        if name in schema.tubular:
            skeleton = skeletonize(mask) if mask.any() else mask
            found["skeleton_length", name] = np.array([skeleton_length(skeleton, schema.spacing)])
            found["continuity", name] = continuity(skeleton, parts)
        if name in schema.lesions:
            boxes = ndimage.find_objects(parts)
            axes = [long_axis(parts[box] == part, schema.spacing) for part, box in enumerate(boxes, start=1)]
            found["lesion_long_axis", name] = np.array(axes)
        if name in schema.inside:
            # it may touch the parent and what else lies in it: the label map is exclusive, a tumour that touches a
            # vessel inside the liver has no liver voxel between them
            parent = schema.inside[name]
            family = [parent, *(other for other, its in schema.inside.items() if its == parent and other != name)]
            allowed = np.isin(label, [schema.class_names.index(member) for member in family])
            found["held_share", name], found["enclosed_share", name] = containment(parts, count, allowed)
    return found


def containment(parts: np.ndarray, count: int, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two shares in [0, 1], each in an array of one value, or none where the class is absent.

    held: of the components, those whose border touches `allowed`; enclosed: of the voxels of all borders, those in
    `allowed`. The border of a component is what one dilation (6 neighbours) adds to it.
    """
    if not count:
        return np.empty(0), np.empty(0)
    shares, sizes = [], []
    for index, box in enumerate(ndimage.find_objects(parts), start=1):
        box = tuple(slice(max(axis.start - 1, 0), axis.stop + 1) for axis in box)
        part = parts[box] == index
        border = ndimage.binary_dilation(part) & (parts[box] == 0)
        shares.append(allowed[box][border].mean() if border.any() else 0.0)
        sizes.append(border.sum())
    enclosed = np.average(shares, weights=sizes) if sum(sizes) else 0.0
    return np.array([np.mean(np.array(shares) > 0)]), np.array([enclosed])


def continuity(skeleton: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Share of the centre lines' voxels that lie in one component, the one with most of them: [1], or [0] without any.

    A vessel that is cut in the middle has 0.5, one with a crumb torn off nearly 1.
    """
    if not skeleton.any():
        return np.empty(0)
    return np.array([np.bincount(parts[skeleton]).max() / skeleton.sum()])


def skeleton_length(skeleton: np.ndarray, spacing: tuple[float, float, float]) -> float:
    """Length in mm of centre lines [X, Y, Z].

    The skeleton's voxels are joined by a minimum spanning forest over their 26 neighbours, so that the little
    triangles at branchings do not count twice. A closed loop loses one step.

    Our own, for `skan` 0.13 counts such triangles (a square loop of 36 steps has a length of 41.7, here 35), refuses
    masks of no voxel or one, and takes 15 s for its import and first call. Of lines and crosses both give the same.
    """
    voxels = np.argwhere(skeleton)
    if len(voxels) < 2:
        return 0.0
    pairs = cKDTree(voxels).query_pairs(1.8, output_type="ndarray")  # sqrt(3) = 1.73: the 26 neighbours
    if not len(pairs):
        return 0.0
    steps = np.linalg.norm((voxels[pairs[:, 0]] - voxels[pairs[:, 1]]) * spacing, axis=1)
    graph = coo_matrix((steps, (pairs[:, 0], pairs[:, 1])), shape=(len(voxels),) * 2)
    return float(minimum_spanning_tree(graph).sum())


def is_one_organ(label: np.ndarray, parent: str, schema: Schema) -> bool:
    """Whether class `parent`, with all that lies inside it, is one component."""
    family = [parent, *(name for name, its in schema.inside.items() if its == parent)]
    mask = np.isin(label, [schema.class_names.index(name) for name in family])
    return components(mask, return_num=True, connectivity=3)[1] == 1


def label_rows(
    synthetic: CaseRecords, training: CaseRecords, test: CaseRecords, schema: Schema, seed: int = 0
) -> list[Row]:
    """The Wasserstein distances of each statistic and class; shapes as a whole; the rules of anatomy."""
    if not synthetic.statistics or not training.statistics:
        without = "synthetic" if training.statistics else "real"
        note = f"needs labels and the names of their classes in both data sets; the {without} one has none"
        return [Row(Metric.SHAPE_PRECISION, Compared.SYNTHETIC_TRAINING, note=note)]
    rows = []
    for statistic, name in synthetic.statistics[0]:
        metric = metric_of(statistic)
        values = [[found[statistic, name] for found in cases.statistics] for cases in (synthetic, training, test)]
        if statistic in RULES:
            ours, real = map(np.concatenate, values[:2])
            rows.append(share_row(metric, name, ours, real, RULES[statistic].format(schema.inside[name])))
        else:
            rows += [Row(metric, class_name=name, **vars(item)) for item in compare(wasserstein, *values, seed)]
    rows += shape_rows(synthetic, training, test, seed)
    meaning = "share of the cases in which it, with what lies in it, is one piece"
    for parent in sorted(set(schema.inside.values())):
        values = [[record.one_organ[parent] for record in cases.records] for cases in (synthetic, training)]
        rows.append(share_row(Metric.ONE_ORGAN, parent, *(np.array(item, float) for item in values), meaning))
    return rows


def shape_rows(synthetic: CaseRecords, training: CaseRecords, test: CaseRecords, seed: int) -> list[Row]:
    """Precision and recall of all statistics together: does each label map look like a real one, is each kind met.

    A label map is the vector of its statistics, each in standard deviations of the training cases (cf. the IP and IR
    of shape features in LN-Gen).
    """
    vectors = [statistic_vectors(cases) for cases in (synthetic, training, test)]
    spread = vectors[1].std(0)
    vectors = [item[:, spread > 0] / spread[spread > 0] if len(item) else item for item in vectors]
    rows = []
    for metric, measure in ((Metric.SHAPE_PRECISION, precision), (Metric.SHAPE_RECALL, recall)):
        rows += [Row(metric, **vars(item)) for item in compare(measure, *vectors, seed, least=NEIGHBOURS + 1)]
    return rows


def statistic_vectors(cases: CaseRecords) -> np.ndarray:
    """[N, K]: the mean of each statistic of each case, 0 where there is none."""
    return np.array(
        [[found.mean() if len(found) else 0.0 for found in case.values()] for case in cases.statistics], float
    )


def share_row(metric: Metric, class_name: str, ours: np.ndarray, real: np.ndarray, note: str) -> Row:
    """Mean of a share over the cases that have the class."""
    note = f"{note}; floor: training cases" if len(ours) else f"no synthetic case has {class_name}"
    return mean_row(metric, Compared.SYNTHETIC_ALONE, ours, real, note, class_name=class_name)


def statistic_rows(records: dict[str, CaseRecords]) -> Iterator[dict]:
    """Every value of every case: split, case, class, statistic, unit, value."""
    for split, found in records.items():
        for case, record in zip(found.cases, found.records, strict=True):
            for (statistic, name), items in (record.statistics or {}).items():
                common = {"split": split, "case": case.name, "class": name, "statistic": statistic}
                unit = metric_of(statistic).unit
                yield from ({**common, "unit": unit, "value": f"{value:.6g}"} for value in items)
