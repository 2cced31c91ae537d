"""What a run is asked for: the content of `run.yaml`, and where its methods, pairs and segmentations lie.

Read without torch.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

from lldm3d.data.regimes import parse_regime
from lldm3d.errors import UserError
from lldm3d.methods.registry import OURS, PSEUDO_LABELLED, Method, load_method, method_names
from lldm3d.pairs.sources import (
    BOTH,
    DRAWN,
    JOINED,
    KINDS,
    RECONSTRUCTED,
    SHAPES,
    TEST,
    TRAINING,
    UNWARPED,
    VOTED,
    VOTERS,
    WARPED,
    parse_source,
)
from lldm3d.study.stages import REAL, SegmentStage, pairs_slugs, segment_grid

DATASET, FINISHED = "dataset/dataset.json", "finished.json"
ONE_EACH = (UNWARPED, RECONSTRUCTED)  # sources with one pair for each training case, and no more
FORMAT = 2  # of run.yaml and the work directory's layout


@dataclass(frozen=True)
class Plan:
    """What `run.yaml` says: the data, the methods and their sources of labels, and all settings."""

    data: dict | None  # arguments of `prepare` that name the data; None: the phantom
    methods: tuple[str, ...]
    sources: tuple[str, ...]
    settings: dict
    given: bool = False  # the data set was not made by a run: only the study is
    threads: int = 1
    threads_alone: int = 1
    at_once: int = 1  # jobs that take a GPU, or a part of the CPU
    executor: str | None = None

    @classmethod
    def of(cls, content: dict) -> "Plan":
        """From the content of `run.yaml`."""
        names = cls.__dataclass_fields__
        lists = {key: tuple(content[key]) for key in ("methods", "sources")}
        return cls(**{key: value for key, value in content.items() if key in names} | lists)

    @cached_property
    def loaded(self) -> dict[str, Method]:
        return {name: load_method(name) for name in self.methods}

    @property
    def label_drawer(self) -> str | None:
        """The method on whose drawn labels those draw that draw none: ours, or the first that draws labels."""
        return next(
            (name for name in (OURS, *self.methods) if name in self.methods and self.loaded[name].draws_labels), None
        )

    @property
    def seeds(self) -> list[int]:
        """Of the methods; where they see few labels those of the segmentations, as each seed has a 0.1R of its own."""
        return self.settings["segment" if self.limits["label_fraction"] < 1 else "methods"]["seeds"]

    @property
    def limits(self) -> dict:
        """What the methods see of the training cases: the share of labels, whether nothing else, and pseudo-labels."""
        everything = {"label_fraction": 1.0, "labelled_only": False}  # a run.yaml before 0.9 does not say so
        section = self.settings["methods"]
        voted = {"pseudo_labels": section["pseudo_labels"]} if section.get("pseudo_labels") else {}
        return {key: section.get(key, value) for key, value in everything.items()} | voted

    @property
    def restricted(self) -> bool:
        """Whether the methods see less than all training cases, or other labels."""
        return self.limits["label_fraction"] < 1 or self.limits["labelled_only"] or "pseudo_labels" in self.limits

    @property
    def minutes(self) -> float | None:
        """Of training, for each method where several are compared; None: the steps that profile and bundle say."""
        return self.settings["methods"].get("minutes") if len(self.methods) > 1 else None

    @property
    def in_turn(self) -> bool:
        """Whether one method is trained once, whose later trainings all else waits for."""
        return len(self.methods) == len(self.seeds) == 1

    def section(self, method: str, part: str) -> dict:
        """The profile's settings of a training, or of the inference, of a method."""
        return self.settings["methods"].get(method, {}).get(part, {})

    @property
    def pairs(self) -> dict[str, str]:
        """The pairs that segmentations learn from, name and slug; by default those of all methods that have labels."""
        return pairs_slugs(self.settings["segment"].get("pairs") or default_pairs(self), method_names())

    @property
    def segmenter(self) -> SegmentStage:
        """The network that judges images: of all classes and real data, the first of the grid."""
        section = self.settings["segment"]
        return SegmentStage(section["until"][0], section["networks"][0], "multi", "R", REAL, section["seeds"][0])


def digest(*sections: object) -> str:
    """Changes exactly when the settings in `sections` do; Snakemake then runs the job again."""
    return hashlib.sha256(json.dumps(sections, sort_keys=True, default=str).encode()).hexdigest()[:16]


def method_folder(method: str, seed: int) -> str:
    """Where a method is trained with a seed."""
    return f"methods/{method}/seed_{seed}"


def seen_by(plan: Plan, seed: int) -> str:
    """The dataset.json of what the methods see that are trained with a seed: all of it, unless they are restricted."""
    return f"seen/seed_{seed}/dataset.json" if plan.restricted else DATASET


def pseudo_labels_of(plan: Plan, seed: int) -> str | None:
    """The folder of pseudo-labels for methods of a seed: its own folder seed_<k> where there is one."""
    folder = plan.limits.get("pseudo_labels")
    return folder and str(own if (own := Path(folder) / f"seed_{seed}").is_dir() else folder)


def pairs_folder(method: str, source: str, seed: int) -> str:
    """Where a method's pairs lie that were drawn for a source of labels by the models of a seed."""
    return f"pairs/{method}/{source}/seed_{seed}"


def labels_folder(source: str, seed: int) -> str:
    """Where the labels of a source lie that are written before images are made for them; of warped ones also scans."""
    return f"labels/{source}/seed_{seed}"


def pairs_of(plan: Plan, name: str, seed: int) -> str:
    """The folder of the pairs `name` (a method, `<method>/<source>`, `WARPED` or a path) for a segmentation of a seed.

    It is that of the same seed where the methods are trained with it, else of their first one. A path may be that of
    the folders seed_<k> of another work directory.
    """
    seed_of_methods = seed if seed in plan.seeds else plan.seeds[0]
    if name == WARPED:
        return labels_folder(TRAINING, seed_of_methods)
    method, _, source = name.partition("/")
    if method not in method_names():
        folder = Path(name).resolve()
        return str(own if (own := folder / f"seed_{seed}").is_dir() else folder)
    source = source or load_method(method).sources[0]
    return pairs_folder(method, source, seed_of_methods)


def method_sources(plan: Plan, method: str) -> list[str]:
    """The sources of labels that a method of the run has pairs of, by the names of their folders.

    Those that are asked for and that it can have, else its default; then those that these are made of.
    """
    kinds = load_method(method).sources
    wanted = [parse_source(text) for text in plan.sources]
    own = [source.slug for source in wanted if source.kind in kinds] or [kinds[0]]
    return list(dict.fromkeys([*own, *(part for source in own for part in JOINED.get(source, ()))]))


def draws_labels(plan: Plan, method: str) -> bool:
    """Whether a method of the run draws labels for some of its pairs."""
    return not {DRAWN, BOTH}.isdisjoint(method_sources(plan, method))


def default_pairs(plan: Plan) -> list[str]:
    """The first pairs with labels of each method, but never those of test cases; and the controls that a run makes."""
    left = {name: (TEST,) if load_method(name).has_labels else (DRAWN,) for name in plan.methods}
    sources = {name: [source for source in method_sources(plan, name) if source not in left[name]] for name in left}
    found = {name: of[0] for name, of in sources.items() if of}
    controls = [] if plan.given else plan.settings["segment"].get("controls", [])
    return [*(name if source == DRAWN else f"{name}/{source}" for name, source in found.items()), *controls]


def voters(plan: Plan) -> list[str]:
    """The segmentations of all classes, of real data alone, that vote on labels."""
    stages = (stage for stage in segment_stages(plan) if (stage.task, stage.regime) == ("multi", "R"))
    return [stage.path for stage in stages if stage.until == plan.segmenter.until]


def regimes_with_pairs(plan: Plan) -> float:
    """The most pairs that a regime takes for each training case."""
    return max((parse_regime(name).synthetic for name in plan.settings["segment"]["regimes"]), default=0)


def number_of_labelled(work: Path) -> int:
    """How many training cases have a label."""
    from lldm3d.data.dataset import load_cases
    from lldm3d.data.regimes import labelled_training

    return len(labelled_training(load_cases(work / "dataset", "training")))


def needed_pairs(plan: Plan, cases: int) -> int:
    """As many as the regimes take for so many labelled training cases.

    Raises UserError where the profile's number is smaller.
    """
    number = plan.settings["methods"].get("n")
    needed = {regime: parse_regime(regime).pairs(cases) for regime in plan.settings["segment"]["regimes"]}
    if wanting := {regime: pairs for regime, pairs in needed.items() if number is not None and pairs > number}:
        raise UserError(f"methods#n is {number}, but the regimes take more pairs: {wanting}; raise it in the profile")
    return max(needed.values())


def number_of_pairs(work: Path, plan: Plan) -> int:
    """As many as the regimes take, and as the real training cases at least, unless the profile gives a number.

    Raises UserError as `needed_pairs` does.
    """
    cases = number_of_labelled(work)
    needed = needed_pairs(plan, cases)
    return plan.settings["methods"].get("n") or max(cases, needed)


def segment_stages(plan: Plan) -> list[SegmentStage]:
    """The grid of segmentations, and the one that judges images."""
    section = plan.settings["segment"]
    axes = (section["until"], section["networks"], section["tasks"], section["regimes"])
    grid = segment_grid(*axes, list(plan.pairs.values()), section["seeds"])
    return grid if plan.given else list(dict.fromkeys([*grid, plan.segmenter]))


def check_plan(plan: Plan) -> None:
    """Raises UserError where methods of the run want labels that none of it draws, or pairs that none of it makes."""
    drawing = [name for name in plan.methods if DRAWN in method_sources(plan, name)]
    wanting = [name for name in drawing if load_method(name).needs_drawn_labels]
    if wanting and not plan.label_drawer:
        raise UserError(
            f"--methods: {', '.join(wanting)} draws images on labels that {OURS} draws; add {OURS}, or give "
            "--sources training"
        )
    if SHAPES not in plan.methods and any(SHAPES in method_sources(plan, name) for name in plan.methods):
        raise UserError(f"--sources {SHAPES}: masks that the method {SHAPES} draws; add it to --methods")
    for source in VOTED:
        if source in plan.sources:
            check_voters(plan, source)
    check_pseudo_labels(plan)
    if plan.given:
        return
    require_weights(plan)
    drawn = product(plan.methods, plan.seeds)
    made = {pairs_folder(name, source, seed) for name, seed in drawn for source in method_sources(plan, name)}
    made |= {labels_folder(TRAINING, seed) for seed in plan.seeds}
    for name in plan.pairs:
        folder = pairs_of(plan, name, plan.settings["segment"]["seeds"][0])
        if not Path(folder).is_absolute() and folder not in made:
            raise UserError(f"segment#pairs: {name} is drawn by no method and source of this run: add it to --methods")
    check_pairs(plan)


def require_takers(plan: Plan, sources: Iterable[str]) -> None:
    """Raises UserError for a source that is asked for, of which no method of the run has pairs.

    Methods that have none of the sources are printed, with what they take instead.
    """
    had = {name: load_method(name).sources for name in plan.methods}
    wanted = {text: parse_source(text).kind for text in sources}
    for text, kind in wanted.items():
        if not any(kind in kinds for kinds in had.values()):
            have = "; ".join(f"{name} has {', '.join(kinds)}" for name, kinds in had.items())
            raise UserError(f"--sources {text}: no method of this run has such pairs: {have}")
    for name, kinds in had.items():
        if wanted and not set(wanted.values()) & set(kinds):
            print(f"lldm3d: {name} has no pairs of the source {' or '.join(wanted)}; it takes {kinds[0]}")


def check_voters(plan: Plan, source: str) -> None:
    """Raises UserError where there is no vote on labels, or one by networks that see more labels than the methods."""
    if len(voters(plan)) < VOTERS:
        raise UserError(
            f"--sources {source}: {VOTERS} segmentations in regime R or more have to vote on labels; add R to "
            "segment#regimes, and a second seed to segment#seeds"
        )
    if plan.restricted:
        mends = f"refine --regime 0.1R --contradicted {source}"
        command = "pseudo_label --regime 0.1R" if source == PSEUDO_LABELLED else mends
        raise UserError(
            f"--sources {source}: its networks see all labels, the methods of this run do not; take --sources "
            f"{JOINED[source][0]}, then `lldm3d {command}` on these"
        )


def require_weights(plan: Plan) -> None:
    """Raises UserError where weights of networks that judge images are not there."""
    for name in ("medicalnet", "radimagenet", "lpips"):
        named = plan.settings["evaluate"].get(name) or []
        for path in [named] if isinstance(named, str) else named:
            if not Path(path).is_file() or not Path(path).is_absolute():
                raise UserError(
                    f"evaluate#{name}: {path} is no file; give the absolute path of weights, or leave it out"
                )


def check_pseudo_labels(plan: Plan) -> None:
    """Raises UserError where a folder holds no pseudo-labels, or what they belong to is not seen."""
    for folder in filter(None, (pseudo_labels_of(plan, seed) for seed in plan.seeds)):
        if not all((Path(folder) / name).is_file() for name in ("dataset.json", "manifest.json")):
            raise UserError(f"--pseudo_labels {folder}: is no folder of `lldm3d pseudo_label`")
        if plan.limits["labelled_only"]:
            raise UserError("--labelled_only leaves out the scans that --pseudo_labels are of; give one of them")


def check_pairs(plan: Plan) -> None:
    """Raises UserError for pairs that cannot be had, would show test labels, or are fewer than a regime takes."""
    for name in plan.pairs:
        method, _, source = name.partition("/")
        if method in method_names() and source and source not in KINDS and Path(source).is_dir():
            slug = parse_source(str(Path(source).resolve())).slug
            raise UserError(f"--pairs {name}: pairs of the labels in a folder are called {method}/{slug}")
        if name == WARPED and plan.given:
            raise UserError(f"--pairs {WARPED}: real scans that `lldm3d run` warps, but no run made this data set")
        if method in method_names() and source in KINDS and source not in load_method(method).sources:
            can = ", ".join(load_method(method).sources)
            raise UserError(f"--pairs {name}: {method} has no pairs of the source {source!r}; it has {can}")
        if method in method_names() and source == TEST:
            raise UserError(f"segment#pairs: {name} shows the labels of test cases; a segmentation must not learn them")
        if method in method_names() and source in ONE_EACH and regimes_with_pairs(plan) > 1:
            raise UserError(
                f"segment#pairs: {name} has one pair for each training case, but a regime takes more: leave out one of "
                f"them; the regimes are {', '.join(plan.settings['segment']['regimes'])}"
            )
