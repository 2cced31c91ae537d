"""Writing the zips and the Model Zoo's index of them."""

import hashlib
import shutil
import tempfile
import zipfile
from pathlib import Path

import yaml

from lldm3d.errors import UserError
from lldm3d.files import load_checkpoint, read_json, whole, write_json
from lldm3d.pack.cargo import Cargo, chain, trained, untrained
from lldm3d.pack.configs import write_configs
from lldm3d.pack.metadata import write_metadata
from lldm3d.pack.remark import copies_remark, readme_section
from lldm3d.pack.weights import check_weights, latent_stride, write_weights

PACKAGE = Path(__file__).parents[1]
ZOO = "https://github.com/Project-MONAI/model-zoo/releases/download/hosting_storage_v1"
LEFT = shutil.ignore_patterns("__pycache__", "models", "eval")  # what running a bundle leaves in its folder
NO_WEIGHTS = "No weights come with this bundle: train it on your own data."
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time of a zip; with it the same content has the same checksum


def pack(
    output_dir: str,
    workdir: str | None = None,
    stages: tuple[str, ...] | str | None = None,
    bundle: str | None = None,
    weights: str | None = None,
    url: str = ZOO,
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
        url: address at which the zips will lie, for model_info.json.
        overwrite: replace zips of the same version.

    Raises:
        UserError: where options contradict each other, a checkpoint is missing or does not fit, or a zip is there.
    """
    stages = (stages,) if isinstance(stages, str) else stages
    output, info = Path(output_dir), Path(output_dir) / "model_info.json"
    index = read_json(info) if info.is_file() else {}
    for cargo in load(workdir, stages, bundle, weights):
        path = write_zip(cargo, output, overwrite)
        index[path.stem] = {"checksum": sha1(path), "source": f"{url.rstrip('/')}/{path.name}"}
        write_json(info, index)
        print(path)
    if workdir:
        print(copies_remark(Path(workdir)))


def load(workdir: str | None, stages: tuple | None, bundle: str | None, weights: str | None) -> list[Cargo]:
    """What to pack. Raises UserError where the options contradict each other."""
    if workdir and (bundle or weights):
        raise UserError("--workdir packs what it trained: leave out --bundle and --weights, and choose with --stages")
    if stages and not workdir:
        raise UserError("--stages names stages of a chain: give its --workdir too")
    if weights and not bundle:
        raise UserError(f"--weights {weights}: give the --bundle that trained them too")
    if workdir:
        return chain(Path(workdir).resolve(), stages)
    return [trained(bundle, weights)] if weights else untrained(bundle)


def write_zip(cargo: Cargo, output: Path, overwrite: bool) -> Path:
    """Build the folder of the bundle, check it, and zip it. Raises UserError where the zip exists or does not fit."""
    version = read_json(cargo.bundle / "configs/metadata.json")["version"]
    path = output / f"{cargo.name}_v{version}.zip"
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists; choose another --output_dir or give --overwrite")
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output, prefix=".partial-") as temporary:
        folder = Path(temporary) / cargo.name
        build(cargo, folder)
        with whole(path) as partial:
            compress(folder, partial)
    return path


def build(cargo: Cargo, folder: Path) -> None:
    """The bundle as it is unpacked."""
    shutil.copytree(cargo.bundle, folder, ignore=LEFT)
    classes = yaml.safe_load((folder / "configs/inference.yaml").read_text()).get("class_names", [])
    names, checkpoint = {}, {}
    if source := cargo.checkpoints.get("ckpt_path"):
        names, checkpoint = write_weights(folder, cargo.checkpoints), load_checkpoint(source, made_by=cargo.name)
    write_configs(folder, cargo.settings, names, checkpoint.get("network", {}))
    if source:
        write_metadata(folder, cargo.settings, classes, latent_stride(checkpoint))
        check_weights(folder, source)
        readme = folder / "docs/README.md"
        text = readme.read_text().replace(NO_WEIGHTS, "")
        readme.write_text(text + readme_section(cargo.checkpoints, names, cargo.remark))
    if any("lldm3d." in config.read_text() for config in folder.glob("configs/*.yaml")):
        shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__", "bundles"))


def compress(folder: Path, path: Path) -> None:
    """Zip `folder` as the one folder of the archive; the same content gives the same bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(item for item in folder.rglob("*") if item.is_file()):
            entry = zipfile.ZipInfo(file.relative_to(folder.parent).as_posix(), EPOCH)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            with open(file, "rb") as source, archive.open(entry, "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target, 1 << 20)


def sha1(path: Path) -> str:
    """The checksum of the Model Zoo's model_info.json."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha1").hexdigest()
