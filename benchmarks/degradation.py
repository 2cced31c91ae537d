"""Do the metrics tell better from worse? Real held-out scans are spoilt step by step, and every metric must notice.

    python -m benchmarks.degradation --workdir work/hippocampus --figure docs/figures/degradation.png

The test cases of a finished work directory stand in for synthetic ones: as they are, and in steps of blur, noise,
labels exchanged between cases, few cases repeated, and training cases slipped in. Prints JSON: the values of each
metric at each step, and whether they worsen from step to step.
"""

import json
import tempfile
from pathlib import Path

import fire
import numpy as np
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter

from benchmarks.machine import describe
from lldm3d.data.dataset import SPLITS, Case, load_cases, load_schema
from lldm3d.data.scans import Scan, read_pair
from lldm3d.evaluation.evaluate import compute_metrics, extract_all
from lldm3d.evaluation.extraction import RecordExtractor, extract_split
from lldm3d.evaluation.features import TEXTURE, load_segmenter
from lldm3d.evaluation.metrics import Metric, Row
from lldm3d.evaluation.records import CaseRecords
from lldm3d.files import save_nifti
from lldm3d.plots import save

STEPS = {  # how far each goes; the first step leaves the scans as they are
    "blur": (0, 0.5, 1, 2, 4),
    "noise": (0, 0.05, 0.1, 0.2, 0.4),
    "exchanged labels": (0, 0.25, 0.5, 1),
    "repetition": (1, 2, 4, 8),
    "training cases": (0, 0.25, 0.5, 1),
}
UNITS = {
    "blur": "sigma, voxels",
    "noise": "sigma, of the range",
    "exchanged labels": "share of the cases",
    "repetition": "times",
    "training cases": "share of the cases",
}
FIDELITY = {
    Metric.FID: 1,
    Metric.KID: 1,
    f"{Metric.FID}, {TEXTURE}": 1,
    f"{Metric.KID}, {TEXTURE}": 1,
    Metric.PRECISION: -1,
    Metric.DENSITY: -1,
}
WORSE = {  # what each must move, and which way: 1 up, -1 down
    "blur": FIDELITY,
    "noise": {**FIDELITY, Metric.ALIGNMENT_DICE: -1},
    "exchanged labels": {Metric.ALIGNMENT_DICE: -1, Metric.ALIGNMENT_RECALL: -1, Metric.ALIGNMENT_HD95: 1},
    "repetition": {Metric.FID: 1, Metric.RECALL: -1, Metric.COVERAGE: -1, Metric.PAIRWISE_SSIM: 1},
    "training cases": {Metric.NEAR_COPIES_SHARE: 1},
}


def spoil(scans: list[Scan], training: list[Scan], kind: str, amount: float) -> list[Scan]:
    """The scans, spoilt; the random choices of a larger amount contain those of a smaller one."""
    rng = np.random.default_rng(0)
    order, number = rng.permutation(len(scans)), round(amount * len(scans))
    if kind == "blur":
        return [Scan(gaussian_filter(scan.image, amount), scan.label) for scan in scans]
    if kind == "noise":
        return [Scan(scan.image + rng.normal(0, amount, scan.image.shape), scan.label) for scan in scans]
    if kind == "repetition":
        return [scans[order[index % (len(scans) // amount)]] for index in range(len(scans))]
    chosen = set(order[:number].tolist())
    if kind == "exchanged labels":
        given = {case: order[(place + 1) % len(order)] for place, case in enumerate(order)}
        return [Scan(scan.image, scans[given[i]].label) if i in chosen else scan for i, scan in enumerate(scans)]
    return [training[index] if index in chosen else scan for index, scan in enumerate(scans)]


def evaluated(records: dict[str, CaseRecords], scans: list[Scan], extractor: RecordExtractor) -> list[Row]:
    """The rows of an evaluation in which `scans` are the synthetic cases."""
    with tempfile.TemporaryDirectory() as folder:
        cases = []
        for index, scan in enumerate(scans):
            case = {key: f"{folder}/{key}_{index:03d}.nii.gz" for key in ("image", "label")}
            for key, volume in (("image", scan.image.astype(np.float32)), ("label", scan.label)):
                save_nifti(case[key], volume, np.diag([*extractor.schema.spacing, 1]))
            cases.append(Case(str(index), **case, patient=str(index)))
        synthetic = extract_split("spoilt", cases, extractor, score=True)
        return compute_metrics({**records, "synthetic": synthetic}, extractor)[0]


def value(rows: list[Row], name: str) -> float:
    """The metric `key` or `key, variant` as it is first compared, mean over the classes."""
    key, _, variant = name.partition(", ")
    found = [row for row in rows if row.metric == key and row.variant == (variant or None)]
    values = [row.value for row in found if row.compared == found[0].compared]
    return float(np.nanmean(np.array(values, float)))  # None, where a class cannot be measured, becomes NaN


def degrade(workdir: str | Path, stage: str) -> dict[str, dict]:
    """{kind: {"steps", "values": {metric: one for each step}, "worsens": {metric: bool}}}."""
    work = Path(workdir)
    schema = load_schema(work / "dataset")
    extractor = RecordExtractor(schema, load_segmenter(work / stage, schema.class_names))
    cases = {split: load_cases(work / "dataset", split) for split in SPLITS}
    records = extract_all(cases, extractor)
    scans, training = ([read_pair(case, schema) for case in cases[split]] for split in ("test", "training"))
    result, unspoilt = {}, evaluated(records, scans, extractor)
    for kind, steps in STEPS.items():
        spoilt = (spoil(scans, training, kind, amount) for amount in steps[1:])
        rows = [unspoilt, *(evaluated(records, found, extractor) for found in spoilt)]
        values = {str(name): [value(step, name) for step in rows] for name in WORSE[kind]}
        worsens = {str(name): bool((np.diff(values[name]) * sign > 0).all()) for name, sign in WORSE[kind].items()}
        result[kind] = {"steps": list(steps), "values": values, "worsens": worsens}
    return result


def draw(result: dict[str, dict]) -> Figure:
    """One panel for each kind: each metric over the steps, as a share of its largest value."""
    figure = Figure(figsize=(15, 3.2), layout="constrained")
    for axes, (kind, found) in zip(figure.subplots(1, len(result)), result.items(), strict=True):
        for name, values in found["values"].items():
            axes.plot(np.array(values) / max(map(abs, values)), marker="o", label=name)
        axes.set_xticks(range(len(found["steps"])), [f"{step:g}" for step in found["steps"]])
        axes.set_title(kind, fontsize=10)
        axes.set_xlabel(UNITS[kind], fontsize=9)
        axes.legend(fontsize=8)
    figure.axes[0].set_ylabel("share of the largest value")
    return figure


def main(workdir: str, figure: str | None = None, stage: str = "segment/steps/seg_resunet/multi/R/real/seed_0") -> None:
    result = degrade(workdir, stage)
    if figure:
        save(draw(result), figure)
    print(json.dumps({"degradations": result, "machine": describe()}, indent=1))


if __name__ == "__main__":
    fire.Fire(main)
