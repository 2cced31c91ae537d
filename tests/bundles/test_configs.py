"""Every config of every bundle: it parses, its references and classes exist, and its header tells how to run it."""

import inspect
import json
import re
from pathlib import Path
from pydoc import locate

import jsonschema
import pytest
from monai.bundle import ConfigComponent, ConfigParser, ReferenceResolver

ROOT = Path(__file__).parents[2]
BUNDLES = ROOT / "bundles"
CHAIN_OVERLAY = ROOT / "tools/lldm3d/chain/segment.yaml"
CONFIGS = sorted(path for path in BUNDLES.rglob("configs/*.yaml") if path.name != "method.yaml")
BUNDLE_DIRS = sorted({config.parents[1] for config in CONFIGS})
COMMAND = re.compile(r"""run (?P<run_id>\w+) --config_file (?P<files>"\[[^"]+\]"|[\w./]+\.yaml)""")


# what the chain and the README rely on, in every train.yaml
IDS = """bundle_root device dataset_dir output_dir class_names seed epochs epoch_length val_interval batch_size
learning_rate num_workers training run""".split()
# and in those of the baselines, which a method's work directory has its own folders for
BASELINE_IDS = """bundle_root device dataset_dir method_dir output_dir roi_size seed epochs epoch_length val_interval
batch_size learning_rate ckpt_path training run""".split()


def name(path: Path) -> str:
    return path.relative_to(BUNDLES).as_posix()


def is_baseline(bundle: Path) -> bool:
    return bundle.parent.name == "baselines"


def commands(config: Path) -> list[tuple[str, tuple[str, ...]]]:
    """(run id, config files) of each command in the comment that heads a config; a backslash joins two lines."""
    lines = config.read_text().splitlines()
    end = next(i for i, line in enumerate([*lines, ""]) if not line.startswith("#"))
    text = re.sub(r"(\\|\s)+", " ", " ".join(line.lstrip("# ") for line in lines[:end]))
    return [(found["run_id"], tuple(re.findall(r"[\w./]+\.yaml", found["files"]))) for found in COMMAND.finditer(text)]


def merges() -> list:
    """Every list of config files that the headers of a bundle tell to lay over each other."""
    found = {
        (bundle, files)
        for bundle in BUNDLE_DIRS
        for config in bundle.glob("configs/*.yaml")
        for _, files in commands(config)
    }
    chain = {
        (bundle, ("configs/train.yaml", str(CHAIN_OVERLAY))) for bundle in BUNDLE_DIRS if bundle.name.startswith("seg_")
    }
    return [
        pytest.param(*item, id=f"{name(item[0])}-{'+'.join(Path(f).stem for f in item[1])}")
        for item in sorted(found | chain)
    ]


def parse(bundle: Path, files: tuple[str, ...]) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([str(bundle / file) for file in files])
    parser.resolve_macro_and_relative_ids()
    return parser


def nodes(content, place: str = ""):
    """Every (id, value) of a nested config."""
    yield place, content
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield from nodes(value, f"{place}#{key}" if place else str(key))


@pytest.mark.parametrize("config", CONFIGS, ids=name)
def test_the_header_gives_a_command_that_runs_the_config(config):
    mine = [(run_id, files) for run_id, files in commands(config) if f"configs/{config.name}" in files]
    assert mine, (
        f"{config}: its first lines must hold `python -m monai.bundle run ... --config_file ...` with this file"
    )
    for run_id, files in mine:
        content = parse(config.parents[1], files)
        assert {run_id, "run"} <= set(content.get()), f"{config}: {files} define no {run_id!r} or no 'run'"


@pytest.mark.parametrize("bundle, files", merges())
def test_every_reference_is_defined(bundle, files):
    parser = parse(bundle, files)
    strings = [
        (place, value) for place, value in nodes(parser.get()) if isinstance(value, str) and value[:1] in ("@", "$")
    ]
    missing = [
        f"{place}: {reference}"
        for place, value in strings
        for reference in ReferenceResolver.match_refs_pattern(value)
        if reference not in parser
    ]
    assert not missing, f"{files} of {name(bundle)}: undefined references {missing}"


@pytest.mark.parametrize("bundle, files", merges())
def test_every_class_exists_and_takes_the_arguments_given(bundle, files):
    faults = []
    for place, node in nodes(parse(bundle, files).get()):
        if isinstance(node, dict) and not str(node.get("_target_", "$")).startswith("$"):
            path = ConfigComponent(config=node, id=place).resolve_module_name()
            try:
                bind(locate(path), node)
            except TypeError as error:
                faults.append(f"{place}: {path}: {error}")
    assert not faults, f"{files} of {name(bundle)}: {faults}"


def bind(found, node: dict) -> None:
    """Raise TypeError where the object does not exist or does not take these arguments."""
    if not callable(found):
        raise TypeError("cannot be imported")
    signature = inspect.signature(found)
    arguments = {key: value for key, value in node.items() if not key.startswith("_")}
    partial = node.get("_mode_") in ("callable", "partial")
    (signature.bind_partial if partial else signature.bind)(*node.get("_args_", ()), **arguments)


@pytest.mark.parametrize("bundle", BUNDLE_DIRS, ids=name)
def test_the_bundle_is_whole_and_holds_no_python(bundle):
    last = "method.yaml" if is_baseline(bundle) else "multi_gpu.yaml"
    wanted = [f"configs/{file}" for file in ("train.yaml", "inference.yaml", "metadata.json", "logging.conf", last)]
    missing = [file for file in [*wanted, "LICENSE", "docs/README.md"] if not (bundle / file).is_file()]
    assert not missing, f"{name(bundle)} lacks {missing}"
    assert not list(bundle.rglob("*.py")), f"{name(bundle)}: code belongs into tools/lldm3d"


@pytest.mark.parametrize("bundle", BUNDLE_DIRS, ids=name)
def test_train_defines_what_every_bundle_does_and_starts_from_what_the_demo_leaves(bundle):
    for path in bundle.glob("configs/train*.yaml"):
        content, ids = ConfigParser.load_config_file(path), BASELINE_IDS if is_baseline(bundle) else IDS
        assert not set(ids) - set(content), f"{name(path)} lacks {sorted(set(ids) - set(content))}"
        demo = (ROOT / "bundles/autoencoder/../../work/demo").resolve()
        assert (bundle / content["dataset_dir"]).resolve() in (demo / "dataset", demo / "latents")


@pytest.mark.parametrize("metadata", sorted(BUNDLES.rglob("configs/metadata.json")), ids=name)
def test_the_metadata_follow_the_published_schema(metadata):
    content = json.loads(metadata.read_text())
    schema = Path(__file__).with_name(content["schema"].rsplit("/", 1)[-1])
    jsonschema.validate(content, json.loads(schema.read_text()))
    assert content["version"] in content["changelog"], f"{name(metadata)}: {content['version']} is not in its changelog"


@pytest.mark.parametrize("metadata", sorted(BUNDLES.rglob("configs/metadata.json")), ids=name)
def test_each_network_format_has_its_network(metadata):
    """MONAI's convention: `<name>_data_format` describes the network `<name>_def`."""
    networks = {
        key.replace("_data_format", "_def") for key in json.loads(metadata.read_text()) if key.endswith("_data_format")
    }
    defined = set(parse(metadata.parents[1], ("configs/inference.yaml",)).get())
    assert networks <= defined, f"{name(metadata)}: inference.yaml defines no {sorted(networks - defined)}"
