"""The configs of a packed bundle: what it was trained with has become their defaults, and each has a JSON twin."""

import re
from pathlib import Path

import yaml
from monai.bundle import ConfigParser

from lldm3d.chain.configs import defines

DEMO = re.compile(r"\.\./\.\./work/demo(\S*)( #.*)?")  # where a checkout finds its data; a zip has them beside it
TWINS = ("train", "inference")  # `monai.bundle.load` reads these two, as JSON alone


def write_configs(folder: Path, settings: dict, checkpoints: dict[str, str], network: dict) -> None:
    """Change the configs of the bundle copied to `folder`.

    Args:
        settings: id (`a#b` for nested ones): value. Each config takes those that it defines.
        checkpoints: id of a path in inference.yaml: the file's name in `models/`.
        network: the arguments of `network_def` that the checkpoint carries, if it does.
    """
    paths = {key: f"$@bundle_root + '/models/{name}'" for key, name in checkpoints.items()}
    for path in sorted((folder / "configs").glob("*.yaml")):
        text = DEMO.sub(r".\1 # your data, see docs/README.md", path.read_text())
        if path.stem in TWINS:
            content = yaml.safe_load(text)
            wanted = {**settings, **paths} if path.stem == "inference" else settings
            text = with_defaults(text, {key: value for key, value in wanted.items() if defines(content, key)})
        path.write_text(text)
    inference = folder / "configs/inference.yaml"
    inference.write_text(with_defaults(inference.read_text(), other_arguments(inference, network)))
    for name in TWINS:
        parser = ConfigParser()
        parser.read_config(folder / f"configs/{name}.yaml")
        content = {key: value for key, value in parser.get().items() if key != "_meta_"}
        ConfigParser.export_config_file(content, str(folder / f"configs/{name}.json"), fmt="json", indent=4)


def other_arguments(config: Path, network: dict) -> dict:
    """The arguments that `network_def` of the config does not have so, as settings."""
    parser = ConfigParser()
    parser.read_config(config)
    ids = {f"network_def#{name}": value for name, value in network.items()}
    return {key: value for key, value in ids.items() if key not in parser or parser.get_parsed_content(key) != value}


def with_defaults(text: str, settings: dict) -> str:
    """The YAML text with other values; comments stay. Nested ids come last, as MONAI lays them over what is above."""
    for key, value in settings.items():
        value = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False)
        line = f"{key}: {value.strip().removesuffix('...').strip()}"  # dots end a scalar
        if "#" in key or "::" in key:
            text = f"{text.rstrip()}\n{line}\n"
        else:
            old = re.compile(rf"^{re.escape(key)}:.*?(?P<comment> +#.*)?$(?:\n[ -].*)*", re.MULTILINE)
            text = old.sub(lambda match, line=line: line + (match["comment"] or ""), text)
    return text
