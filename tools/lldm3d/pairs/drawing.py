"""Drawing pairs by the inference of a method's bundle, after checking its settings."""

import math
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from monai.bundle import ConfigParser

from lldm3d.bundle import bundle_path, defined, literal, load_configs, run_bundle, undefined
from lldm3d.data.dataset import load_schema
from lldm3d.errors import UserError
from lldm3d.methods.registry import Method
from lldm3d.pairs.cases import drawn_name
from lldm3d.pairs.folder import claim, data_of_models, pair_manifest, write_dataset_json
from lldm3d.pairs.own_labels import in_classes
from lldm3d.pairs.sources import LabelFile

# ids of the inference that follow from the options and the data
GIVEN = ("output_dir", "method_dir", "dataset_dir", "class_names", "label_paths", "edits", "orientation", "num_cases")
# by the type of an id's value in the config: what may replace it
NUMBERS = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
}


def draw_pairs(
    method: Method,
    models: Path,
    dataset_dir: Path,
    target: Path,
    labels: list[LabelFile] | None,
    n: int,
    first: int,
    seed: int,
    settings: dict,
    overlays: Sequence[str] = (),
    processes: int = 1,
    environment: dict[str, str] | None = None,
    overwrite: bool = False,
) -> None:
    """Run the method's inference and describe what it drew as a data set.

    Args:
        models: folder of the method's trainings.
        labels: to draw images for; None: labels of the method's own, or images without any.
        n: number of cases where no labels are given, from number `first` on.
        settings: ids of the inference config.
    """
    configs = [*method.configs(given=labels is not None), *(f"configs/{name}" for name in overlays)]
    named = settings
    if (reference := named.get("reference")) is not None:  # a file or the name of a case, and no expression
        settings = named | {"reference": literal(located(str(reference)))}
    process = process_of(method, configs, settings)
    check_settings(method, configs, {**process, **settings})
    names = [label.name for label in labels] if labels else [drawn_name(index) for index in range(first, first + n)]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"several labels are named {twice[0]!r}; a pair bears its label's name, so give each its own")
    new = not target.exists()
    claim(target, pair_manifest(method, models, labels, names, seed, named, overlays), overwrite)
    schema = load_schema(dataset_dir)
    seen = data_of_models(models) or dataset_dir  # no other patients' scans begin volumes
    data = {"output_dir": str(target), "method_dir": str(models), "dataset_dir": str(seen)}
    data |= {"class_names": list(schema.class_names), "roi_size": list(schema.roi_size)}
    data |= {"label_paths": [in_classes(label, schema, target / "labels") for label in labels or ()]}
    data |= {"orientation": schema.orientation, "edits": [list(label.edits) for label in labels or ()]}
    given = {"seed": seed, "num_cases": len(names), "first": first}
    if labels:
        given["batch_size"] = settings.get("batch_size", 1)
    try:
        run_bundle(
            target,
            method.bundle,
            "inferring",
            configs,
            {**process, **defined(method.bundle, configs, given), **settings},
            defined(method.bundle, configs, data),
            environment,
            processes=processes,
        )
    except UserError as error:
        if new and not any(target.glob("*Tr/*")) and str(target / "log.txt") not in str(error):
            shutil.rmtree(target)  # refused before anything was drawn
        raise
    patients = [label.patient for label in labels] if labels else names
    about = f"Synthetic scans, drawn by {method.title} from what it learnt of real ones."
    if method.edits:
        about = f"Real training scans, edited by {method.title}: patients, with lesions that they do not have."
    write_dataset_json(target, dataset_dir, about, names, patients, "edited" if method.edits else "synthetic")


def located(reference: str) -> str:
    """A file by its whole path; what is none, the name of a case, as it is."""
    return str(Path(reference).resolve()) if Path(reference).is_file() else reference


def process_of(method: Method, configs: list[str], settings: dict) -> dict:
    """The id `noise_scheduler` with the steps that are wanted, which an overlay's process does not refer to itself.

    Raises UserError for a setting of rectified flow that another process does not have.
    """
    process = load_configs(bundle_path(method.bundle), configs).get("noise_scheduler")
    if not isinstance(process, dict):
        return {}
    if wrong := [name for name in ("solver", "time_shift", "time_grid") if name in settings and name not in process]:
        raise UserError(f"--{wrong[0]} is of rectified flow; {process.get('_target_')} has no such setting")
    return {"noise_scheduler": process | {key: settings[key] for key in ("num_inference_steps",) if key in settings}}


def check_settings(method: Method, configs: list[str], settings: dict) -> None:
    """Raises UserError for a setting that the inference does not have, or a noise process refuses."""
    if faults := undefined("--", settings, method.bundle, configs):
        raise UserError("; ".join(fault.replace("--#", "--") for fault in faults))
    content = load_configs(bundle_path(method.bundle), configs)
    for name, value in settings.items():
        if name in GIVEN:
            raise UserError(f"--{name} is what this command itself gives; `lldm3d generate --help` shows its options")
        if type(content.get(name)) in NUMBERS and not str(value).startswith("$"):
            kinds, words = NUMBERS[type(content[name])]
            if type(value) not in kinds or not math.isfinite(value):
                raise UserError(f"--{name} must be {words}, got {value!r}")
    if type(number := settings.get("batch_size")) is int and number < 1:
        raise UserError(f"--batch_size must be at least 1, got {number}")
    if type(scale := settings.get("guidance_scale")) in (int, float) and scale < 1:
        raise UserError(f"--guidance_scale must be at least 1, which is none, got {scale}: less forgets the label")
    budget = settings.get("memory_gb")
    if budget is not None and not (type(budget) in (int, float) and budget > 0):
        raise UserError(f"--memory_gb must be a number of GB above 0, got {budget!r}")
    parser = ConfigParser()
    parser.read_config([str(bundle_path(method.bundle) / config) for config in configs])
    parser.update(settings)
    if "checkpoint" in parser:
        parser["checkpoint"] = {}  # what it says of its process needs no check, and is not loaded for one
    try:
        if "noise_scheduler" in parser:
            parser.get_parsed_content("noise_scheduler")
    except Exception as error:  # an expression of the user's may raise anything
        cause = error.__cause__ or error
        given = [name for name in settings if name != "noise_scheduler"] or ["overlays"]
        named = [name for name in given if name in str(cause)] or given
        raise UserError(f"--{', --'.join(named)}: {cause}") from None
