"""Profiles: the settings of all stages, in one YAML file with a section for each."""

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lldm3d.bundle import MULTI_GPU, bundle_path, misfits, segmentation_names, undefined
from lldm3d.data.regimes import parse_regime
from lldm3d.errors import UserError, did_you_mean
from lldm3d.files import read_yaml
from lldm3d.methods.registry import OURS, load_method, validation_faults
from lldm3d.pairs.sources import WARPED, parse_source
from lldm3d.pipeline.stages import STAGES

HERE = Path(__file__).parent
BUILT_IN = ("demo", "small", "full")
SEGMENT_OVERLAY = str(HERE / "segment.yaml")  # what the study adds to a stock segmentation bundle
DDPM_OVERLAY = "ddpm.yaml"  # another process of noise than rectified flow
# before 0.8: gate, training and metric
OLD_GATES = (("image_psnr", "autoencoder_image", "psnr"), ("label_dice", "autoencoder_label", "mean_dice"))
OWN_KEYS = ("overlays", "processes", "minutes", "gate")  # of a training's section; all others are ids of its configs

Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
Minutes = Annotated[float, Field(gt=0)]
Voxels = Annotated[list[Count], Field(min_length=3, max_length=3)]
Millimetres = Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=3, max_length=3)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PhantomSettings(Section):
    """Arguments of `lldm3d phantom`."""

    num_cases: Annotated[int, Field(ge=8)] | None = None
    size: Voxels | None = None
    spacing: Millimetres | None = None
    seed: Seed | None = None
    thinnest_vessel: Annotated[float, Field(ge=0)] | None = None  # mm, radius


class PrepareSettings(Section):
    """Arguments of `lldm3d prepare`, but for those that name the data."""

    roi_size: Voxels | None = None
    spacing: Millimetres | None = None
    center: str | None = None
    crops: Count | None = None
    intensity: Literal["min_max", "percentile", "window"] | None = None
    percentiles: Annotated[list[Annotated[float, Field(ge=0, le=100)]], Field(min_length=2, max_length=2)] | None = None
    window: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    split: Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=3, max_length=3)] | None = None
    fold: str | None = None
    split_by: Literal["patient", "case"] | None = None
    patient_pattern: str | None = None
    channel: Annotated[int, Field(ge=0)] | None = None
    max_cases: Count | None = None
    orientation: Literal["ras", "stored"] | None = None
    body: bool | None = None
    seed: Seed | None = None


class MethodsSettings(BaseModel):
    """How methods are trained and draw; further entries are sections of single methods."""

    model_config = ConfigDict(extra="allow")

    names: Annotated[list[str], Field(min_length=1)] | None = None  # of a run that is given none; None: 3D-LLDM
    sources: Annotated[list[str], Field(min_length=1)] | None = None  # of labels, likewise; None: drawn
    minutes: Minutes | None = None  # of all trainings of each, where several are compared
    seeds: Annotated[list[Seed], Field(min_length=1)]
    n: Count | None = None  # pairs of each; as many as the regimes take and as training cases at least, unless given
    strength: Annotated[float, Field(ge=0)] = 1.0  # of the warp of training labels
    lesion: str | None = None  # class that edits add; None: the data set's one lesion
    organ: Annotated[list[str], Field(min_length=1)] | None = None  # classes that it may cover; None: those around it
    long_axis: Literal["own", "uniform"] = "own"  # of new lesions: the shape's, or uniform over the range of real ones
    label_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0  # of the training patients, whose labels they see
    labelled_only: bool = False  # they see nothing of the other patients; else their images
    pseudo_labels: str | None = None  # folder of `lldm3d pseudo_label`: labels of those images that they see


class SegmentSettings(Section):
    """The grid of segmentations, and ids of the bundles' configs for all of them."""

    networks: Annotated[list[str], Field(min_length=1)]
    tasks: Annotated[list[str], Field(min_length=1)]  # multi, and what dataset.json names
    regimes: Annotated[list[str], Field(min_length=1)]  # R, S, R+S, R+2S, 0.1R, 0.1R+S, S>R ...
    seeds: Annotated[list[Seed], Field(min_length=1)]
    pairs: Annotated[list[str], Field(min_length=1)] | None = None  # lldm, lldm/training, a folder; None: of the run
    controls: list[Literal["warped"]] = []  # pairs of no generator, beside those of the run
    until: Annotated[list[Literal["steps", "convergence"]], Field(min_length=1)] = ["steps"]
    patience: Count = 10  # validations without a lower loss, of trainings until convergence
    overrides: dict[str, object]


class EvaluateSettings(Section):
    """Further networks that look at the images; paths of their weights, absolute."""

    medicalnet: str | None = None
    radimagenet: str | None = None
    radiomics: bool | None = None
    lpips: Annotated[list[str], Field(min_length=2, max_length=2)] | None = None  # trunk and heads


class ClusterJob(Section):
    """What a stage asks of a cluster: resources of Snakemake and its Slurm plugin."""

    runtime: Count | None = None  # minutes
    mem_mb: Count | None = None
    threads: Count | None = None
    gpu: Annotated[int, Field(ge=0)] | None = None
    slurm_account: str | None = None
    slurm_partition: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gres: str | None = None
    gpu_model: str | None = None
    slurm_extra: str | None = None  # further options of sbatch


class Profile(Section):
    """All sections."""

    phantom: PhantomSettings
    prepare: PrepareSettings
    methods: MethodsSettings
    segment: SegmentSettings
    evaluate: EvaluateSettings
    cluster: dict[str, object]  # retries, all, and stages: see `cluster_faults`


def load_profile(profile: str, grid: dict | None = None, seen: dict | None = None, kept: dict | None = None) -> dict:
    """Read a built-in profile, or a YAML file that may say `base: small` and then only what differs.

    `grid` replaces entries of its section `segment`, `seen` of its section `methods`; `kept` are the settings of a work
    directory that was made with the file, which may be gone where the folder came to another place.
    Raises UserError that lists every fault of the file at once.
    """
    content = kept if kept and is_gone(profile) else merged(profile)
    above = {"segment": grid, "methods": seen}
    content = lay_over(content, {key: value for key, value in above.items() if value})
    try:
        settings = Profile.model_validate(content).model_dump(mode="json", exclude_none=True)
    except ValidationError as error:
        settings, faults = None, readable_faults(error, Profile)
    else:
        faults = [*cluster_faults(settings["cluster"]), *segment_faults(settings["segment"])]
        faults += method_faults(settings["methods"])
    if faults:
        where = "there, or in the options that stand for them" if any(above.values()) else "in the file"
        raise UserError(f"profile {profile}: " + "; ".join(faults) + f". Correct these {where} and run again")
    return settings


def is_gone(profile: str) -> bool:
    """Whether a profile is a file that there is not."""
    return profile not in BUILT_IN and not Path(profile).is_file()


def readable_faults(error: ValidationError, model: type[BaseModel], where: str = "") -> list[str]:
    """What pydantic found in a section of `model` at `where`, for an unknown entry with the nearest one allowed."""
    faults = validation_faults(error)
    for place, item in enumerate(error.errors()):
        if item["type"] == "extra_forbidden":
            owner = model if len(item["loc"]) == 1 else model.model_fields[item["loc"][0]].annotation
            allowed = list(owner.model_fields)
            hint = did_you_mean(str(item["loc"][-1]), allowed).strip() or f"allowed are {', '.join(allowed)}"
            faults[place] = f"{'#'.join(map(str, item['loc']))} is unknown, {hint}"
    return [f"{where}{fault}" for fault in faults]


def cluster_faults(section: dict) -> list[str]:
    """A message for each fault of the section `cluster`: retries, what `all` stages ask for, and single stages."""
    faults, names = [], [stage.name for stage in STAGES]
    retries = section.get("retries")
    if type(retries) is not int or retries < 0:
        faults.append(f"cluster#retries: a whole number from 0 is needed, got {retries!r}")
    if missing := [key for key in ("runtime", "mem_mb", "threads") if key not in section.get("all", {})]:
        faults.append(f"cluster#all: needs {', '.join(missing)}")
    for name, content in section.items():
        if name == "retries":
            continue
        if name not in ("all", *names):
            hint = did_you_mean(name, names).strip() or f"allowed are all, {', '.join(names)}"
            faults.append(f"cluster#{name} is unknown, {hint}")
            continue
        try:
            ClusterJob.model_validate(content)
        except ValidationError as error:
            faults += readable_faults(error, ClusterJob, f"cluster#{name}#")
    return faults


def segment_faults(section: dict) -> list[str]:
    """A message for each name that is no regime, no source of pairs, and each override that no bundle defines."""
    faults = []
    for key, parse in (("regimes", parse_regime), ("pairs", require_pairs_name)):
        for name in section.get(key, []):
            try:
                parse(name)
            except UserError as error:
                faults.append(f"segment#{key}: {error}")
    networks = segmentation_names()
    for network in section["networks"]:
        if network not in networks:
            faults.append(f"segment#networks: {network!r} is no segmentation; there are {', '.join(networks)}")
            continue
        configs = ["configs/train.yaml", SEGMENT_OVERLAY]
        faults += unfit("segment#overrides", section["overrides"], network, configs)
    return faults


def require_pairs_name(name: str) -> None:
    """Raises UserError for what is no method with or without a source, `WARPED`, or a folder of pairs."""
    method, _, source = name.partition("/")
    if name == WARPED or Path(name).is_dir():
        return
    if Path(name).is_absolute():
        raise UserError(f"{name!r} is no folder of pairs")
    try:
        load_method(method)
    except UserError as error:
        raise UserError(f"{name!r} is neither a folder of pairs nor a method: {error}") from None
    if source:
        parse_source(source)


def method_faults(section: dict) -> list[str]:
    """A message for each entry of the section `methods` that no method, training or config has."""
    faults = []
    for name, content in section.items():
        if name in MethodsSettings.model_fields:
            continue  # whoever runs them checks names and sources
        try:
            parts = load_method(name).parts()
        except UserError as error:
            faults.append(f"methods#{name}: {error}")
            continue
        for part, settings in content.items():
            place = f"methods#{name}#{part}"
            if part not in parts:
                faults.append(f"{place} is unknown, {did_you_mean(part, parts)}allowed are {', '.join(parts)}")
            elif not isinstance(settings, dict):
                faults.append(f"{place}: must hold `id: value`, holds {settings!r}")
            else:
                bundle, configs = parts[part]
                overlaid = [*configs, *overlays_of(settings)]
                faults += unfit(place, overrides_of(settings), bundle, overlaid)
                if settings.get("processes", 1) > 1 and not in_several(name, part, bundle):
                    faults.append(f"{place}#processes: the bundle {bundle} does this in one process; leave it out")
        faults = faults or process_faults(name, content)
    return faults or embedding_faults(section.get(OURS, {}))


def unfit(place: str, overrides: dict, bundle: str, configs: list[str]) -> list[str]:
    """A message for each override that no config defines, or, if all are defined, whose value is of another kind."""
    return undefined(place, overrides, bundle, configs) or misfits(place, overrides, bundle, configs)


def in_several(method: str, part: str, bundle: str) -> bool:
    """Whether several processes can share a part: all drawing but of edits, and trainings with an overlay for it."""
    return not load_method(method).edits if part == "inference" else (bundle_path(bundle) / MULTI_GPU).is_file()


def process_faults(name: str, section: dict) -> list[str]:
    """Networks of another process of noise than those that one inference samples with them, which would show only
    there."""
    having = {part for part, content in section.items() if DDPM_OVERLAY in content.get("overlays", [])}
    parts = load_method(name).parts().items()
    could = [part for part, (bundle, _) in parts if (bundle_path(bundle) / "configs" / DDPM_OVERLAY).is_file()]
    if not having or ("inference" in could and having == set(could)):
        return []
    remedy = f"give it to {', '.join(could)}" if "inference" in could else "leave it out, as the inference has none"
    return [f"methods#{name}: {DDPM_OVERLAY} is an overlay of {', '.join(sorted(having))} alone; {remedy}"]


def embedding_faults(section: dict) -> list[str]:
    """A label embedding that halves more or less often than the autoencoder, which would show only hours later."""
    control, autoencoder = section.get("controlnet", {}), section.get("autoencoder_image", {}).get("channels")
    embedding = control.get("conditioning_channels")
    if "overlays" in control or not embedding or not autoencoder or len(embedding) == len(autoencoder):
        return []
    wanted = f"the {len(autoencoder)} that methods#{OURS}#autoencoder_image#channels has"
    return [f"methods#{OURS}#controlnet#conditioning_channels has {len(embedding)} entries, but needs {wanted}"]


def overrides_of(section: dict) -> dict:
    """The part of a training's section that overrides ids of its configs."""
    return {key: value for key, value in section.items() if key not in OWN_KEYS}


def overlays_of(section: dict) -> list[str]:
    return [f"configs/{name}" for name in section.get("overlays", [])]


def merged(profile: str, folder: Path = Path()) -> dict:
    """The profile laid over its base; a relative base path is relative to the file that names it."""
    path = HERE / "profiles" / f"{profile}.yaml" if profile in BUILT_IN else folder / profile
    settings = read_yaml(path, f"a profile is one of {', '.join(BUILT_IN)} or the path of a YAML file")
    base = settings.pop("base", None)
    settings = translated(settings)
    return lay_over(merged(str(base), path.parent), settings) if base else settings


def idle_methods(profile: str, methods: Collection[str]) -> list[str]:
    """The methods that a user's profile has settings for, though a run does not train them."""
    if profile in BUILT_IN or is_gone(profile):
        return []
    own = translated(read_yaml(profile, "a profile is a YAML file")).get("methods", {})
    return [name for name in own if name not in MethodsSettings.model_fields and name not in methods]


def translated(content: dict) -> dict:
    """A profile of the versions before 0.8, whose trainings of 3D-LLDM were sections of their own, as one of today."""
    content, ours = dict(content), {}
    for name in [name for name in content if name in load_method(OURS).trainings]:
        ours[name] = content.pop(name)
    if drawing := dict(content.pop("generate", {})):
        content["methods"] = {
            **{key: drawing.pop(key) for key in ("n",) if key in drawing},
            **content.get("methods", {}),
        }
        drawing.pop("seed", None)
        ours["inference"] = drawing
    gates = dict(content.pop("gates", {}))
    for gate, training, metric in OLD_GATES:
        if gate in gates:
            ours[training] = {**ours.get(training, {}), "gate": {metric: gates.pop(gate)}}
    if gates:
        content["gates"] = gates  # a misspelt one is a fault of the profile
    return lay_over(content, {"methods": {OURS: ours}}) if ours else content


def lay_over(below: dict, above: dict) -> dict:
    """Merge two nested dicts; where both have a value that is not a dict, `above` wins."""
    both = below.keys() & above.keys()
    nested = [key for key in both if isinstance(below[key], dict) and isinstance(above[key], dict)]
    return {**below, **above, **{key: lay_over(below[key], above[key]) for key in nested}}
