"""The pipeline in this process: what a process of its own adds is tested once, by a real workflow.

Networks are the smallest, so that a training takes a second, of which most is MONAI's reading of configs.
"""

import ast
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path

import pytest
import yaml
from monai.bundle import run as run_config

from lldm3d.bundle import defined
from lldm3d.errors import ChildError
from lldm3d.methods.registry import load_method
from lldm3d.pipeline.run import planned
from lldm3d.pipeline.stage import stage

from .bundles.small import AUTOENCODER, BASELINES, CONTROLNET, DIFFUSION, LABEL_TO_IMAGE, LESIONS, SLICE_VOLUMES, U_NET
from .conftest import restored

STEPS = {"epochs": 1, "epoch_length": 2, "val_interval": 1, "batch_size": 1}
# by method and training; one that is not here is trained in its own size
SIZES = {
    "lldm": {
        "autoencoder_image": AUTOENCODER,
        "autoencoder_label": AUTOENCODER,
        "label_ldm": DIFFUSION,
        "image_ldm": DIFFUSION,
        "controlnet": {"conditioning_channels": CONTROLNET["conditioning_channels"]},
    },
    "cond_ldm": {"autoencoder_image": AUTOENCODER, "diffusion": DIFFUSION},
    "haar_ldm": dict.fromkeys(("label_ldm", "diffusion"), {"channels": [32], "attention_levels": [False]}),
    **{Path(bundle).name: trainings for bundle, trainings in BASELINES.items()},
    **LABEL_TO_IMAGE,
    **LESIONS,
    **SLICE_VOLUMES,
}
SEGMENT = {
    "networks": ["seg_resunet"],
    "regimes": ["R", "R+0.5S"],
    "seeds": [0],
    "overrides": {**STEPS, "roi_size": [16, 16, 16], **U_NET},
}


def run_here(command: Sequence[str], cwd: Path, log: Path, environment: dict[str, str]) -> None:
    """In place of `lldm3d.children.run_logged`: MONAI's `run` of a bundle in this process."""
    words = list(command)
    run_id, configs = words[words.index("run") + 1], ast.literal_eval(words[words.index("--config_file") + 1])
    with open(log, "a") as file:
        file.write(f"$ cd {cwd} && {' '.join(words)}\n")
    with restored(), chdir(cwd):
        try:
            run_config(run_id, config_file=configs)
        except Exception as error:
            raise ChildError(f"{log}: {causes(error)}") from error


def causes(error: BaseException | None) -> str:
    """The messages of an error and of what it was raised from."""
    return "" if error is None else f"{causes(error.__cause__)}\n{type(error).__name__}: {error}"


@contextmanager
def bundles_run_here() -> Iterator[None]:
    """Bundles run in this process, and what they take is not measured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lldm3d.pipeline.cost.print_cost", lambda *_: None)
        patch.setattr("lldm3d.bundle.run_logged", run_here)
        yield


def method_section(name: str) -> dict:
    """The profile's section of a method, so that each of its trainings takes two steps."""
    method, found = load_method(name), {}
    for training, entry in method.trainings.items():
        steps = defined(method.bundle_of(training), entry.configs, STEPS)
        found[training] = {**steps, **SIZES.get(name, {}).get(training, {})}
    if not method.inference:
        return found
    return {**found, "inference": defined(method.bundle, method.inference, {"num_inference_steps": 2})}


def write_profile(path: Path, **sections: dict) -> Path:
    """A profile that says `base: demo` and the given sections."""
    path.write_text(yaml.safe_dump({"base": "demo", **sections}))
    return path


def write_run(work: Path, names: Sequence[str], sources: Sequence[str] = ("drawn",), **sections: dict) -> None:
    """Write `run.yaml` as `lldm3d run` does, for the smallest networks and the data set that lies in `work`."""
    given = {name: method_section(name) for name in names} | {"minutes": None, "seeds": [0]}
    given |= sections.pop("methods", {})
    sections = {"segment": SEGMENT, "cluster": {"retries": 0}, **sections}
    profile = write_profile(work / "profile.yaml", methods=given, **sections)
    content = planned(work, str(profile), {"data": str(work)}, methods=list(names), sources=list(sources))
    for gated in content["settings"]["methods"].get("lldm", {}).values():
        gated.pop("gate", None)  # networks of two steps are poor
    (work / "run.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def do_stages(work: Path, *names: str) -> None:
    """Run stages of a work directory in this process."""
    with bundles_run_here():
        for name in names:
            stage(str(work), name)
