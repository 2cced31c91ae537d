"""The MONAI bundles, found, merged, checked and run: beside `tools` in a checkout, inside an installed package."""

import ast
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from lldm3d.children import run_logged
from lldm3d.errors import UserError, did_you_mean
from lldm3d.files import write_yaml

INSTALLED = Path(__file__).parent / "bundles"
CHECKOUT = Path(__file__).resolve().parents[2] / "bundles"
TRAIN, INFERENCE = "configs/train.yaml", "configs/inference.yaml"
MULTI_GPU, MULTI_GPU_INFERENCE = "configs/multi_gpu.yaml", "configs/multi_gpu_inference.yaml"
TRUSTED = "ignore:parsing config_file"  # MONAI warns of configs from strangers; these are the user's own
EXPONENT = re.compile(r"[0-9]+[eE][+-]?[0-9]+")
SIGNS = re.compile(r"[$@%#]")  # that MONAI's ConfigParser gives a meaning, anywhere in a string


def bundles_dir() -> Path:
    """The folder that holds the bundles."""
    return INSTALLED if INSTALLED.is_dir() else CHECKOUT


def bundle_names() -> list[str]:
    """All bundles, `baselines/<name>` included."""
    root = bundles_dir()
    found = [*root.glob(f"*/{TRAIN}"), *root.glob(f"*/*/{TRAIN}")]  # not in folders of models: there are many
    return sorted(file.parents[1].relative_to(root).as_posix() for file in found)


def segmentation_names() -> list[str]:
    """The bundles that are segmentations."""
    return [name for name in bundle_names() if name.startswith("seg_")]


def bundle_path(name: str) -> Path:
    """The folder of the bundle `name`.

    Raises:
        UserError: where there is no such bundle; the message names those that exist.
    """
    if name not in bundle_names():
        raise UserError(f"there is no bundle {name!r} in {bundles_dir()}; the bundles are {', '.join(bundle_names())}")
    return bundles_dir() / name


def load_configs(bundle: Path, configs: Iterable[str]) -> dict:
    """The config files of a bundle laid over each other, unresolved; `a#b` keys of overlays stay as they are.

    Raises UserError for an overlay that does not exist.
    """
    content: dict = {}
    for config in configs:
        path = bundle / config
        if not path.is_file():
            allowed = ", ".join(sorted(file.name for file in (bundle / "configs").glob("*.yaml")))
            raise UserError(f"{path}: no such config; the bundle has {allowed}")
        # ten times as fast as `safe_load`; not for files of others, whose deepest nesting it would not survive
        content.update(yaml.load(path.read_text(), yaml.CSafeLoader))
    return content


ABSENT = object()
KINDS = {bool: "true or false", (int, float): "a number", list: "a list"}  # of the values of a config, in this order


def value_at(content: dict, key: str) -> object:
    """The value of the id `a#b#c` (MONAI also writes `a::b::c`) in a config, ABSENT where it is not defined."""
    node: object = content
    for part in key.replace("::", "#").split("#"):
        if isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        elif isinstance(node, dict) and part in node:
            node = node[part]
        else:
            return ABSENT
    return node


def defines(content: dict, key: str) -> bool:
    """Whether the config holds the id `a#b#c`."""
    return value_at(content, key) is not ABSENT


def defined(bundle: str, configs: Iterable[str], ids: dict) -> dict:
    """Those of the ids that the configs of the bundle define: what they want to be given."""
    content = load_configs(bundle_path(bundle), configs)
    return {key: value for key, value in ids.items() if defines(content, key)}


def undefined(where: str, ids: Iterable[str], bundle: str, configs: Sequence[str]) -> list[str]:
    """Messages for the ids that the configs of `bundle` do not define, each with the nearest one.

    Args:
        where: what the messages begin with, such as the section of a profile.
    """
    try:
        content = load_configs(bundle_path(bundle), configs)
    except UserError as error:
        return [f"{where}: {error}"]
    known = [*content, *(f"{name}#{part}" for name, node in content.items() if isinstance(node, dict) for part in node)]
    return [
        f"{where}#{key} is defined by no config of the bundle {bundle} ({', '.join(configs)}), "
        + (did_you_mean(key, known).strip() or f"see the ids at the head of its {Path(configs[0]).name}")
        for key in ids
        if not defines(content, key)
    ]


def misfits(where: str, overrides: dict, bundle: str, configs: Sequence[str]) -> list[str]:
    """Messages for the ids that the configs of `bundle` define and values of another kind than theirs.

    Expressions of MONAI, and what is null on one side, are taken as they are.
    """
    content, faults = load_configs(bundle_path(bundle), configs), []
    for key, value in overrides.items():
        there = value_at(content, key)
        wanted = next((kind for kind in KINDS if isinstance(there, kind)), None)
        expression = isinstance(value, str) and value.startswith(("$", "@"))
        if wanted is None or value is None or expression:
            continue
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
            hint = "; YAML reads 1e-4 as text, write 1.0e-4" if EXPONENT.fullmatch(str(value)) else ""
            faults.append(f"{where}#{key} must be {KINDS[wanted]}, as {there!r} in the config, got {value!r}{hint}")
    return faults


def literal(value: object) -> object:
    """A value from data or a path, such as a class name or a folder, so that MONAI's parser leaves it as it is.

    The parser runs strings that begin with `$`, resolves `@` and `%`, and rewrites each `#`. A value with one of these
    signs becomes an expression: a Python literal in which they are escaped.
    """
    text = repr(value)
    if not SIGNS.search(text):
        return value
    return "$" + SIGNS.sub(lambda sign: f"\\x{ord(sign[0]):02x}", text)


def read_literal(value: object) -> object:
    """The value that `literal` was given."""
    return ast.literal_eval(value[1:]) if isinstance(value, str) and value.startswith("$") else value


def bundle_command(run_id: str, configs: Sequence[str], processes: int = 1) -> list[str]:
    """`monai.bundle run` of the config files, for the bundle's folder; several processes are started by torchrun."""
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m"]
    launch = [sys.executable, "-m", *(torchrun if processes > 1 else [])]
    return [*launch, "monai.bundle", "run", run_id, "--config_file", str(list(configs))]


def run_bundle(
    folder: Path,
    bundle: str,
    run_id: str,
    configs: Sequence[str],
    settings: dict,
    data: dict,
    environment: dict[str, str] | None = None,
    name: str = "overrides.yaml",
    processes: int = 1,
) -> None:
    """Run `run_id` of a bundle in a process of its own, with overrides laid last that are written to `folder`.

    Its output goes to the terminal and to `log.txt` in the folder, where the command stands that runs it again by hand.

    Args:
        settings: ids and values of the user's profile, which may be expressions of MONAI.
        data: ids and values that come from data and paths, and are taken literally.
        environment: further variables, such as those that choose a GPU.
        name: of the file of overrides.
        processes: each with a GPU of its own, or on CPUs.

    Raises:
        UserError: where the configs do not define an id.
        ChildError: when the run fails.
    """
    if faults := undefined(bundle, [*settings, *data], bundle, list(configs)):
        raise UserError("; ".join(faults))
    folder.mkdir(parents=True, exist_ok=True)
    write_yaml(folder / name, {**settings, **{key: literal(value) for key, value in data.items()}})
    several = []
    if processes > 1:  # one overlay for the drawing of all methods, which has the same ids
        several = [MULTI_GPU if run_id == "training" else str(bundle_path("controlnet") / MULTI_GPU_INFERENCE)]
    command = bundle_command(run_id, [*configs, *several, str(folder / name)], processes)
    run_logged(command, bundle_path(bundle), folder / "log.txt", {**(environment or {}), "PYTHONWARNINGS": TRUSTED})
