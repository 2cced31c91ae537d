"""Quality of drawn pairs against the number of steps, beside the stock recipe: a table as JSON and a figure.

    python -m benchmarks.sample_quality --workdir W [--n 24] [--figure docs/figures/sampling.png]

W holds `flow` and `ddpm` (`benchmarks.sample` says how they are made). FID is that of `lldm3d evaluate` (deepest
features of the chain's own segmentation network, equal numbers of cases, 50 draws) with the interval of its draws;
alignment is the mean Dice of the liver between a label and what that network sees in its image. Sets that are there
are not drawn again.
"""

import json
import time
from pathlib import Path

import fire
import matplotlib.pyplot as plt
import numpy as np
import torch

from benchmarks import stock
from benchmarks.machine import describe
from benchmarks.pairs import batch, trained
from lldm3d.data.dataset import load_schema
from lldm3d.diffusion import DDPM, RectifiedFlow
from lldm3d.evaluation.alignment import alignment_rows
from lldm3d.evaluation.evaluate import look_at, open_observer
from lldm3d.evaluation.fidelity import fidelity_rows
from lldm3d.evaluation.records import Cache
from lldm3d.evaluation.sides import open_sides
from lldm3d.files import read_json, save_nifti, write_json
from lldm3d.generate.run import describe as describe_pairs
from lldm3d.generate.samplers import case_noise

STEPS = (1, 2, 4, 8, 16, 32)
SETTINGS = [
    *(("euler", 1.0, steps) for steps in STEPS),
    *(("euler", 3.0, steps) for steps in STEPS[1:]),  # one step is the same however it is shifted
    *(("heun", 1.0, steps) for steps in STEPS[1:]),
]
SEGMENTER = "flow/segment/seg_resunet/multi/R/seed_0"


def draw_stock(work: Path, n: int) -> dict[str, torch.Tensor]:
    """Pairs by 1000 steps of DDPM; all at once, as their time is not measured here."""
    generation = trained(work / "ddpm", DDPM())
    samplers = {"label": generation.label, "image": generation.image}
    noise = {
        kind: torch.stack([case_noise(0, index, kind, sampler.latent_shape) for index in range(n)])
        for kind, sampler in samplers.items()
    }
    torch.manual_seed(0)
    label = stock.draw_labels(generation, noise["label"])
    return {"label": label, "image": stock.draw_images(generation, noise["image"], label)}


def draw_ours(work: Path, n: int, solver: str, time_shift: float, steps: int) -> dict[str, torch.Tensor]:
    generation = trained(work / "flow", RectifiedFlow(steps, solver, time_shift))
    return generation(None, batch(*range(n)))


def drawn(work: Path, name: str, n: int, draw) -> float:
    """Write a set of pairs with `dataset.json`; seconds of processor time of a pair."""
    folder = work / "sets" / name
    if not (folder / "seconds.json").is_file():
        started = time.process_time()
        output = draw()
        taken = (time.process_time() - started) / n
        affine = np.diag([*load_schema(work / "flow/dataset").spacing, 1.0])
        for kind, dtype in (("label", "uint8"), ("image", "float32")):
            for index in range(n):
                volume = output[kind][index, 0].numpy().astype(dtype)
                save_nifti(folder / f"{kind}sTr/synthetic_{index:05d}.nii.gz", volume, affine)
        describe_pairs(folder, work / "flow/dataset", n, [])
        write_json(folder / "seconds.json", {"seconds": taken})
    return read_json(folder / "seconds.json")["seconds"]


def judged(work: Path, name: str) -> dict:
    """FID with interval and floor, and alignment with floor."""
    schema, cases = open_sides(work / "flow/dataset", work / "sets" / name)
    observer = open_observer(schema, work / "flow/dataset", work / SEGMENTER, None, None, False)
    sides = look_at(cases, Cache(observer, work / "cache"))
    rows = fidelity_rows(sides["synthetic"], sides["training"], sides["test"], observer.spaces)
    fid = next(row for row in rows if row.name == "FID" and row.between.startswith("synthetic"))
    aligned = alignment_rows(sides["synthetic"].scores, sides["test"].scores, schema, observer.spaces[0].identity)
    dice = next(row for row in aligned if row.name == "Dice" and row.class_name == schema.class_names[1])
    found = {"fid": fid.value, "interval": fid.interval, "fid_floor": fid.floor, "fid_n": fid.n}
    return {**found, "dice": dice.value, "dice_interval": dice.interval, "dice_floor": dice.floor}


def picture(rows: list[dict], path: str) -> None:
    """FID and Dice against steps, with the stock's interval as a band and the floor as a line."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    theirs = next(row for row in rows if row["solver"] == "stock")
    for axis, key, interval, title in (
        (axes[0], "fid", "interval", "FID (lower is better)"),
        (axes[1], "dice", "dice_interval", "Dice of the liver, label / image"),
    ):
        for solver, shift in dict.fromkeys((row["solver"], row["time_shift"]) for row in rows if row is not theirs):
            line = [row for row in rows if (row["solver"], row["time_shift"]) == (solver, shift)]
            label = solver if shift == 1 else f"{solver}, time_shift {shift:g}"
            axis.plot([row["steps"] for row in line], [row[key] for row in line], "o-", label=label)
        axis.axhspan(*theirs[interval], alpha=0.2, color="grey", label="stock, 1000 steps: 95 % interval")
        axis.axhline(theirs[f"{key}_floor"], color="black", linestyle=":", label="real data")
        axis.set(xscale="log", xticks=STEPS, xticklabels=STEPS, xlabel="steps", title=title)
    axes[0].legend(fontsize=8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main(workdir: str, n: int = 24, figure: str = "docs/figures/sampling.png") -> None:
    torch.set_num_threads(1)
    work, rows = Path(workdir), []
    for solver, shift, steps in [*SETTINGS, ("stock", 1.0, stock.STEPS)]:
        name = f"{solver}_{shift:g}_{steps}"
        taken = drawn(
            work,
            name,
            n,
            lambda s=solver, t=shift, k=steps: draw_stock(work, n) if s == "stock" else draw_ours(work, n, s, t, k),
        )
        setting = {"solver": solver, "time_shift": shift, "steps": steps, "seconds_of_a_pair": round(taken, 3)}
        rows.append({**setting, **judged(work, name)})
    picture(rows, figure)
    print(json.dumps({"rows": rows, "machine": describe()}, indent=1))


if __name__ == "__main__":
    fire.Fire(main)
