"""Which bundle and config files each training stage uses, and which keys they define."""

from pathlib import Path

import yaml

from lldm3d.bundle import bundle_path
from lldm3d.errors import UserError, did_you_mean

TRAIN, INFERENCE, MULTI_GPU = "configs/train.yaml", "configs/inference.yaml", "configs/multi_gpu.yaml"
HERE = Path(__file__).parent
# stage: (bundle, config files in the order in which they are laid over each other)
BUNDLES = {
    "autoencoder_image": ("autoencoder", [TRAIN]),
    "autoencoder_label": ("autoencoder", [TRAIN, "configs/label.yaml"]),
    "label_ldm": ("label_ldm", [TRAIN]),
    "image_ldm": ("image_ldm", [TRAIN]),
    "controlnet": ("controlnet", [TRAIN]),
}
SEGMENT_OVERLAY = str(HERE / "segment.yaml")  # what the chain adds to a stock segmentation bundle


def bundle_and_configs(stage: str, section: dict) -> tuple[str, list[str]]:
    """The bundle of a training stage and its config files, with the `overlays` that the profile's section names."""
    bundle, configs = BUNDLES[stage]
    return bundle, [*configs, *(f"configs/{name}" for name in section.get("overlays", []))]


def overrides_of(section: dict) -> dict:
    """The part of a training stage's section that overrides ids of the configs."""
    return {key: value for key, value in section.items() if key not in ("overlays", "processes", "minutes")}


def processes_of(section: dict) -> int:
    """How many processes, each with a GPU of its own, work on the stage of this section."""
    return section.get("processes", 1)


def load_configs(bundle: Path, configs: list[str]) -> dict:
    """The config files of a bundle laid over each other, unresolved; `a#b` keys of overlays stay as they are.

    Raises UserError for an overlay that does not exist.
    """
    content: dict = {}
    for config in configs:
        path = bundle / config
        if not path.is_file():
            allowed = ", ".join(sorted(file.name for file in (bundle / "configs").glob("*.yaml")))
            raise UserError(f"{path}: no such config; the bundle has {allowed}")
        content.update(yaml.safe_load(path.read_text()))
    return content


def unknown_overrides(settings: dict) -> list[str]:
    """A message for each override key of a training section that no config of its bundle defines."""
    uses = [(stage, overrides_of(settings[stage]), *bundle_and_configs(stage, settings[stage])) for stage in BUNDLES]
    section = settings["segment"]
    uses += [
        ("segment#overrides", section["overrides"], name, [TRAIN, SEGMENT_OVERLAY]) for name in section["networks"]
    ]
    return [fault for stage, overrides, name, configs in uses for fault in undefined(stage, overrides, name, configs)]


def undefined(stage: str, overrides: dict, bundle: str, configs: list[str]) -> list[str]:
    """Messages for the keys of `overrides` that the configs of `bundle` do not define, each with the nearest name."""
    try:
        content = load_configs(bundle_path(bundle), configs)
    except UserError as error:
        return [f"{stage}: {error}"]
    return [
        f"{stage}#{key} is defined by no config of the bundle {bundle} ({', '.join(configs)}), {hint(key, content)}"
        for key in overrides
        if not defines(content, key)
    ]


def defines(content: dict, key: str) -> bool:
    """Whether the config holds the id `a#b#c` (MONAI also writes `a::b::c`)."""
    node = content
    for part in key.replace("::", "#").split("#"):
        if isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        elif isinstance(node, dict) and part in node:
            node = node[part]
        else:
            return False
    return True


def hint(key: str, content: dict) -> str:
    """The nearest id among the top-level ones and those one level below."""
    ids = [*content, *(f"{name}#{part}" for name, node in content.items() if isinstance(node, dict) for part in node)]
    return did_you_mean(key, ids).strip() or "see the ids at the head of its train.yaml"
