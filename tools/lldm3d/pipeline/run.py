"""`lldm3d run` and `lldm3d study`: check everything, then hand the jobs over to Snakemake."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from lldm3d.children import source_environment, tail, tied_to_me
from lldm3d.data.dataset import SPLITS, load_cases, load_schema
from lldm3d.data.regimes import regime_cases
from lldm3d.data.scans import check_headers
from lldm3d.data.volumes import lies_along
from lldm3d.errors import ChildError, UserError
from lldm3d.files import read_json, write_yaml
from lldm3d.locks import locked, visible_gpus
from lldm3d.methods.registry import OURS, load_method, method_names
from lldm3d.pairs.sources import DRAWN, parse_source
from lldm3d.pipeline.axes import ladder_axes, pairs_at_hand, pairs_to_make, sources_with
from lldm3d.pipeline.checks import RECORDS, jobs_to_do, mark_done
from lldm3d.pipeline.cluster import check_executor, ended_by_slurm, refuse_left_over, refused_by_slurm, slurm_options
from lldm3d.pipeline.profile import BUILT_IN, load_profile
from lldm3d.pipeline.stage import FAILURES, read_plan
from lldm3d.pipeline.stages import (
    FORMAT,
    OF_STUDY,
    Job,
    Plan,
    all_jobs,
    check_pairs,
    check_plan,
    pairs_of,
    selected_jobs,
)
from lldm3d.processes import usable_cores

SNAKEFILE = Path(__file__).parent / "Snakefile"
CONFIG = ".snakemake/lldm3d.yaml"  # in the work directory, as jobs of a cluster read it too


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
    ladder: bool = False,
    label_fraction: float | None = None,
    labelled_only: bool | None = None,
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
        data: a Decathlon or nnU-Net raw folder; or instead
        images: a folder of NIfTI images, with
        labels: a folder of labels with the same names.
        label_map: YAML file of class names and their values in the data; default: the labels of dataset.json.
        unlabelled: a folder of further images without labels, for what learns images alone.
        methods: to be compared at equal minutes of training, as lldm,cond_ldm,ddpm; default: the profile's one, for the
            steps that it says.
        sources: of the labels that images are drawn for: drawn, training (warped), unwarped, test, or folders; further
            reconstructed (training pairs through the image codec), both (training and drawn); default: the profile's.
        ladder: with a study of where Dice is lost, as `lldm3d study --ladder`, and all sources that it needs.
        label_fraction: of the training patients, whose labels the methods see, as in the regime 0.1R; default: 1.
        labelled_only: the methods see no image of the other patients either; default: the images of all.
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
    work, files = Path(workdir).resolve(), {"data": data, "images": images, "labels": labels, "label_map": label_map}
    if unlabelled and not (data or images):
        raise UserError(
            f"--unlabelled {unlabelled}: needs labelled scans beside it; give --data, or --images and --labels"
        )
    files |= {"unlabelled": unlabelled}
    source = {key: absolute(name) for key, name in files.items() if name} or None
    limits = {"label_fraction": label_fraction, "labelled_only": labelled_only}
    seen = {key: value for key, value in limits.items() if value is not None}
    content = planned(work, profile, source, None, as_list(methods), as_list(sources), ladder, seen)
    require_own_data(work, content)
    plan = Plan.of(content)
    check_plan(plan)
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
        pairs: whose pairs are S, as lldm,lldm/training,lldm/both,other/folder; default: the first method of the run.
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
    axes = {"pairs": pairs, "networks": networks, "tasks": tasks, "regimes": regimes, "until": until}
    grid = {key: as_list(value) for key, value in axes.items() if value}
    if "pairs" in grid:  # Snakemake has another current folder
        grid["pairs"] = [name if name.partition("/")[0] in method_names() else absolute(name) for name in grid["pairs"]]
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
    require_data(work, plan, {job.name for job in making})
    where = {"cores": cores, "gpus": gpus, "executor": executor, "jobs": jobs}
    execute(work, content, [*making, *selected_jobs(plan, stages=OF_STUDY)], dry_run, **where)
    if not dry_run:
        print(f"lldm3d: done; the tables are in {work / 'study'}, `lldm3d report --workdir {workdir}` shows them")


def leave_out_missing(work: Path, content: dict) -> None:
    """Take the pairs that the work directory neither holds nor can make from the axis of a plan, and print them."""
    plan = Plan.of(content)
    kept = pairs_at_hand(work, plan)
    for name in (name for name in plan.pairs if name not in kept):
        print(f"lldm3d: without {name}: neither its pairs nor its trained models are in {work}")
    if kept:
        content["settings"]["segment"]["pairs"] = content["grid"]["pairs"] = kept


def as_list(value: str | int | Sequence | None) -> list | None:
    """A comma-separated text, or what the command line has split already, as a list."""
    if value is None:
        return None
    return value.split(",") if isinstance(value, str) else list(value) if isinstance(value, Sequence) else [value]


def absolute(source: str | dict) -> str | dict:
    """A path made absolute; a label map given on the command line as it is."""
    return source if isinstance(source, dict) or "{" in source else str(Path(source).resolve())


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
    `ladder` it need not say the axes of the ladder. `seen` replaces those of its section `methods` that say what the
    methods see.
    """
    path = work / "run.yaml"
    before = read_plan(work) if path.is_file() else {"profile": "demo", "data": data}
    if data and data != before["data"]:
        made = before["data"] or "a phantom"
        raise UserError(f"{path}: this work directory was made from {made}, not from {data}; choose another --workdir")
    profile, kept = profile or before["profile"], {} if profile else before.get("grid", {})
    preset = load_profile(profile)["methods"]
    methods = methods or before.get("methods") or preset.get("names", [OURS])
    sources = sources or before.get("sources") or preset.get("sources", [DRAWN])
    for name in methods:
        load_method(name)
    grid = kept | (ladder_axes(methods) if ladder else {}) | (grid or {})
    sources = sources_with(sources, grid.get("pairs", []), methods)
    sources = [text if parse_source(text).folder is None else str(Path(text).resolve()) for text in sources]
    seen = before.get("seen", {}) | (seen or {})
    settings = load_profile(profile, grid, seen)
    named = profile if profile in BUILT_IN else str(Path(profile).resolve())
    kept = {"profile": named, "data": before["data"], "given": before.get("given", False), "grid": grid, "seen": seen}
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
    for folder in [work / place for place in places if place not in making]:
        for regime in section["regimes"]:
            found = folder if (folder / "dataset.json").is_file() else None
            regime_cases(work / "dataset", found, regime, section["seeds"][0])


def execute(work: Path, content: dict, selected: list[Job], dry_run: bool, **where) -> None:
    """Write `run.yaml` and have Snakemake do what is not done of the selected jobs, or list it and what it takes.

    Args:
        content: of `run.yaml`; the threads of each job are noted in it.
        where: `cores` and `gpus` of this machine, or `executor` and `jobs` of a cluster; see `run`.

    Raises UserError as `require_inputs` and `placed` do, and what `snakemake` raises.
    """
    require_inputs(work, Plan.of(content), selected)
    options, executor = placed(work, content, selected, **where), where["executor"]
    with locked(work / ".locks" / "run.lock", f"the work directory {work}"):
        if executor:
            refuse_left_over(work)
        shutil.rmtree(work / FAILURES, ignore_errors=True)
        adopt(work)
        left = jobs_to_do(work, selected)
        if dry_run:
            print("\n".join([f"lldm3d: {len(left)} stages would run in {work}", *(job.name for job in left)]))
        else:
            write_yaml(work / "run.yaml", content)
            # jobs of a cluster do not write to this terminal; here `all` hides faults of Snakemake's own as well, of
            # which `require_inputs` finds those that a user can cause, but less adds 14 lines to each stage that fails
            quiet = ["--quiet", "host", "reason"] if executor else ["--quiet", "all"]
            end = signal.SIGINT if executor else signal.SIGKILL
            if left:
                write_config(work / CONFIG, content, left)
                snakemake(work, work / CONFIG, [*options, *quiet], end)
    if dry_run and not executor:  # a cluster's login node would say nothing of its other nodes
        from lldm3d.pipeline.cost import print_cost

        print_cost(work, Plan.of(content), left)


def require_inputs(work: Path, plan: Plan, selected: list[Job]) -> None:
    """Raise UserError for files that jobs still to be done read, and that are neither there nor made by another one."""
    made = {path for job in selected for path in job.writes}
    makers = {path: job.name for job in all_jobs(plan) for path in job.writes}
    left = [job for job in selected if not all((work / path).exists() for path in job.writes)]
    missing = {path: job.name for job in left for path in job.reads if path not in made and not (work / path).exists()}
    faults = [
        f"{work / path}: is missing, and the stage {name} reads it; "
        + (f"make it with `lldm3d run --workdir {work} --until {makers[path]}`" if path in makers else "put it there")
        for path, name in missing.items()
    ]
    if faults:
        raise UserError("\n".join(faults))


def placed(
    work: Path,
    content: dict,
    selected: list[Job],
    cores: int | None,
    gpus: int | None,
    executor: str | None,
    jobs: int | None,
) -> list[str]:
    """Snakemake's options for where jobs run; the threads of each on this machine are noted in `content`.

    Raises UserError for a cluster that cannot be used, or for limits of the other place.
    """
    other = {"--cores": cores, "--gpus": gpus} if executor else {"--jobs": jobs}
    if given := [name for name, value in other.items() if value is not None]:
        limits = "a cluster: limit it with --jobs" if executor else "this machine: limit it with --cores and --gpus"
        raise UserError(f"{', '.join(given)} says nothing of {limits}, or choose with --executor where stages run")
    content["executor"] = executor
    if executor:
        check_executor(executor)
        content["threads"] = content["threads_alone"] = 1  # the cluster's section sets those of each stage
        return slurm_options(work, content["settings"]["cluster"], jobs or 20)
    cores = cores or usable_cores()
    # a training counts as one GPU; on a CPU two run at once, which there is a third faster than one after the other
    devices = gpus or len(visible_gpus())
    gpus = devices or min(2, cores)
    if wanting := {job.name: job.processes for job in selected if job.processes > gpus}:
        raise UserError(f"{wanting}: more processes than the {gpus} GPUs at once; lower them, or raise --gpus")
    content["threads"] = max(1, cores // gpus)
    # jobs that all others wait for, which on a CPU have all of it to themselves
    content["threads_alone"] = content["threads"] if devices else cores
    return ["--cores", str(cores), "--resources", f"gpu={gpus}"]


def write_config(path: Path, content: dict, selected: list[Job]) -> None:
    """Write the plan and the names of the selected jobs: Snakemake's config."""
    write_yaml(path, {**content, "selected": [job.name for job in selected]})


def adopt(work: Path) -> None:
    """Note what a run of version 0.8, which went by the times of files, has done with the settings in its run.yaml."""
    if (work / RECORDS).exists() or not (work / "run.yaml").is_file():
        return
    for job in all_jobs(Plan.of(read_plan(work))):
        made = [work / name for name in job.writes]
        reads = [(work / name).stat().st_mtime for name in job.reads if (work / name).is_file()]
        if all(path.is_file() and path.stat().st_mtime >= max(reads, default=0) for path in made):
            mark_done(work, job)


def snakemake(work: Path, config: Path, options: list[str], end: int) -> None:
    """Have Snakemake do the jobs of `config` in `work`. It ends with this process, and its jobs with it.

    The lock is ours, as Snakemake's stays behind when it is killed. Which jobs are to be done is ours as well
    (`jobs_to_do`): Snakemake goes by the times of files, which a copy or a wrong clock changes, and deletes what a job
    has made before it begins. It runs them in order, more than one at once, here or on a cluster.

    Args:
        end: the signal at which Snakemake ends its jobs: its death, where they are its children; an interrupt, where it
            has to cancel them on a cluster. It gets a session of its own, or a terminal would interrupt it twice.

    Raises:
        UserError, ChildError: what the job that failed raised.
    """
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE), "--directory", str(work)]
    command += ["--configfile", str(config), "--nolock", "--rerun-incomplete", "--forceall"]
    keywords = {"env": source_environment(), "start_new_session": end == signal.SIGINT}
    child = subprocess.Popen([*command, *options], preexec_fn=tied_to_me(end), **keywords)
    try:
        child.wait()
    finally:
        child.send_signal(end)  # nothing, where it has ended
        child.wait()
    if child.returncode:
        raise failure(work, child.returncode)


def failure(work: Path, status: int) -> Exception:
    """What each job that failed left as its message; when the fault is Snakemake's, what it said or logged last."""
    logs = sorted((work / ".snakemake" / "log").glob("*.log"), key=lambda log: log.stat().st_mtime)[-1:]
    log = "".join(path.read_text(errors="replace") for path in logs)
    left = [read_json(path) for path in sorted((work / FAILURES).rglob("*.json"))]
    ended = ended_by_slurm(log, reported=[found["stage"] for found in left])
    own = [found for found in left if found["stage"] not in ended]
    messages = {**ended, **{found["stage"]: found["message"] for found in own}}
    lines = [f"the stage {stage} stopped: {message}" for stage, message in messages.items()]
    if refused := refused_by_slurm(log):
        return UserError("\n".join([*refused, *lines]))
    if not lines:
        said = "".join(f"{path} ends:\n{tail(path)}" for path in logs)
        return ChildError(f"{work}: the workflow ended with status {status}; {said}")
    mistake = not ended and all(found["user"] for found in own)
    return UserError("\n".join(lines)) if mistake else ChildError("\n".join(lines))
