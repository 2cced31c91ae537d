"""Quality and time of drawn pairs against the number of steps, beside the stock recipe: JSON and two figures.

    lldm3d run --workdir W/flow --profile benchmarks/sampling.yaml --until evaluate
    lldm3d run --workdir W/ddpm --profile benchmarks/sampling_ddpm.yaml --until pairs
    python -m benchmarks.sample_quality --workdir W

Both have the same autoencoders, by the same seed. Distances are those of `lldm3d evaluate` (equal numbers of cases, 50
draws, the interval of the draws, halves of the real training cases as floor): FID in the features of the segmentation
network trained on real data, and Fréchet's distance of labels in the shares of the classes in blocks of 8x8x8 voxels.
Alignment is the Dice of a label with what that network sees in its image, averaged over the classes, as a share of the
same on real test cases. Sets and times that are in W are not made again. Seconds are of one pair alone.
"""

import json
from pathlib import Path
from statistics import median

import fire
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks.machine import describe
from benchmarks.pairs import batch, trained
from benchmarks.sample import in_turns
from benchmarks.stock import sampling as stock
from lldm3d import plots
from lldm3d.data.dataset import Schema
from lldm3d.data.labels import one_hot
from lldm3d.diffusion.noise import DDPM, RectifiedFlow
from lldm3d.evaluation.distances import compare, fid, fidelity_rows
from lldm3d.evaluation.evaluate import extract_shared, open_both, open_extractor
from lldm3d.evaluation.extraction import RecordCache, RecordExtractor
from lldm3d.evaluation.metrics import Compared, Metric
from lldm3d.evaluation.records import CaseRecords
from lldm3d.files import load_nifti, read_json, write_json
from lldm3d.methods.registry import OURS, load_method
from lldm3d.pairs.cases import CaseDataset, drawn_name
from lldm3d.pairs.folder import write_dataset_json
from lldm3d.pairs.writer import CaseWriter
from lldm3d.statistics import bootstrap_interval

STEPS = (1, 2, 4, 8, 16, 20, 32)
FEW = (2, 4, 8)
STOCK = ("stock", 1.0, stock.STEPS)
SETTINGS = [
    *(("euler", 1.0, steps) for steps in STEPS),
    *(("euler", 3.0, steps) for steps in FEW),
    *(("heun", 1.0, steps) for steps in FEW),
    STOCK,
]
SHOWN = [("euler", 1.0, 1), ("euler", 1.0, 4), ("euler", 1.0, 20), STOCK]
MEASURES = {
    "content": "FID of content",
    "texture": "FID of texture",
    "labels": "distance of labels",
    "alignment": "alignment",
}
BATCH = 12


class Drawer:
    """Draws the pairs of a setting: called with a batch of `CaseDataset`."""

    def __init__(self, work: Path, solver: str, time_shift: float, steps: int) -> None:
        self.is_stock = solver == "stock"
        process = DDPM() if self.is_stock else RectifiedFlow(steps, solver, time_shift)
        self.generation = trained(work / ("ddpm" if self.is_stock else "flow"), process)

    def __call__(self, cases: dict) -> dict:
        if not self.is_stock:
            return self.generation(None, cases)
        return {**cases, **stock.draw_pairs(self.generation, cases["index"].tolist())}


def name_of(setting: tuple[str, float, int]) -> str:
    return "{}_{:g}_{}".format(*setting)


def write_pairs(work: Path, setting: tuple[str, float, int], schema: Schema, n: int, first: int = 0) -> None:
    """Draw and write the pairs that are not there."""
    folder = work / "sets" / name_of(setting)
    cases = CaseDataset(n, str(folder), schema.class_names, schema.spacing, first=first)
    if not len(cases):
        return
    draw, writer = Drawer(work, *setting), CaseWriter(str(folder))
    for items in DataLoader(cases, BATCH):
        output = draw(items)
        for number in range(len(output["name"])):
            writer.write_case({key: item[number] for key, item in output.items()})


def judged(work: Path, setting: tuple[str, float, int], extractor: RecordExtractor, n: int) -> dict[str, dict]:
    """Each measure: value, interval and floor."""
    folder = work / "sets" / name_of(setting)
    names = [drawn_name(index) for index in range(n)]
    write_dataset_json(folder, work / "flow/dataset", load_method(OURS), names, names)
    schema, cases = open_both(work / "flow/dataset", folder)
    records = extract_shared(cases, RecordCache(extractor, work / "cache"))
    ours, training, test = (records[split] for split in ("synthetic", "training", "test"))
    rows = fidelity_rows(ours, training, test, extractor.spaces)
    wanted = [row for row in rows if (row.metric, row.compared) == (Metric.FID, Compared.SYNTHETIC_TRAINING)]
    found = {
        space.name: next(row for row in wanted if row.variant == space.identity["variant"])
        for space in extractor.spaces
    }
    found["labels"] = compare(fid, *(block_shares(split, schema) for split in (ours, training, test)))[0]
    result = {
        name: {"value": row.value, "interval": row.interval, "floor": row.floor, "n": row.n}
        for name, row in found.items()
    }
    return result | {"alignment": alignment(ours, test, schema)}


def block_shares(records: CaseRecords, schema: Schema) -> np.ndarray:
    """[N, D], shares of the classes in blocks of 8x8x8 voxels."""
    labels = np.stack([load_nifti(case.label)[0].astype(np.uint8) for case in records.cases])
    shares = one_hot(torch.from_numpy(labels)[:, None], len(schema.class_names))
    return torch.nn.functional.avg_pool3d(shares, 8).flatten(1).double().numpy()


def alignment(synthetic: CaseRecords, test: CaseRecords, schema: Schema) -> dict:
    """The mean over the classes of their mean Dice, as a share of that on real test cases; and Dice by class."""
    names = schema.class_names[1:]
    ours, real = (
        np.array([[case["dice"].get(name, np.nan) for name in names] for case in side.scores])
        for side in (synthetic, test)
    )

    def share(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.nanmean(a, 0).mean() / np.nanmean(b, 0).mean())

    dice = {
        key: dict(zip(names, np.nanmean(side, 0).round(3).tolist(), strict=True))
        for key, side in (("dice", ours), ("dice_of_real", real))
    }
    return {
        "value": share(ours, real),
        "interval": bootstrap_interval(share, ours, real),
        "floor": 1.0,
        "n": len(ours),
        **dice,
    }


def timed(work: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of processor time of a pair by each setting, one pair alone, in turns; kept in a file."""
    path = work / "seconds.json"
    if not path.is_file():
        draw = {name_of(setting): Drawer(work, *setting) for setting in SETTINGS}
        draw[name_of(SETTINGS[0])](batch(0))  # the first call of all takes longer
        calls = {name: lambda index, draw=draw[name]: draw(batch(index)) for name in draw}
        write_json(path, in_turns(calls, rounds))
    return read_json(path)


def fastest_within(rows: list[dict]) -> dict:
    """For each distance, the fastest setting of ours at or below the upper end of the stock's interval."""
    *ours, theirs = rows
    found = {}
    for name in ("content", "texture", "labels"):
        within = [row for row in ours if row[name]["value"] <= theirs[name]["interval"][1]]
        best = max(within, key=lambda row: row["ratio"], default=None)
        found[name] = best and {key: best[key] for key in ("solver", "time_shift", "steps", "ratio")}
    return found


def draw_curves(rows: list[dict], path: str) -> None:
    """Each measure against steps; the stock's interval is a band, real data a line."""
    figure, axes = plt.subplots(1, len(MEASURES), figsize=(4 * len(MEASURES), 3.4), layout="constrained")
    *ours, theirs = rows
    for axis, (key, title) in zip(axes, MEASURES.items(), strict=True):
        for solver, shift in dict.fromkeys((row["solver"], row["time_shift"]) for row in ours):
            line = [row for row in ours if (row["solver"], row["time_shift"]) == (solver, shift)]
            label = solver if shift == 1 else f"{solver}, time_shift {shift:g}"
            axis.plot([row["steps"] for row in line], [row[key]["value"] for row in line], "o-", label=label)
        axis.axhspan(*theirs[key]["interval"], alpha=0.2, color="grey", label="stock, 1000 steps: 95 % interval")
        axis.axhline(theirs[key]["floor"], color="black", linestyle=":", label="real data")
        direction = "higher" if key == "alignment" else "lower"
        scale = "log" if key in ("content", "texture") else "linear"
        axis.set(xscale="log", yscale=scale, xlabel="steps", title=f"{title} ({direction} is better)")
        axis.set_xticks(STEPS, [str(steps) for steps in STEPS])
        axis.set_xticks([], minor=True)
    axes[0].legend(fontsize=8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def draw_pairs(work: Path, schema: Schema, path: str, number: int = 3) -> None:
    """The middle of the first cases: real ones, and those of a few settings; of one case all begin from one noise."""
    drawn = {f"{setting[0]}, {setting[2]} steps": work / "sets" / name_of(setting) for setting in SHOWN}
    folders = {"real": work / "flow/dataset", **drawn}
    figure, axes = plots.dark(number, len(folders), 2.2 * len(folders), 1.8 * number + 0.4)
    for column, (title, folder) in zip(axes.T, folders.items(), strict=True):
        column[0].set_title(title, color="white", fontsize=9)
        for axis, image in zip(column, sorted((folder / "imagesTr").glob("*.nii.gz")), strict=False):
            label = load_nifti(folder / "labelsTr" / image.name)[0].astype(np.uint8)
            index = plots.best_slice(label, plots.PLANES["axial"])
            plots.show(axis, load_nifti(image)[0], schema.spacing, "axial", index)
            plots.outline(axis, label, "axial", index)
    plots.legend(figure, schema.class_names, loc="outside lower center")
    plots.save(figure, path)


def main(workdir: str, n: int = 24, rounds: int = 3, figures: str = "docs/figures") -> None:
    torch.set_num_threads(1)
    work = Path(workdir)
    real, segmenter = work / "flow/dataset", work / "flow/segment/steps/seg_resunet/multi/R/real/seed_0"
    schema, _ = open_both(real, real)
    extractor = open_extractor(schema, real, segmenter, None, None, False)
    for setting in SETTINGS:
        write_pairs(work, setting, schema, n)
    seconds = timed(work, rounds)
    theirs = median(seconds[name_of(STOCK)])
    rows = [
        {
            **dict(zip(("solver", "time_shift", "steps"), setting, strict=True)),
            "ratio": round(theirs / median(seconds[name_of(setting)]), 1),
            "seconds_of_a_pair": [round(value, 3) for value in sorted(seconds[name_of(setting)])],
            **judged(work, setting, extractor, n),
        }
        for setting in SETTINGS
    ]
    draw_curves(rows, f"{figures}/sampling.png")
    draw_pairs(work, schema, f"{figures}/sampling_pairs.png")
    result = {"fastest_within_the_interval_of_stock": fastest_within(rows), "rows": rows, "machine": describe()}
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    fire.Fire(main)
