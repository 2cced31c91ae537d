"""The methods that can be compared: each bundle with a `configs/method.yaml` is one."""

from dataclasses import dataclass
from pathlib import Path

import yaml
from jsonschema import Draft202012Validator

from lldm3d.bundle import bundles_dir
from lldm3d.errors import UserError, did_you_mean

FILE = "configs/method.yaml"
OURS = "lldm"  # the chain's own system
KINDS = {"type": "array", "items": {"enum": ["image", "label"]}, "minItems": 1, "uniqueItems": True}
TRAINING = {
    "type": "object",
    "additionalProperties": False,
    "required": ["share"],
    "properties": {"config": {"type": "string"}, "share": {"type": "number", "exclusiveMinimum": 0, "maximum": 1}},
}
SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["title", "source", "needs", "makes", "trainings"],
    "properties": {
        "name": {"type": "string"},
        "title": {"type": "string"},
        "source": {"type": "string"},
        "needs": KINDS,
        "makes": KINDS,
        "trainings": {"type": "object", "minProperties": 1, "additionalProperties": TRAINING},
    },
}


@dataclass(frozen=True)
class Method:
    """What a bundle's `method.yaml` declares."""

    name: str  # the bundle's folder, unless the file says another
    bundle: str  # as `lldm3d.bundle.bundle_path` takes it
    title: str  # in tables and figures
    source: str
    needs: tuple[str, ...]  # of the training cases: image, label
    makes: tuple[str, ...]  # what it draws
    shares: dict[str, float]  # training -> share of the method's minutes, in order
    configs: dict[str, str]  # training -> config file of the bundle; none where the stages of the chain are trained

    @property
    def is_chain(self) -> bool:
        """Whether the stages of the chain itself are its trainings."""
        return not self.configs

    @property
    def on_labels(self) -> bool:
        """Whether it draws images on labels that it is given."""
        return "label" in self.needs and "label" not in self.makes


def seed_stage(name: str, seed: int) -> str:
    """The stage of the chain in which a method is trained with one seed, and its folder in the work directory."""
    return f"methods/{name}/seed_{seed}"


def declared() -> dict[str, tuple[Path, dict]]:
    """Name, and file and content of the `method.yaml`, of all methods, that of the chain first."""
    files = sorted(bundles_dir().rglob(FILE), key=lambda file: (len(file.parts), file))
    read_files = [(file, read(file)) for file in files]
    return {content.get("name", file.parents[1].name): (file, content) for file, content in read_files}


def method_names() -> list[str]:
    return list(declared())


def read(file: Path) -> dict:
    """The content of a `method.yaml`. Raises UserError that names what is wrong in it."""
    try:
        content = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{file}: is not valid YAML ({error})") from None
    faults = [
        f"{'#'.join(map(str, error.path))}: {error.message}".lstrip(": ")
        for error in Draft202012Validator(SCHEMA).iter_errors(content)
    ]
    if faults:
        raise UserError(f"{file}: {'; '.join(faults)}")
    return content


def load_method(name: str) -> Method:
    """The method `name`. Raises UserError where there is none, or its file is broken."""
    found = declared()
    if name not in found:
        raise UserError(f"there is no method {name!r}: {did_you_mean(name, found)}The methods are {', '.join(found)}")
    file, content = found[name]
    trainings = content["trainings"]
    configs = {training: entry["config"] for training, entry in trainings.items() if "config" in entry}
    if configs and len(configs) < len(trainings):
        raise UserError(f"{file}: give each training a config, or none: got one for {', '.join(configs)} alone")
    if sum(entry["share"] for entry in trainings.values()) > 1 + 1e-9:
        raise UserError(f"{file}: the shares of the trainings add up to more than 1")
    return Method(
        name=name,
        bundle=file.parents[1].relative_to(bundles_dir()).as_posix(),
        title=content["title"],
        source=content["source"],
        needs=tuple(content["needs"]),
        makes=tuple(content["makes"]),
        shares={training: entry["share"] for training, entry in trainings.items()},
        configs=configs,
    )
