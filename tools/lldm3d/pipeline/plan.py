"""Which stages a run has, and the digest of the settings that each depends on."""

import hashlib
import json

from lldm3d.data.dataset import ALL
from lldm3d.errors import UserError, did_you_mean
from lldm3d.methods.registry import OURS, load_method, seed_stage
from lldm3d.study.stages import REAL, SegmentStage, segment_grid

# the rules of the Snakefile, in order; `segment` stands for one stage for each network, task, regime and seed, `method`
# and `judge` for one for each method and seed
RULES = (
    "phantom",
    "prepare",
    "autoencoder_image",
    "autoencoder_label",
    "latents",
    "label_ldm",
    "image_ldm",
    "controlnet",
    "generate",
    "segment",
    "evaluate",
    "study",
    "method",
    "judge",
    "comparison",
    "report",
)
COMPARISON = ("method", "judge", "comparison")  # rules of runs that name methods

OF_METHODS = {"given": "methods"}  # as `data` in run.yaml: a training of the chain among others, of their data set
GIVEN = {"given": "dataset"}  # as `data` in run.yaml: data set and synthetic pairs were not made by the chain


def segment_stages(settings: dict) -> list[str]:
    """`segment/<until>/<network>/<task>/<regime>/<pairs>/seed_<k>` for all of the grid."""
    section = settings["segment"]
    networks, tasks, regimes, seeds = (section[key] for key in ("networks", "tasks", "regimes", "seeds"))
    return [stage.path for stage in segment_grid(["steps"], networks, tasks, regimes, [OURS], seeds)]


def segmenter_stage(settings: dict) -> str:
    """The segmentation that the evaluation reads: of all classes and real data, by the first network and seed."""
    section = settings["segment"]
    return SegmentStage("steps", section["networks"][0], ALL, "R", REAL, section["seeds"][0]).path


def rules(run: dict) -> list[str]:
    """The rules of a run; the phantom is made only without the user's data, and of a given data set only the study."""
    if run["data"] == GIVEN:
        return ["segment", "study"]
    left_out = [*(["phantom"] if run["data"] else []), *([] if run.get("methods") else COMPARISON)]
    return [rule for rule in RULES if rule not in left_out]


def method_stages(run: dict) -> list[str]:
    """`methods/<method>/seed_<k>` for all that the run compares."""
    seeds = run["settings"]["methods"]["seeds"]
    return [seed_stage(name, seed) for name in run.get("methods", []) for seed in seeds]


def all_stages(run: dict) -> list[str]:
    """The names of all stages of a run, in an order in which they can be run."""
    settings = run["settings"]
    several = {
        "segment": list(dict.fromkeys([*segment_stages(settings), segmenter_stage(settings)])),
        "method": method_stages(run),
        "judge": [f"{stage}/evaluation" for stage in method_stages(run)],
    }
    return [stage for rule in rules(run) for stage in several.get(rule, [rule])]


def check_stage(name: str, allowed: list[str]) -> None:
    """Raises UserError with the allowed stages when `name` is none of them."""
    if name not in allowed:
        hint = did_you_mean(name, allowed)
        raise UserError(f"there is no stage {name!r} here: {hint}The stages are {', '.join(allowed)}")


def check_methods(names: list[str]) -> None:
    """Raises UserError for a name that is no method, or methods that need another one."""
    found = [load_method(name) for name in names]
    if wanting := [item.name for item in found if item.on_labels and OURS not in names]:
        raise UserError(f"--methods: {', '.join(wanting)} draws images on labels that {OURS} draws; add {OURS}")


def digest(*sections: object) -> str:
    """Changes exactly when the settings in `sections` do; Snakemake then runs the stage again."""
    return hashlib.sha256(json.dumps(sections, sort_keys=True).encode()).hexdigest()[:16]
