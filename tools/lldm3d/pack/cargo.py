"""What is packed: a bundle, the checkpoints that its inference reads, and the settings that it was trained with."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml
from monai.bundle import ConfigParser

from lldm3d.bundle import bundle_names, bundle_path
from lldm3d.chain.configs import INFERENCE, bundle_and_configs, load_configs
from lldm3d.errors import UserError
from lldm3d.pack.remark import copies_remark

OWN = ("_dir", "_path", "bundle_root")  # ids of paths on the machine that trained; they do not travel
SAMPLING = ("num_inference_steps", "solver", "time_shift", "guidance_scale")


@dataclass(frozen=True)
class Cargo:
    """One zip."""

    name: str  # of its folder, and in the Model Zoo
    bundle: Path
    checkpoints: dict[str, Path] = field(default_factory=dict)  # id of the path in inference.yaml: file
    settings: dict = field(default_factory=dict)  # ids of the configs: values
    remark: str = ""  # on its weights, for its README


def untrained(name: str | None) -> list[Cargo]:
    """The bundle of this name, or all, without weights."""
    return [Cargo(Path(bundle).name, bundle_path(bundle)) for bundle in ([name] if name else bundle_names())]


def trained(name: str, weights: str | Path) -> Cargo:
    """A bundle with the weights of one training; its settings are those of the `overrides.yaml` beside them, if any.

    Raises UserError where a file that the bundle's inference needs does not exist.
    """
    weights, bundle = Path(weights).resolve(), bundle_path(name)
    return cargo(Path(name).name, bundle, {**read_paths(bundle, weights.parents[1]), "ckpt_path": weights})


def chain(work: Path, stages: tuple[str, ...] | None) -> list[Cargo]:
    """What the work directory trained: each generative bundle, and the segmentations of the first seed.

    Args:
        stages: only these stages; the start of a name stands for all that begin so, of any seed.

    Raises:
        UserError: where a stage that is asked for does not exist, or nothing is trained yet.
    """
    found = {**generative(work), **segmentations(work)}
    if not found:
        raise UserError(f"{work}: holds no trained stage; give the work directory of `lldm3d run`")
    for stage in stages or ():
        if not any(begins(name, stage) for name in found):
            raise UserError(f"--stages {stage}: no trained stage of {work} begins so; there are {', '.join(found)}")
    if stages:
        return [item for name, item in found.items() if any(begins(name, stage) for stage in stages)]
    first = min((name.rsplit("seed_")[1] for name in found if "seed_" in name), key=int, default="")
    return [item for name, item in found.items() if "seed_" not in name or name.endswith(f"/seed_{first}")]


def begins(name: str, stage: str) -> bool:
    return f"{name}/".startswith(stage.rstrip("/") + "/")


def generative(work: Path) -> dict[str, Cargo]:
    """Stage: cargo, for each bundle whose inference reads its checkpoints from a work directory that has them."""
    found = {}
    for name in bundle_names():
        paths = read_paths(bundle_path(name), work)
        if paths and all(map(Path.is_file, paths.values())):
            stage = paths["ckpt_path"].parent.name
            made = cargo(Path(name).name, bundle_path(name), paths, copies_remark(work))
            found[stage] = replace(made, settings={**overlaid(work, stage), **made.settings, **sampling(work)})
    return found


def overlaid(work: Path, stage: str) -> dict:
    """What the overlays of the chain's profile, such as ddpm.yaml, say of a training stage."""
    run = yaml.safe_load((work / "run.yaml").read_text())
    bundle, configs = bundle_and_configs(stage, run["settings"][stage])
    return load_configs(bundle_path(bundle), configs[1:])


def sampling(work: Path) -> dict:
    """How the chain drew its pairs."""
    overrides = work / "synthetic/overrides.yaml"
    settings = yaml.safe_load(overrides.read_text()) if overrides.is_file() else {}
    return {key: settings[key] for key in SAMPLING if key in settings}


def segmentations(work: Path) -> dict[str, Cargo]:
    """Stage: cargo, for each `segment/<network>/.../seed_<k>` with weights; the zip is named after the stage."""
    found = {}
    for weights in sorted(work.glob("segment/*/**/seed_*/model.pt")):
        stage = weights.parent.relative_to(work).as_posix()
        network = stage.split("/")[1]
        name = re.sub(r"[^\w.]+", "_", stage.removeprefix("segment/"))
        found[stage] = cargo(name, bundle_path(network), {"ckpt_path": weights})
    return found


def read_paths(bundle: Path, work: Path) -> dict[str, Path]:
    """The checkpoints that `inference.yaml` looks for in a work directory; none where it knows no `work_dir`."""
    parser = ConfigParser()
    parser.read_config(bundle / INFERENCE)
    if "work_dir" not in parser:
        return {}
    parser["work_dir"] = str(work)
    return {name: Path(parser.get_parsed_content(name)) for name in parser.get() if name.endswith("_path")}


def cargo(name: str, bundle: Path, checkpoints: dict[str, Path], remark: str = "") -> Cargo:
    """With the settings in the `overrides.yaml` beside the weights. Raises UserError where a checkpoint is missing."""
    for path in checkpoints.values():
        if not path.is_file():
            raise UserError(f"{path}: no such checkpoint, but the inference of {bundle.name} reads it; train it first")
    overrides = checkpoints["ckpt_path"].with_name("overrides.yaml")
    settings = yaml.safe_load(overrides.read_text()) if overrides.is_file() else {}
    kept = {key: value for key, value in settings.items() if not key.endswith(OWN)}
    return Cargo(name, bundle, checkpoints, kept, remark)
