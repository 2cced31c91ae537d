"""`lldm3d pack`: trained bundles as zips that travel alone, for the MONAI Model Zoo or a colleague."""

import hashlib
import re
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from lldm3d.bundle import INFERENCE, bundle_names, bundle_path, literal, load_configs
from lldm3d.errors import UserError
from lldm3d.evaluation.metrics import most_copies
from lldm3d.export import package_configs as configs
from lldm3d.export.package_configs import read_config
from lldm3d.files import atomic_write, load_checkpoint, passing_folder, read_json, sha256, write_json
from lldm3d.methods.registry import OURS, Method, load_method
from lldm3d.pairs.sources import RECONSTRUCTED

SECTION = """
## This copy

Holds trained weights, and their settings are the defaults of its configs. Data of your own, prepared in the same way,
go into the folder `dataset` (or `latents`) beside `configs`. Python packages that it needs beside MONAI:
`required_packages_version` in `configs/metadata.json`.

| file | SHA-256 of the checkpoint |
|---|---|
"""


def copies_note(work: Path, method: str = "*") -> str:
    """How near the synthetic cases of a method come to its patients: what to know before its models are shared."""
    paths = sorted(work.glob(f"evaluation/{method}/*/seed_*/metrics.json"))
    found = most_copies(path for path in paths if path.parts[-3] != RECONSTRUCTED)  # those are no synthetic pairs
    if found is None:
        return (
            "**Copies of patients: not measured.** Models learnt from few patients can repeat them: before you "
            "share them, run `lldm3d evaluate --max_copies` on pairs drawn with them."
        )
    _, share, number = found
    return (
        f"**Copies of patients:** of {number} pairs drawn with these models, {share:.1%} lie nearer to a "
        "training case than half the distance that three in four real cases keep (`lldm3d evaluate`)."
    )


OWN = ("_dir", "_path", "bundle_root")  # ids of paths on the machine that trained; they do not travel
SAMPLING = ("num_inference_steps", "solver", "time_shift", "time_grid", "guidance_scale")


@dataclass(frozen=True)
class Package:
    """One zip."""

    name: str  # of its folder, and in the Model Zoo
    bundle: Path
    checkpoints: dict[str, Path] = field(default_factory=dict)  # id of the path in inference.yaml: file
    settings: dict = field(default_factory=dict)  # ids of the configs: values
    privacy_note: str = ""  # on its weights, for its README
    overlays: tuple[str, ...] = ()  # laid over inference.yaml


def trained(name: str, weights: str | Path) -> Package:
    """A bundle with the weights of one training; its settings are those of the `overrides.yaml` beside them, if any.

    Raises UserError where a file that the bundle's inference needs does not exist.
    """
    weights, bundle = Path(weights).resolve(), bundle_path(name)
    return trained_package(Path(name).name, bundle, {**read_paths(bundle, weights.parents[1]), "ckpt_path": weights})


def trained_packages(work: Path, stages: tuple[str, ...] | None) -> list[Package]:
    """What the work directory trained: each generative bundle, and the segmentations, of the first seed.

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
    first = min(map(seed_of, found))
    return [item for name, item in found.items() if seed_of(name) == first]


def begins(name: str, stage: str) -> bool:
    return f"{name}/".startswith(stage.rstrip("/") + "/")


def seed_of(stage: str) -> int:
    return int(re.search(r"/seed_(\d+)", stage)[1])


def generative(work: Path) -> dict[str, Package]:
    """Stage: package, for each bundle of a method whose inference finds its checkpoints among the method's trainings.

    Of methods other than 3D-LLDM only their own bundle, under the method's name, as those that they share would be
    packed twice. What draws labels goes with it where it was trained.
    """
    found = {}
    for folder in sorted(work.glob("methods/*/seed_*")):
        method = load_method(folder.parent.name)
        shared = dict.fromkeys(method.bundle_of(training) for training in method.trainings)
        for name in shared if method.name == OURS else [method.bundle]:
            bundle, own = bundle_path(name), method.name != OURS
            overlays = method.inference[1:] if own else ()
            paths = read_paths(bundle, folder, (INFERENCE, *overlays))
            if not paths or not all(map(Path.is_file, paths.values())):
                continue
            drawing = read_paths(bundle, folder, (INFERENCE, *overlays, *method.draw_labels)) if own else {}
            paths |= drawing if all(map(Path.is_file, drawing.values())) else {}
            training = paths["ckpt_path"].parent.name
            title = method.name if own else Path(name).name
            made = trained_package(title, bundle, paths, copies_note(work, method.name))
            settings = {**overlaid(work, method, training), **made.settings, **sampling(work, folder)}
            stage = f"{folder.relative_to(work).as_posix()}/{training}"
            found[stage] = replace(made, settings=settings, overlays=tuple(overlays))
    return found


def overlaid(work: Path, method: Method, training: str) -> dict:
    """What the overlays of the run's profile, such as ddpm.yaml, say of a training."""
    settings = yaml.safe_load((work / "run.yaml").read_text())["settings"]["methods"]
    overlays = settings.get(method.name, {}).get(training, {}).get("overlays", [])
    return load_configs(bundle_path(method.bundle_of(training)), [f"configs/{name}" for name in overlays])


def sampling(work: Path, method_dir: Path) -> dict:
    """How the run drew pairs with the models of a method's folder."""
    seed, method = method_dir.name, method_dir.parent.name
    overrides = next(iter(sorted(work.glob(f"pairs/{method}/*/{seed}/overrides.yaml"))), None)
    settings = yaml.safe_load(overrides.read_text()) if overrides else {}
    return {key: settings[key] for key in SAMPLING if key in settings}


def segmentations(work: Path) -> dict[str, Package]:
    """Stage: package, for each `segment/.../seed_<k>` with weights; the zip is named after the stage."""
    found = {}
    for weights in sorted(work.glob("segment/*/**/seed_*/model.pt")):
        stage = weights.parent.relative_to(work).as_posix()
        network = stage.split("/")[2]
        name = re.sub(r"[^\w.]+", "_", stage.removeprefix("segment/"))
        found[stage] = trained_package(name, bundle_path(network), {"ckpt_path": weights})
    return found


def read_paths(bundle: Path, method_dir: Path, configs: Sequence[str] = (INFERENCE,)) -> dict[str, Path]:
    """The checkpoints that an inference looks for in a method's folder; none where it knows no `method_dir`."""
    parser = read_config([bundle / config for config in configs])
    if "method_dir" not in parser:
        return {}
    parser["method_dir"] = literal(str(method_dir))
    return {name: Path(parser.get_parsed_content(name)) for name in parser.get() if name.endswith("_path")}


def trained_package(name: str, bundle: Path, checkpoints: dict[str, Path], privacy_note: str = "") -> Package:
    """With the settings in the `overrides.yaml` beside the weights. Raises UserError where a checkpoint is missing."""
    for path in checkpoints.values():
        if not path.is_file():
            raise UserError(f"{path}: no such checkpoint, but the inference of {bundle.name} reads it; train it first")
    overrides = checkpoints["ckpt_path"].with_name("overrides.yaml")
    settings = yaml.safe_load(overrides.read_text()) if overrides.is_file() else {}
    kept = {key: value for key, value in settings.items() if not key.endswith(OWN)}
    return Package(name, bundle, checkpoints, kept, privacy_note)


PACKAGE = Path(__file__).parents[1]
LEFT = shutil.ignore_patterns("__pycache__", "models", "eval")  # what running a bundle leaves in its folder
NO_WEIGHTS = re.compile(r" ?No weights come with this bundle(: train it on your own data)?[.;]")
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time of a zip; with it the same content has the same checksum


def pack(
    output_dir: str,
    workdir: str | None = None,
    stages: tuple[str, ...] | str | None = None,
    bundle: str | None = None,
    weights: str | None = None,
    url: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write `<name>_v<version>.zip` of each bundle, and its entry in `model_info.json` (as in the Model Zoo).

    A zip holds configs (YAML, and JSON twins for `monai.bundle.load`), docs, licence, weights, and a copy of this
    package where the configs use it. What the weights were trained with is the default of its configs.

    Args:
        output_dir: folder for the zips.
        workdir: a chain's work directory: pack what it trained.
        stages: stages of it, or how their names begin; default: the generative ones, and the segmentations of the
            first seed.
        bundle: instead, this bundle; default: all, without weights.
        weights: its weights; settings are read from an `overrides.yaml` beside them.
        url: address at which the zips will lie, for model_info.json; default: none yet.
        overwrite: replace zips of the same version.

    Raises:
        UserError: where options contradict each other, a checkpoint is missing or does not fit, or a zip is there or
            would be written twice.
    """
    stages = (stages,) if isinstance(stages, str) else stages
    output, info = Path(output_dir), Path(output_dir) / "model_info.json"
    index = read_json(info) if info.is_file() else {}
    chosen = chosen_packages(workdir, stages, bundle, weights)
    names = [package.name for package in chosen]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"--stages: {', '.join(twice)} would be written twice; pack one seed at a time")
    for package in chosen:
        path = write_zip(package, output, overwrite)
        with open(path, "rb") as file:
            checksum = hashlib.file_digest(file, "sha1").hexdigest()  # as in the Model Zoo
        index[path.stem] = {"checksum": checksum, "source": f"{url.rstrip('/')}/{path.name}" if url else ""}
        write_json(info, index)
        print(path)
    if workdir:
        print(copies_note(Path(workdir)))


def chosen_packages(
    workdir: str | None, stages: tuple | None, bundle: str | None, weights: str | None
) -> list[Package]:
    """What to pack. Raises UserError where the options contradict each other."""
    if workdir and (bundle or weights):
        raise UserError("--workdir packs what it trained: leave out --bundle and --weights, and choose with --stages")
    if stages and not workdir:
        raise UserError("--stages names stages of a chain: give its --workdir too")
    if weights and not bundle:
        raise UserError(f"--weights {weights}: give the --bundle that trained them too")
    if workdir:
        return trained_packages(Path(workdir).resolve(), stages)
    if weights:
        return [trained(bundle, weights)]
    return [Package(Path(name).name, bundle_path(name)) for name in ([bundle] if bundle else bundle_names())]


def write_zip(package: Package, output: Path, overwrite: bool) -> Path:
    """Build the folder of the bundle, check it, and zip it. Raises UserError where the zip exists or does not fit."""
    version = read_json(package.bundle / "configs/metadata.json")["version"]
    path = output / f"{package.name}_v{version}.zip"
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists; choose another --output_dir or give --overwrite")
    with passing_folder(output) as temporary:
        folder = temporary / package.name
        build(package, folder)
        with atomic_write(path) as partial:
            compress(folder, partial)
    return path


def build(package: Package, folder: Path) -> None:
    """The bundle as it is unpacked."""
    shutil.copytree(package.bundle, folder, ignore=LEFT)
    classes = yaml.safe_load((folder / "configs/inference.yaml").read_text()).get("class_names", [])
    names, checkpoint = {}, {}
    if source := package.checkpoints.get("ckpt_path"):
        names, checkpoint = (
            configs.write_weights(folder, package.checkpoints),
            load_checkpoint(source, made_by=package.name),
        )
    configs.write_configs(folder, package.settings, names, checkpoint.get("network", {}), package.overlays)
    if source:
        configs.write_metadata(folder, package.settings, classes, configs.latent_stride(checkpoint))
        configs.check_weights(folder, source)
        readme = folder / "docs/README.md"
        rows = [f"| `models/{names[key]}` | `{sha256(path)}` |\n" for key, path in package.checkpoints.items()]
        note = f"\n{package.privacy_note}\n" if package.privacy_note else ""
        readme.write_text(NO_WEIGHTS.sub("", readme.read_text()) + SECTION + "".join(rows) + note)
    if any("lldm3d." in config.read_text() for config in folder.glob("configs/*.yaml")):
        unneeded = shutil.ignore_patterns("__pycache__", "bundles", "niivue")  # the viewer of reports: 2 MB
        shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=unneeded)


def compress(folder: Path, path: Path) -> None:
    """Zip `folder` as the one folder of the archive; the same content gives the same bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(item for item in folder.rglob("*") if item.is_file()):
            entry = zipfile.ZipInfo(file.relative_to(folder.parent).as_posix(), EPOCH)
            if file.suffix != ".pt":  # 7 % for weights
                entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            with open(file, "rb") as source, archive.open(entry, "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target, 1 << 20)
