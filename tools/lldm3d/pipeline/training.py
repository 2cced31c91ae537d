"""A training stage: a bundle run in a process of its own, with its overrides laid last."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from lldm3d.bundle import bundle_command, bundle_path
from lldm3d.children import run_logged
from lldm3d.data.dataset import Schema, load_schema
from lldm3d.errors import UserError
from lldm3d.files import whole
from lldm3d.locks import at_work
from lldm3d.pipeline import checks
from lldm3d.pipeline.configs import MULTI_GPU, bundle_and_configs, load_configs, overrides_of, processes_of, undefined
from lldm3d.pipeline.origin import relative, same_origin
from lldm3d.pipeline.pace import steps_in

TRUSTED = "ignore:parsing config_file"  # MONAI warns of configs from strangers; these are the user's own


@dataclass(frozen=True)
class Training:
    """What is trained: a bundle by some of its config files."""

    bundle: str
    configs: list[str]
    overrides: dict
    inputs: list[str]  # files, relative to the work directory, whose change makes it start anew
    processes: int = 1
    minutes: float | None = None  # instead of the steps that the config says


def train(work: Path, stage: str, settings: dict) -> None:
    """Train the bundle of `stage` of the chain."""
    section = settings[stage]
    bundle, configs = bundle_and_configs(stage, section)
    inject, inputs = STAGES[stage]
    own = overrides_of(section)
    overrides = {**own, **inject(work, stage, own)}
    train_bundle(
        work, stage, Training(bundle, configs, overrides, inputs, processes_of(section), section.get("minutes"))
    )


def train_bundle(work: Path, stage: str, training: Training) -> None:
    """Train into the folder W/<stage>; a training that was killed goes on from its last full state."""
    with at_work(work, stage, training.processes) as environment:

        def run(overrides: dict) -> None:
            run_bundle(
                Path(overrides["output_dir"]),
                training.bundle,
                "training",
                training.configs,
                overrides,
                environment,
                processes=training.processes,
            )

        overrides = {**training.overrides, "output_dir": str(work / stage)}
        if training.minutes is not None:
            overrides |= paced(work, stage, replace(training, overrides=overrides), run)
        several = {"processes": training.processes} if training.processes > 1 else {}
        go_on_or_start(work, stage, {**overrides, **several}, training.inputs)
        run(overrides)


def paced(work: Path, stage: str, training: Training, run: Callable[[dict], None]) -> dict:
    """The number of steps of a training that is given minutes."""
    content = {**load_configs(bundle_path(training.bundle), training.configs), **training.overrides}
    settings = {**relative(training.overrides, work), "processes": training.processes}

    def pilot(overrides: dict) -> None:
        run({**training.overrides, **overrides})

    return steps_in(work / stage, training.minutes, content["epochs"], pilot, settings)


def run_bundle(
    folder: Path,
    bundle: str,
    run_id: str,
    configs: list[str],
    overrides: dict,
    environment: dict[str, str],
    name: str = "overrides.yaml",
    processes: int = 1,
) -> None:
    """Write the overrides as `name` into the stage's folder and run `run_id` of the bundle with them laid last.

    Several processes train on as many GPUs, or on CPUs; each draws its own batches.
    """
    if faults := undefined(bundle, overrides, bundle, configs):
        raise UserError("; ".join(faults))
    with whole(folder / name) as path:
        path.write_text(yaml.safe_dump(overrides, sort_keys=False))
    files = [*configs, *([MULTI_GPU] if processes > 1 else []), str(folder / name)]
    command = bundle_command(run_id, files, processes)
    run_logged(command, bundle_path(bundle), folder / "log.txt", {**environment, "PYTHONWARNINGS": TRUSTED})


def go_on_or_start(work: Path, stage: str, overrides: dict, inputs: list[str]) -> None:
    """Keep the state of an earlier training only if it began the same: otherwise it would end as neither.

    Args:
        inputs: the files, relative to `work`, whose change makes the training start anew.
    """
    state, same = work / stage / "state.pt", same_origin(work, stage, overrides, inputs)
    if state.is_file() and same:
        print(f"{state}: the training goes on from here", flush=True)
    elif state.is_file():
        state.replace(state.with_name("state.old.pt"))
        print(f"{state}: began from other settings or inputs, kept as state.old.pt; training starts anew", flush=True)


def autoencoder(work: Path, stage: str, section: dict) -> dict:
    """What the data set says of classes and sizes."""
    schema = load_schema(work / "dataset")
    return {
        "dataset_dir": str(work / "dataset"),
        "class_names": list(schema.class_names),
        "tubular": list(schema.tubular),
        "roi_size": crop(section, schema),
        **{f"{split}#dataset#cache_dir": cache(work) for split in ("train", "validate")},
    }


def cache(work: Path) -> str:
    """The folder of the volumes that all trainings of the work directory share."""
    return str(work / "cache")


def crop(section: dict, schema: Schema) -> list[int]:
    """The training crop in voxels: that of the profile, but no larger than the cases; without one, whole cases."""
    return [min(pair) for pair in zip(section.get("roi_size", schema.roi_size), schema.roi_size, strict=True)]


def diffusion(work: Path, stage: str, section: dict) -> dict:
    """What the latents say, after checking that they and the codecs fit."""
    schema = load_schema(work / "dataset")
    codecs = {kind: checks.codec(work, kind, schema) for kind in checks.KINDS}
    checks.latents(work)
    kind = "label" if stage == "label_ldm" else "image"
    return {
        "dataset_dir": str(work / "latents"),
        "class_names": list(schema.class_names),
        "latent_channels": codecs[kind]["network"]["latent_channels"],
    }


def controlnet(work: Path, stage: str, section: dict) -> dict:
    """As for the image LDM that it guides, whose layers it repeats."""
    injected = diffusion(work, stage, section)
    network = checks.diffusion(work, "image_ldm", load_schema(work / "dataset"))["network"]
    repeated = {key: network[key] for key in ("channels", "attention_levels", "num_res_blocks")}
    return {**injected, **repeated, "image_ldm_path": str(work / "image_ldm" / "model.pt")}


# stage: (what its overrides take from earlier stages, the files whose change makes it start anew)
STAGES = {
    "autoencoder_image": (autoencoder, ["dataset/dataset.json"]),
    "autoencoder_label": (autoencoder, ["dataset/dataset.json"]),
    "label_ldm": (diffusion, ["latents/latents.json"]),
    "image_ldm": (diffusion, ["latents/latents.json"]),
    "controlnet": (controlnet, ["latents/latents.json", "image_ldm/model.pt"]),
}
