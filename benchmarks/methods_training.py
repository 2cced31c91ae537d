"""What longer training gives each method: FID against minutes, and the loss of each training. JSON and a figure.

    lldm3d run --profile 1_MINUTE.yaml --workdir W1 --methods ... --until comparison    # and so on
    python -m benchmarks.methods_training --workdirs W1,W2,W4 --figure methods_training.png

The work directories differ by `methods: {minutes: ...}` alone. Figures are those of the first seed that all have.
"""

import json
from pathlib import Path

import fire
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.machine import describe
from lldm3d import plots
from lldm3d.evaluation.features import TEXTURE
from lldm3d.evaluation.metrics import Metric
from lldm3d.files import read_json
from lldm3d.methods.registry import load_method
from lldm3d.pipeline.profile import read_yaml
from lldm3d.report.comparison import training_results

MEASURES = {"FID": (Metric.FID, None), "FID, texture": (Metric.FID, TEXTURE)}  # title: key and variant
HELD_OUT = ("val_loss", "val_psnr", "val_l1")


def qualities(works: list[Path], name: str, seed: int) -> list[dict]:
    """Of each work directory: minutes, and value, interval and floor of each measure."""
    rows = []
    for work in works:
        minutes = read_yaml(work / "run.yaml", "give work directories of `lldm3d run`")["settings"]["methods"][
            "minutes"
        ]
        found = {(item.measure.key, item.measure.variant): item for item in training_results(work, name, "drawn", seed)}
        figures = {
            title: {"value": item.value, "interval": item.interval, "floor": item.floor}
            for title, place in MEASURES.items()
            for item in [found[place]]
        }
        rows.append({"minutes": minutes, **figures})
    return sorted(rows, key=lambda row: row["minutes"])


def curves(work: Path, name: str, seed: int) -> dict[str, dict]:
    """Loss of each epoch and the figures of held-out cases, of each training."""
    folder = work / "methods" / name / f"seed_{seed}"
    paths = {training: folder / training / "metrics.json" for training in load_method(name).trainings}
    found = {training: read_json(path) for training, path in paths.items() if path.is_file()}  # encoding has no curves
    return {
        training: {key: [round(value, 5) for value in content[key]] for key in ("loss", *HELD_OUT) if key in content}
        for training, content in found.items()
    }


def draw(content: dict, path: str) -> None:
    """FID against minutes in the first two columns, a row for each method; then its losses."""
    columns = 2 + max(len(found["curves"]) for found in content.values())
    figure = Figure(figsize=(2.6 * columns, 2 * len(content)), layout="constrained")
    for row, (name, found) in zip(figure.subplots(len(content), columns, squeeze=False), content.items(), strict=True):
        for axes, title in zip(row, MEASURES, strict=False):
            draw_quality(axes, found["quality"], title)
        row[0].set_ylabel(load_method(name).title)
        for axes, (training, curve) in zip(row[2:], found["curves"].items(), strict=False):
            draw_loss(axes, training, curve)
        for axes in row[2 + len(found["curves"]) :]:
            axes.set_axis_off()
    plots.save(figure, path)


def draw_quality(axes: Axes, rows: list[dict], title: str) -> None:
    minutes, values = [row["minutes"] for row in rows], [row[title]["value"] for row in rows]
    low, high = np.array([row[title]["interval"] for row in rows]).T
    axes.fill_between(minutes, low, high, color=plots.SYNTHETIC, alpha=0.25)
    axes.plot(minutes, values, "o-", color=plots.SYNTHETIC, ms=4)
    axes.axhline(np.mean([row[title]["floor"] for row in rows]), color=plots.REAL, ls="--", lw=1)
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(minutes, [f"{value:g}" for value in minutes], minor=False)
    axes.minorticks_off()
    axes.set_title(f"{title}, minutes", fontsize=8)


def draw_loss(axes: Axes, training: str, curve: dict) -> None:
    axes.plot(curve["loss"], color=plots.REAL, lw=1.4)
    if min(curve["loss"]) > 0:
        axes.set_yscale("log")
    axes.set_title(f"loss, {training.replace('_', ' ')}", fontsize=8)


def main(workdirs: str, figure: str, methods: str = "lldm,ha_gan,ddpm,ldm_vqvae,ldm_vae", seed: int = 0) -> None:
    """Read what the runs left; the losses are those of the last work directory."""
    works = [Path(item) for item in (workdirs.split(",") if isinstance(workdirs, str) else workdirs)]
    names = methods.split(",") if isinstance(methods, str) else methods
    content = {
        name: {"quality": qualities(works, name, seed), "curves": curves(works[-1], name, seed)} for name in names
    }
    draw(content, figure)
    print(json.dumps({"machine": describe(), **content}, indent=1))


if __name__ == "__main__":
    fire.Fire(main)
