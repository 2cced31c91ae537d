"""What the stages of a work directory left: settings, commands, figures of the trainings and loss curves."""

import platform
import re
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import yaml
from matplotlib.figure import Figure

from lldm3d import __version__, plots
from lldm3d.errors import UserError
from lldm3d.files import read_json

KNOWN = {  # entries of a training's metrics.json that are shown: title and unit; those of each class are dicts
    "psnr": ("PSNR", "dB"),
    "ssim": ("SSIM", ""),
    "mean_dice": ("mean Dice", ""),
    "dice": ("Dice", ""),
    "cldice": ("clDice", ""),
}
PACKAGES = ("torch", "monai", "pytorch-ignite", "numpy", "scipy", "scikit-image")


def read_run(work: Path) -> dict:
    """Profile, data and settings of the run; {} where `lldm3d run` did not make this work directory."""
    path = work / "run.yaml"
    try:
        return (yaml.safe_load(path.read_text()) or {}) if path.is_file() else {}
    except yaml.YAMLError as error:
        raise UserError(f"{path}: is not valid YAML ({error}); correct it or delete it") from None


def versions() -> dict[str, str]:
    """The versions of this package and of those that make the numbers."""
    found = {"lldm3d": __version__, "Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


FOLDER = r"(?:(?<=')/[^']*|/[^'\s]*)"  # with spaces where it stands in quotes
# what is installed, wherever that was when the command ran
INSTALLED = {f"{FOLDER}/{name}/": f"{name}/" for name in ("bundles", "lldm3d")}
INSTALLED |= {rf"'?{FOLDER}/bin/python[\d.]*'?": "python"}


def commands(work: Path) -> dict[str, str]:
    """{stage: the commands in its log}, of the lines that begin with `$ `; without the folders of this machine."""
    found = {}
    for log in sorted(work.rglob("log.txt"), key=lambda path: path.stat().st_mtime):
        lines = [line[2:] for line in log.read_text(errors="replace").splitlines() if line.startswith("$ ")]
        text, stage = "\n".join(dict.fromkeys(lines)), log.parent.relative_to(work).as_posix()
        text = re.sub(rf"{re.escape(str(work))}(?![\w.-])", "W", text)
        text = re.sub(f"{FOLDER}/{re.escape(stage)}/", f"W/{stage}/", text)  # where it was then
        for pattern, name in INSTALLED.items():
            text = re.sub(pattern, name, text)
        if text:
            found[stage] = text
    return found


def training_metrics(work: Path, methods: Sequence[str], seed: int) -> dict[tuple[str, str], dict]:
    """(method, training): the `metrics.json` that it wrote; of a method in the order in which they were begun."""
    found = {}
    for method in methods:
        folder = work / "methods" / method / f"seed_{seed}"
        for path in sorted(folder.glob("*/metrics.json"), key=lambda path: path.stat().st_mtime_ns):
            found[method, path.parent.name] = read_json(path)
    return found


def gate_rows(metrics: dict[tuple[str, str], dict], settings: dict[str, dict]) -> list[dict]:
    """The trainings' figures on held-out cases, beside the least that the methods' settings ask for (their gates)."""
    rows = []
    for (method, training), content in metrics.items():
        gate = ((settings.get(method) or {}).get(training) or {}).get("gate", {})
        for key in dict.fromkeys([*KNOWN, *gate]):
            title, unit = KNOWN.get(key, (key, ""))
            found, least = content.get(key), gate.get(key)
            if key in gate or isinstance(found, (int, float, dict)):
                common = {"group": "gate", "between": f"{method}, {training}", "key": key, "name": title, "unit": unit}
                common |= {"n": content.get("n"), "floor": least}
                for name, value in found.items() if isinstance(found, dict) else [(None, found)]:
                    note = "" if None in (least, value) else "passed" if value >= least else "not passed"
                    rows.append(common | {"class": name, "value": value, "note": note})
    return rows


def loss_curves(metrics: dict[tuple[str, str], dict]) -> Figure | None:
    """Training and validation losses over the epochs of each training; None where none wrote any."""
    curves: dict[str, dict[str, list[float]]] = {}
    for place, content in metrics.items():
        for name in ("loss", "val_loss"):
            if isinstance(content.get(name), list) and content[name]:
                curves.setdefault(", ".join(place), {})[name] = content[name]
    if not curves:
        return None
    columns = min(3, len(curves))
    figure, grid = plots.light(-(-len(curves) // columns), columns, 3.2 * columns, 2.3 * -(-len(curves) // columns))
    for axes, (title, found) in zip(grid.flat, curves.items(), strict=False):
        last = max(len(values) for values in found.values())
        for name, values in found.items():
            epochs = [last * (k + 1) / len(values) for k in range(len(values))]
            shade = plots.SYNTHETIC if name.startswith("val") else plots.REAL
            words = "held-out cases" if name.startswith("val") else "training"
            axes.plot(epochs, values, color=shade, label=words, lw=1.6, marker="o" if len(values) < 3 else None)
        values = [value for curve in found.values() for value in curve]
        if min(values) > 0 and max(values) > 20 * min(values):
            axes.set_yscale("log")
            for which in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
                which("{x:g}")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_title(title.replace("_", " "), fontsize=9)
        axes.set_xlabel("epoch", fontsize=8)
        axes.legend(frameon=False, fontsize=7.5)
    for axes in grid.flat[len(curves) :]:
        axes.set_axis_off()
    return figure
