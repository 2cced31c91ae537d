"""Profiles: the settings of all stages, in one YAML file with a section for each."""

from pathlib import Path

import yaml
from jsonschema import Draft202012Validator

from lldm3d.data.regimes import parse_regime
from lldm3d.errors import UserError, did_you_mean
from lldm3d.methods.registry import load_method
from lldm3d.pipeline.configs import INFERENCE, undefined, unknown_overrides

HERE = Path(__file__).parent
BUILT_IN = ("demo", "small", "full")


def load_profile(profile: str, grid: dict | None = None) -> dict:
    """Read a built-in profile, or a YAML file that may say `base: small` and then only what differs.

    `grid` replaces entries of its section `segment`.
    Raises UserError that lists every fault of the file at once.
    """
    settings = merged(profile)
    settings = lay_over(settings, {"segment": grid}) if grid else settings
    faults = schema_faults(settings)
    faults = faults or unknown_overrides(settings) or method_faults(settings["methods"])
    faults = faults or embedding_faults(settings) or regime_faults(settings)
    if faults:
        raise UserError(f"profile {profile}: " + "; ".join(faults) + ". Mend these in the file and run again")
    return settings


def regime_faults(settings: dict) -> list[str]:
    """A message for each name that is no regime."""
    faults = []
    for name in settings["segment"]["regimes"]:
        try:
            parse_regime(name)
        except UserError as error:
            faults.append(f"segment#regimes: {error}")
    return faults


def method_faults(section: dict) -> list[str]:
    """A message for each entry of a profile's section `methods` that no method or config has."""
    faults = []
    for name, content in section.items():
        if name in ("minutes", "seeds", "n"):
            continue
        try:
            found = load_method(name)
        except UserError as error:
            faults.append(f"methods#{name}: {error}")
            continue
        allowed = {**found.configs, "inference": INFERENCE} if not found.is_chain else {}
        for part, overrides in content.items():
            if part not in allowed:
                wanted = f"allowed are {', '.join(allowed)}" if allowed else "its settings are those of the stages"
                faults.append(f"methods#{name}#{part} is unknown, {wanted}")
            else:
                faults += undefined(f"methods#{name}#{part}", overrides, found.bundle, [allowed[part]])
    return faults


def embedding_faults(settings: dict) -> list[str]:
    """A label embedding that halves more or less often than the autoencoder, which would show only hours later."""
    section = settings["controlnet"]
    embedding, autoencoder = section.get("conditioning_channels"), settings["autoencoder_image"].get("channels")
    if "overlays" in section or not embedding or not autoencoder or len(embedding) == len(autoencoder):
        return []
    wanted = f"the {len(autoencoder)} that autoencoder_image#channels has"
    return [f"controlnet#conditioning_channels has {len(embedding)} entries, but needs {wanted}"]


def merged(profile: str, folder: Path = Path()) -> dict:
    """The profile laid over its base; a relative base path is relative to the file that names it."""
    path = HERE / "profiles" / f"{profile}.yaml" if profile in BUILT_IN else folder / profile
    settings = read_yaml(path, f"a profile is one of {', '.join(BUILT_IN)} or the path of a YAML file")
    base = settings.pop("base", None)
    return lay_over(merged(str(base), path.parent), settings) if base else settings


def lay_over(below: dict, above: dict) -> dict:
    """Merge two nested dicts; where both have a value that is not a dict, `above` wins."""
    both = {key: lay_over(below[key], above[key]) for key in below.keys() & above.keys() if is_dict(below, above, key)}
    return {**below, **above, **both}


def is_dict(below: dict, above: dict, key: str) -> bool:
    return isinstance(below[key], dict) and isinstance(above[key], dict)


def read_yaml(path: Path, mend: str) -> dict:
    """Read a YAML file that holds a mapping. Raises UserError ending in `mend`."""
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {mend}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: is not valid YAML ({error}); mend the file") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold sections `name: ...`, holds {type(content).__name__}; {mend}")
    return content


def schema_faults(settings: dict) -> list[str]:
    """All departures from `profile.schema.yaml`, an unknown key with the nearest name that is allowed."""
    schema = read_yaml(HERE / "profile.schema.yaml", "install lldm3d again")
    errors = Draft202012Validator(schema).iter_errors(settings)
    return [fault for error in sorted(errors, key=lambda error: list(map(str, error.path))) for fault in told(error)]


def told(error) -> list[str]:
    """One message for each fault of a schema error."""
    place = "#".join(map(str, error.path))
    if error.validator != "additionalProperties":
        return [f"{place}: {error.message}" if place else error.message]
    allowed = list(error.schema["properties"])
    unknown = [key for key in error.instance if key not in allowed]
    return [f"{'#'.join(filter(None, [place, str(key)]))} is unknown, {nearest(str(key), allowed)}" for key in unknown]


def nearest(name: str, allowed: list[str]) -> str:
    """A hint: the nearest allowed name, or all of them when none is near."""
    return did_you_mean(name, allowed).strip() or f"allowed are {', '.join(allowed)}"
