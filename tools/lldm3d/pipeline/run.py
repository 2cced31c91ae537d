"""`lldm3d run` and `lldm3d study`: plan the jobs, check everything, then execute them."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

from lldm3d.children import quoted
from lldm3d.data.dataset import SPLITS, load_cases, load_schema
from lldm3d.data.regimes import parse_regime, regime_cases
from lldm3d.data.scans import check_headers
from lldm3d.data.volumes import lies_along
from lldm3d.errors import UserError
from lldm3d.locks import LOCKS
from lldm3d.methods.registry import OURS, load_method, method_names
from lldm3d.pairs.sources import DRAWN, VOTED, WARPED, parse_source
from lldm3d.pipeline.axes import ladder_axes, pairs_at_hand, pairs_to_make, sources_with
from lldm3d.pipeline.plan import (
    FORMAT,
    Plan,
    check_pairs,
    check_plan,
    check_voters,
    pairs_of,
    regimes_with_pairs,
    require_takers,
)
from lldm3d.pipeline.profile import BUILT_IN, idle_methods, is_gone, load_profile
from lldm3d.pipeline.stage import read_plan
from lldm3d.pipeline.stages import OF_STUDY, all_jobs, selected_jobs
from lldm3d.pipeline.workflow import execute


def run(
    workdir: str,
    profile: str | None = None,
    data: str | None = None,
    images: str | None = None,
    labels: str | None = None,
    label_map: str | dict | None = None,
    unlabelled: str | None = None,
    methods: str | Sequence[str] | None = None,
    sources: str | Sequence[str] | None = None,
    regimes: str | Sequence[str] | None = None,
    ladder: bool = False,
    label_fraction: float | None = None,
    labelled_only: bool | None = None,
    pseudo_labels: str | None = None,
    dry_run: bool = False,
    until: str | None = None,
    cores: int | None = None,
    gpus: int | None = None,
    executor: str | None = None,
    jobs: int | None = None,
) -> None:
    """Go the whole way in a work directory, or what is not done of it; without data it draws a phantom.

    Args:
        workdir: folder of all results. It remembers profile, data and methods, so that --workdir alone goes on.
        profile: demo (minutes on a CPU, the default), small, full (the paper's), or a YAML file with `base: small`.
        data: a Decathlon, nnU-Net raw, BIDS or DICOM folder; or instead
        images: a folder of NIfTI images, with
        labels: a folder of labels with the same names.
        label_map: YAML file of class names and their values in the data; default: the labels of dataset.json.
        unlabelled: a folder of further images without labels, for what learns images alone.
        methods: to be compared at equal minutes of training, as lldm,cond_ldm,ddpm; default: the profile's one, for the
            steps that it says.
        sources: of the labels that images are drawn for: drawn, training (warped), unwarped, test, or folders; further
            reconstructed (training pairs through the image codec), both (training and drawn), pseudo_labelled (of
            methods that make images alone); default: the profile's.
        regimes: of the study, as R,R+S, which say how many pairs are made; default: the profile's. Another profile
            makes them be forgotten.
        ladder: with a study of where Dice is lost, as `lldm3d study --ladder`, and all sources that it needs.
        label_fraction: of the training patients, whose labels the methods see, as in the regime 0.1R; default: 1.
        labelled_only: the methods see no image of the other patients either; default: the images of all.
        pseudo_labels: folder of `lldm3d pseudo_label`, whose labels the methods see of scans that have none for them.
        dry_run: only list the stages that would run and, of a prepared data set, what they take on this machine.
        until: the last stage to run: a stage, a training, or one job as a dry run lists it.
        cores: CPU cores to use at once; default: all.
        gpus: GPUs to use at once; default: all.
        executor: slurm, which sends the stages to a cluster as jobs; default: this machine.
        jobs: jobs of the cluster at once; default: 20.

    Raises:
        UserError: for a mistake in the profile or data, a work directory in use, or a stage that stopped with one.
        ChildError: when a stage failed.
    """
    work, voted = Path(workdir).resolve(), absolute(pseudo_labels) if pseudo_labels else None
    files = {"data": data, "images": images, "labels": labels, "label_map": label_map, "unlabelled": unlabelled}
    limits = {"label_fraction": label_fraction, "labelled_only": labelled_only, "pseudo_labels": voted}
    seen = {key: value for key, value in limits.items() if value is not None}
    grid = {"regimes": regimes_of(regimes)} if regimes else None
    content = planned(work, profile, source_of(files), grid, as_list(methods), as_list(sources), ladder, seen)
    require_own_data(work, content)
    if not (profile or files["data"] or files["images"] or (work / "run.yaml").is_file()):
        require_none_of_others(work)
    plan = Plan.of(content)
    require_takers(plan, as_list(sources) or [])
    check_plan(plan)
    if methods is None and (idle := idle_methods(content["profile"], plan.methods)):
        trained, others = ", ".join(plan.methods), ", ".join(idle)
        print(f"lldm3d: trains {trained}; settings of {others} in the profile change nothing without --methods")
    selected = selected_jobs(plan, until)
    where = {"cores": cores, "gpus": gpus, "executor": executor, "jobs": jobs}
    execute(work, content, selected, dry_run, **where)
    if not dry_run:
        report = work / "report" / "report.html"
        print(f"lldm3d: done until {until}" if until else f"lldm3d: done; the report is {report}")


def study(
    workdir: str,
    profile: str | None = None,
    pairs: str | Sequence[str] | None = None,
    networks: str | Sequence[str] | None = None,
    tasks: str | Sequence[str] | None = None,
    regimes: str | Sequence[str] | None = None,
    seeds: str | Sequence[int] | int | None = None,
    until: str | Sequence[str] | None = None,
    ladder: bool = False,
    dry_run: bool = False,
    cores: int | None = None,
    gpus: int | None = None,
    executor: str | None = None,
    jobs: int | None = None,
) -> None:
    """Train segmentation networks on real and synthetic data, and write the table of what the synthetic data is worth.

    Args:
        workdir: holds dataset/ and the pairs, made by `lldm3d run` or by another program; pairs that a trained method
            of it lacks are made. It remembers the grid.
        profile: its section `segment` is taken; default: the work directory's, or small.
        pairs: whose pairs are S, as lldm,lldm/training,lldm/both,other/folder, or warped: real scans, warped as the
            labels are, which shows what warping alone brings; default: those of the methods of the run.
        networks: of the grid, as seg_unet,seg_dynunet.
        tasks: as multi,liver; `multi` tells all classes apart, others are declared in the data set.
        regimes: as R,R+S,0.1R,0.1R+S,S>R (on S first, then on R).
        seeds: as 0,1,2.
        until: steps (as many in every regime), convergence (patience on real validation cases), or both.
        ladder: where is Dice lost? Sets pairs, regimes and until: R, then S of real pairs through the image codec, of
            images drawn for real, for warped and for drawn labels, as far as the work directory can have them.
        dry_run: only list the trainings, with the hours and the disk that they take.
        cores: CPU cores to use at once; default: all.
        gpus: GPUs to use at once; default: all.
        executor: slurm, which sends the trainings to a cluster as jobs; default: this machine.
        jobs: jobs of the cluster at once; default: 20.

    Raises:
        UserError: where the data or the synthetic pairs do not suffice for the grid, before any training.
        ChildError: when a training failed.
    """
    work = Path(workdir).resolve()
    axes = {"pairs": pairs, "networks": networks, "tasks": tasks, "regimes": regimes_of(regimes), "until": until}
    grid = {key: as_list(value) for key, value in axes.items() if value}
    if "pairs" in grid:  # Snakemake has another current folder
        own = method_names()
        grid["pairs"] = [
            name if name == WARPED or name.partition("/")[0] in own or not Path(name).is_dir() else absolute(name)
            for name in grid["pairs"]
        ]
    if seeds is not None:
        grid["seeds"] = [int(seed) if str(seed).isdigit() else seed for seed in as_list(seeds)]
    if (work / "run.yaml").is_file():
        content = planned(work, profile, None, grid, ladder=ladder)
    else:
        content = planned(work, profile or "small", None, grid, ladder=ladder) | {"given": True}
    if ladder:
        leave_out_missing(work, content)
    plan = Plan.of(content)
    making = pairs_to_make(work, plan)
    for source in VOTED:
        if any(job.values.get("source") == source for job in making):
            check_voters(plan, source)
    require_data(work, plan, {job.name for job in making})
    where = {"cores": cores, "gpus": gpus, "executor": executor, "jobs": jobs}
    execute(work, content, [*making, *selected_jobs(plan, stages=OF_STUDY)], dry_run, **where)
    if not dry_run:
        report = f"lldm3d report --workdir {quoted(workdir)}"
        print(f"lldm3d: done; the tables are in {work / 'study'}, `{report}` shows them")


def regimes_of(given: str | Sequence[str] | None) -> list[str]:
    """The names of regimes of an option. Raises UserError for one that is none."""
    names = as_list(given) or []
    for name in names:
        parse_regime(name)
    return names


def leave_out_missing(work: Path, content: dict) -> None:
    """Take the pairs that the work directory neither holds nor can make from the axis of a plan, and print them."""
    plan = Plan.of(content)
    kept = pairs_at_hand(work, plan)
    for name in (name for name in plan.pairs if name not in kept):
        print(f"lldm3d: without {name}: neither its pairs nor its trained models are in {work}")
    if kept:
        content["settings"]["segment"]["pairs"] = content["grid"]["pairs"] = kept


def require_none_of_others(work: Path) -> None:
    """Raises UserError where a run that nobody asked for would begin on simulated data among other things."""
    if work.is_dir() and any(path.name not in (LOCKS, "profile.yaml") for path in work.iterdir()):
        raise UserError(
            f"{work}: holds no run to go on with (run.yaml), but other things; correct --workdir, or begin a run with "
            "--data or --profile"
        )


def source_of(files: dict) -> dict | None:
    """The options that name the data, with absolute paths. Raises UserError for unlabelled scans alone."""
    if files["unlabelled"] and not (files["data"] or files["images"]):
        raise UserError(
            f"--unlabelled {files['unlabelled']}: needs labelled scans beside it; give --data, or --images and --labels"
        )
    return {key: absolute(name) for key, name in files.items() if name} or None


def as_list(value: str | int | Sequence | None) -> list | None:
    """A comma-separated text, or what the command line has split already, as a list."""
    if value is None:
        return None
    return value.split(",") if isinstance(value, str) else list(value) if isinstance(value, Sequence) else [value]


def absolute(source: str | dict) -> str | dict:
    """A path made absolute; a label map given on the command line as it is."""
    return source if isinstance(source, dict) else str(Path(source).resolve())


def planned(
    work: Path,
    profile: str | None,
    data: dict | None,
    grid: dict | None = None,
    methods: list[str] | None = None,
    sources: list[str] | None = None,
    ladder: bool = False,
    seen: dict | None = None,
) -> dict:
    """The content of `run.yaml`; what is None is taken from the last run.

    `grid` replaces entries of the profile's section `segment`, and is remembered until another profile is given; with
    `ladder` it need not say the axes of the ladder, and its regimes stand beside R and S. `seen` replaces those of its
    section `methods` that say what the methods see. A fold of a cross-validation stays one.

    Raises UserError for other data than those of which the data set was prepared.
    """
    path = work / "run.yaml"
    before = read_plan(work) if path.is_file() else {"profile": "demo", "data": data}
    if data and data != before["data"] and (work / "dataset").is_dir():
        made, asked = (
            " ".join(f"--{key} {name}" for key, name in one.items()) if one else "a phantom"
            for one in (before["data"], data)
        )
        raise UserError(f"{path}: this work directory was made from {made}, not from {asked}; choose another --workdir")
    kept, settings = ({}, None) if profile else (before.get("grid", {}), before.get("settings"))
    profile = profile or before["profile"]
    if settings and is_gone(profile):
        print(f"lldm3d: {profile} is gone; goes on with the settings in {path}, --profile gives others")
    preset = load_profile(profile, kept=settings)["methods"]
    methods = methods or before.get("methods") or preset.get("names", [OURS])
    sources = sources or before.get("sources") or preset.get("sources", [DRAWN])
    for name in methods:
        load_method(name)
    climbed = ladder_axes(methods) if ladder else {}
    grid = kept | climbed | (grid or {})
    if ladder:  # further regimes stand beside its own
        grid["regimes"] = list(dict.fromkeys([*climbed["regimes"], *grid["regimes"]]))
    sources = sources_with(sources, grid.get("pairs", []), methods)
    sources = [text if parse_source(text).folder is None else str(Path(text).resolve()) for text in sources]
    seen = before.get("seen", {}) | (seen or {})
    settings = load_profile(profile, grid, seen, settings)
    fold = {"fold": before["fold"]} if before.get("fold") else {}
    settings["prepare"] |= fold
    named = profile if profile in BUILT_IN else absolute(profile)
    kept = {"profile": named, "data": data or before["data"], "given": before.get("given", False), "grid": grid}
    kept |= {"seen": seen, **fold}
    return {"format": FORMAT, **kept, "methods": methods, "sources": sources, "settings": settings}


def require_own_data(work: Path, content: dict) -> None:
    """Raise UserError where files lie that no run made, and among which this one would write."""
    made = (work / "run.yaml").is_file() and not content["given"]
    names = {Path(path).parts[0] for job in all_jobs(Plan.of(content | {"given": False})) for path in job.writes}
    for name in sorted(names) if not made else ():
        if (work / name).exists() and (not (work / name).is_dir() or any((work / name).iterdir())):
            raise UserError(
                f"{work / name}: was not made by `lldm3d run`, which would write there; choose another --workdir"
                + (", or train segmentations on it with `lldm3d study`" if name == "dataset" else "")
            )


def require_data(work: Path, plan: Plan, making: set[str]) -> None:
    """Raises UserError where the grid's tasks or regimes cannot be had from the data, or nothing is held out.

    Args:
        making: folders of pairs that are made before the segmentations.
    """
    schema, section = load_schema(work / "dataset"), plan.settings["segment"]
    for case in (case for split in SPLITS for case in load_cases(work / "dataset", split) if plan.given):
        if not lies_along(case.image, schema.axes):  # segmentations read real cases as they are stored
            raise UserError(f"{case.image}: is not stored in RAS orientation; bring all there with `lldm3d prepare`")
        check_headers(case, schema)
    for task in section["tasks"]:
        schema.task(task)
    for split in ("validation", "test"):
        if not load_cases(work / "dataset", split):
            raise UserError(f"{work / 'dataset' / 'dataset.json'}: has no {split} cases; a study needs real ones")
    check_pairs(plan)
    places = dict.fromkeys(pairs_of(plan, *pair) for pair in product(plan.pairs, section["seeds"]))
    for place in [place for place in places if place not in making]:
        found = work / place if (work / place / "dataset.json").is_file() else None
        if found is None and regimes_with_pairs(plan) and not plan.given and not Path(place).is_absolute():
            methods = ",".join(dict.fromkeys([*plan.methods, Path(place).parts[1]]))
            command = (
                f"run --workdir {quoted(work)} --methods {methods} --sources {','.join(plan.sources)} --until pairs"
            )
            raise UserError(f"{work / place}: holds no pairs, which some regimes take; `lldm3d {command}` makes them")
        for regime in section["regimes"]:
            regime_cases(work / "dataset", found, regime, section["seeds"][0])
