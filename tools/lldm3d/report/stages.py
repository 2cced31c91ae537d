"""What the stages of a work directory left: settings, commands, gates and loss curves."""

import platform
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import yaml
from matplotlib.figure import Figure

from lldm3d import __version__, plots
from lldm3d.bundle import bundles_dir
from lldm3d.errors import UserError
from lldm3d.evaluation.figures import light
from lldm3d.files import read_json

TRAININGS = ("autoencoder_image", "autoencoder_label", "label_ldm", "image_ldm", "controlnet")
PACKAGES = ("torch", "monai", "pytorch-ignite", "numpy", "scipy", "scikit-image")


@dataclass(frozen=True)
class Command:
    """How a stage was started last."""

    stage: str
    line: str


def read_run(work: Path) -> dict:
    """Profile, data and settings of the run; {} where `lldm3d run` did not make this work directory."""
    path = work / "run.yaml"
    try:
        return (yaml.safe_load(path.read_text()) or {}) if path.is_file() else {}
    except yaml.YAMLError as error:
        raise UserError(f"{path}: is not valid YAML ({error}); mend it or delete it") from None


def versions() -> dict[str, str]:
    """The versions of this package and of those that make the numbers."""
    found = {"lldm3d": __version__, "Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def commands(work: Path) -> list[Command]:
    """The last command in the log of each stage: the lines that begin with `$ `."""
    found = []
    for log in sorted(work.rglob("log.txt"), key=lambda path: path.stat().st_mtime):
        lines = [line[2:] for line in log.read_text(errors="replace").splitlines() if line.startswith("$ ")]
        found += [Command(log.parent.relative_to(work).as_posix(), mailable(line, work)) for line in lines[-1:]]
    return found


def mailable(line: str, work: Path) -> str:
    """A command without the folders of this machine: W is the work directory."""
    package = str(Path(__file__).parents[1])
    for folder, name in ((str(work), "W"), (str(bundles_dir()), "bundles"), (package, "lldm3d")):
        line = line.replace(folder, name)
    return line.replace(sys.executable, "python")


def stage_metrics(work: Path) -> dict[str, dict]:
    """The content of each training stage's `metrics.json`, where there is one."""
    paths = {stage: work / stage / "metrics.json" for stage in TRAININGS}
    return {stage: read_json(path) for stage, path in paths.items() if path.is_file()}


def gate_rows(metrics: dict[str, dict], limits: dict) -> list[dict]:
    """The autoencoders' figures on held-out cases, beside the limits of the run's settings."""
    rows = []
    if image := metrics.get("autoencoder_image"):
        rows.append(gate("PSNR", None, image.get("psnr"), "dB", image, limits.get("image_psnr")))
        rows.append(gate("SSIM", None, image.get("ssim"), "", image, None))
    if label := metrics.get("autoencoder_label"):
        rows.append(gate("mean Dice", None, label.get("mean_dice"), "", label, limits.get("label_dice")))
        for key, title in (("dice", "Dice"), ("cldice", "clDice")):
            rows += [gate(title, name, value, "", label, None) for name, value in label.get(key, {}).items()]
    return rows


def gate(name: str, class_name: str | None, value: float | None, unit: str, source: dict, limit: float | None) -> dict:
    part = "image autoencoder" if "psnr" in source else "label autoencoder"
    note = "" if limit is None or value is None else ("passed" if value >= limit else "not passed")
    return {
        "section": "gate",
        "name": name,
        "class": class_name,
        "between": part,
        "value": value,
        "unit": unit,
        "n": source.get("n"),
        "floor": limit,
        "note": note,
    }


def loss_curves(metrics: dict[str, dict]) -> Figure | None:
    """Training and validation losses over the epochs of each stage; None where no stage wrote any."""
    curves = {stage: losses(content) for stage, content in metrics.items()}
    curves = {stage: found for stage, found in curves.items() if found}
    if not curves:
        return None
    columns = min(3, len(curves))
    figure, grid = light(-(-len(curves) // columns), columns, 3.2 * columns, 2.3 * -(-len(curves) // columns))
    for axes, (stage, found) in zip(grid.flat, curves.items(), strict=False):
        last = max(len(values) for values in found.values())
        for name, values in found.items():
            epochs = [last * (k + 1) / len(values) for k in range(len(values))]
            shade = plots.SYNTHETIC if name.startswith("val") else plots.REAL
            words = "held-out cases" if name.startswith("val") else "training"
            axes.plot(epochs, values, color=shade, label=words, lw=1.6, marker="o" if len(values) < 3 else None)
        values = [value for curve in found.values() for value in curve]
        if min(values) > 0 and max(values) > 20 * min(values):
            axes.set_yscale("log")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_title(stage.replace("_", " "), fontsize=9)
        axes.set_xlabel("epoch", fontsize=8)
        axes.legend(frameon=False, fontsize=7.5)
    for axes in grid.flat[len(curves) :]:
        axes.set_axis_off()
    return figure


def losses(content: dict) -> dict[str, list[float]]:
    """The entries `loss` and `val_loss` that hold a curve."""
    return {
        name: content[name] for name in ("loss", "val_loss") if isinstance(content.get(name), list) and content[name]
    }
