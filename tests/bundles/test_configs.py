"""Every config of every bundle: it parses, its references and classes exist, and its header tells how to run it."""

import functools
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from pydoc import locate

import jsonschema
import pytest
from monai.bundle import ComponentLocator, ConfigComponent, ConfigParser, ReferenceResolver

from lldm3d.bundle import bundle_names, bundle_path
from lldm3d.pipeline.profile import SEGMENT_OVERLAY

LOCATOR = ComponentLocator()  # one, as each looks through all of MONAI
COMMAND = re.compile(r"""run (?P<run_id>\w+) --config_file (?P<files>"\[[^"]+\]"|[\w./]+\.yaml)""")
DEMO = bundle_path("autoencoder").parents[1] / "work/demo"

# what the chain and the README rely on, in every train.yaml
IDS = """bundle_root device dataset_dir output_dir class_names seed epochs epoch_length val_interval batch_size
learning_rate num_workers training run""".split()
# and in those of the baselines, which a method's work directory has its own folders for
BASELINE_IDS = """bundle_root device dataset_dir method_dir output_dir roi_size seed epochs epoch_length val_interval
batch_size learning_rate ckpt_path training run""".split()


@pytest.mark.parametrize("bundle", bundle_names())
def test_the_bundle_is_sound(bundle):
    """All faults at once; what each check asks for stands at its head."""
    folder = bundle_path(bundle)
    checks = (files_that_lack, headers, ids, metadata)
    faults = [fault for check in checks for fault in check(folder)]
    merges = {files for config in folder.glob("configs/*.yaml") for _, files in commands(config)}
    if bundle.startswith("seg_"):
        merges.add(("configs/train.yaml", str(SEGMENT_OVERLAY)))
    for files in sorted(merges):
        content = parse(folder, files)
        faults += [f"{files}: {fault}" for check in (references, classes) for fault in check(content)]
    assert not faults, f"{bundle}:\n" + "\n".join(faults)


def commands(config: Path) -> list[tuple[str, tuple[str, ...]]]:
    """(run id, config files) of each command in the comment that heads a config; a backslash joins two lines."""
    lines = config.read_text().splitlines()
    end = next(i for i, line in enumerate([*lines, ""]) if not line.startswith("#"))
    text = re.sub(r"(\\|\s)+", " ", " ".join(line.lstrip("# ") for line in lines[:end]))
    return [(found["run_id"], tuple(re.findall(r"[\w./]+\.yaml", found["files"]))) for found in COMMAND.finditer(text)]


@functools.cache
def parse(bundle: Path, files: tuple[str, ...]) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([str(bundle / file) for file in files])
    parser.resolve_macro_and_relative_ids()
    return parser


def is_baseline(bundle: Path) -> bool:
    return bundle.parent.name in ("baselines", "lesions")


def files_that_lack(bundle: Path) -> Iterator[str]:
    """A bundle has these files, and no Python: code belongs into tools/lldm3d."""
    wanted = [f"configs/{file}" for file in ("train.yaml", "inference.yaml", "metadata.json")]
    for file in (*wanted, "LICENSE", "docs/README.md"):
        if not (bundle / file).is_file():
            yield f"lacks {file}"
    yield from (f"{file}: code belongs into tools/lldm3d" for file in bundle.rglob("*.py"))


def headers(bundle: Path) -> Iterator[str]:
    """The first lines of each config hold `python -m monai.bundle run ... --config_file ...` with this file."""
    for config in bundle.glob("configs/*.yaml"):
        mine = [(run_id, files) for run_id, files in commands(config) if f"configs/{config.name}" in files]
        if not mine and not config.name.startswith("method"):
            yield f"{config.name}: its first lines must hold a command `python -m monai.bundle run` with this file"
        for run_id, files in mine:
            if missing := {run_id, "run"} - set(parse(bundle, files).get()):
                yield f"{config.name}: {files} define no {sorted(missing)}"


def ids(bundle: Path) -> Iterator[str]:
    """A training has the ids that every bundle has, and starts from what the demo leaves."""
    for path in bundle.glob("configs/train*.yaml"):
        content = ConfigParser.load_config_file(path)
        if missing := set(BASELINE_IDS if is_baseline(bundle) else IDS) - set(content):
            yield f"{path.name}: lacks {sorted(missing)}"
        elif (bundle / content["dataset_dir"]).resolve() != DEMO / "dataset":
            yield f"{path.name}: dataset_dir {content['dataset_dir']} is not what the demo leaves"


def metadata(bundle: Path) -> Iterator[str]:
    """MONAI's schema, a changelog with the version, and for each `<name>_data_format` a network `<name>_def`."""
    content = json.loads((bundle / "configs/metadata.json").read_text())
    schema = Path(__file__).with_name(content["schema"].rsplit("/", 1)[-1])
    validator = jsonschema.Draft7Validator(json.loads(schema.read_text()))
    yield from (f"metadata.json: {error.message}" for error in validator.iter_errors(content))
    if content["version"] not in content["changelog"]:
        yield f"metadata.json: {content['version']} is not in its changelog"
    networks = {key.replace("_data_format", "_def") for key in content if key.endswith("_data_format")}
    if missing := networks - set(parse(bundle, ("configs/inference.yaml",)).get()):
        yield f"inference.yaml defines no {sorted(missing)}"


def nodes(content, place: str = "") -> Iterator[tuple]:
    """Every (id, value) of a nested config."""
    yield place, content
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield from nodes(value, f"{place}#{key}" if place else str(key))


def references(parser: ConfigParser) -> Iterator[str]:
    """Every `@id` is defined."""
    for place, value in nodes(parser.get()):
        if isinstance(value, str) and value[:1] in ("@", "$"):
            missing = [name for name in ReferenceResolver.match_refs_pattern(value) if name not in parser]
            yield from (f"{place}: undefined reference {name}" for name in missing)


def classes(parser: ConfigParser) -> Iterator[str]:
    """Every `_target_` can be imported and takes the arguments given."""
    for place, node in nodes(parser.get()):
        if isinstance(node, dict) and not str(node.get("_target_", "$")).startswith("$"):
            path = ConfigComponent(config=node, id=place, locator=LOCATOR).resolve_module_name()
            try:
                bind(locate(path), node)
            except TypeError as error:
                yield f"{place}: {path}: {error}"


def bind(found, node: dict) -> None:
    """Raise TypeError where the object does not exist or does not take these arguments."""
    if not callable(found):
        raise TypeError("cannot be imported")
    signature = inspect.signature(found)
    arguments = {key: value for key, value in node.items() if not key.startswith("_")}
    partial = node.get("_mode_") in ("callable", "partial")
    (signature.bind_partial if partial else signature.bind)(*node.get("_args_", ()), **arguments)
