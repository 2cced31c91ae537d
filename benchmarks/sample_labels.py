"""Quality of drawn labels against the number of steps, beside the stock recipe: a table as JSON and a figure.

    lldm3d run --workdir W/flow --profile benchmarks/sampling.yaml --until label_ldm
    lldm3d run --workdir W/ddpm --profile benchmarks/sampling_ddpm.yaml --until label_ldm
    python -m benchmarks.sample_labels --workdir W

Both have the same autoencoders, by the same seed, and networks trained alike. The distance is Fréchet's, as in
`lldm3d evaluate` (equal numbers of cases, 50 draws, the interval of the draws, halves of real data as floor), of the
share of each class in blocks of 8x8x8 voxels. `dice_to_limit`: of the liver, with the label that the same noise gives
by 64 steps of Heun.
"""

import json
import time
from pathlib import Path

import fire
import matplotlib.pyplot as plt
import numpy as np
import torch

from benchmarks.machine import describe
from benchmarks.stock import sampling as stock
from lldm3d.data.dataset import load_cases
from lldm3d.diffusion import DDPM, RectifiedFlow
from lldm3d.evaluation.comparison import compare
from lldm3d.evaluation.distances import fid
from lldm3d.files import load_nifti
from lldm3d.generate import LatentSampler, load_system
from lldm3d.generate.samplers import case_noise
from lldm3d.labels import one_hot

STEPS = (1, 2, 4, 8, 16, 32)
SETTINGS = [
    *(("euler", 1.0, steps) for steps in STEPS),
    *(("euler", 3.0, steps) for steps in STEPS[1:]),  # one step is the same however it is shifted
    *(("heun", 1.0, steps) for steps in STEPS[1:]),
]
LIVER = 1


def open_sampler(work: Path, process) -> LatentSampler:
    paths = {"label_codec_path": work / "autoencoder_label/codec.pt", "label_ldm_path": work / "label_ldm/model.pt"}
    system = load_system("cpu", process.name, **{key: str(path) for key, path in paths.items()})
    return LatentSampler(system.codecs["label"], system.label_ldm, process, system.latent_shape["label"])


def draw(work: Path, n: int, *process) -> tuple[torch.Tensor, float]:
    """Labels [N, 1, X, Y, Z] by rectified flow, and seconds of processor time of each."""
    steps, solver, time_shift = process
    sampler = open_sampler(work / "flow", RectifiedFlow(steps, solver, time_shift))
    started = time.process_time()
    label = sampler.decode(sampler.draw(list(range(n))))
    return label, (time.process_time() - started) / n


def draw_stock(work: Path, n: int) -> torch.Tensor:
    """Labels by 1000 steps of DDPM, kept in a file."""
    path = work / f"stock_labels_{n}.pt"
    if not path.is_file():
        sampler = open_sampler(work / "ddpm", DDPM())
        torch.manual_seed(0)
        noise = torch.stack([case_noise(0, index, "label", sampler.latent_shape) for index in range(n)])
        torch.save(stock.draw_labels(sampler, noise), path)
    return torch.load(path, weights_only=True)


def features(labels: torch.Tensor, classes: int) -> np.ndarray:
    """[N, D] shares of the classes in blocks of 8x8x8 voxels."""
    return torch.nn.functional.avg_pool3d(one_hot(labels, classes), 8).flatten(1).double().numpy()


def real(work: Path, split: str) -> torch.Tensor:
    volumes = [load_nifti(case["label"])[0].astype(np.uint8) for case in load_cases(work / "flow/dataset", split)]
    return torch.from_numpy(np.stack(volumes))[:, None]


def dice(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a == LIVER, b == LIVER
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def picture(rows: list[dict], path: str) -> None:
    """Distance and Dice against steps; the stock's interval is a band, the floor a line."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    theirs = rows[-1]
    for solver, shift in dict.fromkeys((row["solver"], row["time_shift"]) for row in rows[:-1]):
        line = [row for row in rows if (row["solver"], row["time_shift"]) == (solver, shift)]
        label = solver if shift == 1 else f"{solver}, time_shift {shift:g}"
        for axis, key in zip(axes, ("distance", "dice_to_limit"), strict=True):
            axis.plot([row["steps"] for row in line], [row[key] for row in line], "o-", label=label)
    axes[0].axhspan(*theirs["interval"], alpha=0.2, color="grey", label="stock, 1000 steps: 95 % interval")
    axes[0].axhline(theirs["floor"], color="black", linestyle=":", label="real data")
    axes[0].set(title="Fréchet distance of labels (lower is better)")
    axes[1].set(title="Dice of the liver with the limit of many steps")
    for axis in axes:
        axis.set(xscale="log", xlabel="steps")
        axis.set_xticks(STEPS, [str(steps) for steps in STEPS], minor=False)
        axis.set_xticks([], minor=True)
    axes[0].legend(fontsize=8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main(workdir: str, n: int = 24, figure: str = "docs/figures/sampling.png") -> None:
    torch.set_num_threads(1)
    work, rows = Path(workdir), []
    classes = len(open_sampler(work / "flow", RectifiedFlow()).codec.class_names)
    training, test = (features(real(work, split), classes) for split in ("training", "test"))
    limit, _ = draw(work, n, 64, "heun", 1.0)
    for solver, shift, steps in [*SETTINGS, ("stock", 1.0, stock.STEPS)]:
        label, taken = (draw_stock(work, n), None) if solver == "stock" else draw(work, n, steps, solver, shift)
        found = compare(fid, features(label, classes), training, test, 0)[0]
        row = {"solver": solver, "time_shift": shift, "steps": steps, "seconds_of_a_label": taken}
        row |= {"distance": found.value, "interval": found.interval, "floor": found.floor, "n": found.n}
        rows.append(row | {"dice_to_limit": None if solver == "stock" else dice(label, limit)})
    picture(rows, figure)
    print(json.dumps({"rows": rows, "machine": describe()}, indent=1))


if __name__ == "__main__":
    fire.Fire(main)
