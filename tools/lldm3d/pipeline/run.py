"""Run the whole chain in a work directory: check everything, then hand over to Snakemake."""

import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from lldm3d.children import source_environment, tail, tied_to_me
from lldm3d.errors import ChildError, UserError
from lldm3d.files import read_json, whole
from lldm3d.locks import locked, visible_gpus
from lldm3d.pipeline.cluster import check_executor, ended_by_slurm, refuse_left_over, refused_by_slurm, slurm_options
from lldm3d.pipeline.configs import BUNDLES, processes_of
from lldm3d.pipeline.plan import GIVEN, all_stages, check_methods, check_stage, rules
from lldm3d.pipeline.profile import BUILT_IN, load_profile, read_yaml
from lldm3d.pipeline.stage import FAILURES, IN_WORKFLOW
from lldm3d.processes import usable_cores

SNAKEFILE = Path(__file__).parent / "Snakefile"


def run(
    workdir: str,
    profile: str | None = None,
    data: dict[str, str] | None = None,
    methods: list[str] | None = None,
    dry_run: bool = False,
    until: str | None = None,
    cores: int | None = None,
    gpus: int | None = None,
    executor: str | None = None,
    jobs: int | None = None,
) -> None:
    """Run the stages that are not done, or whose settings changed.

    Args:
        workdir: folder of all results; it remembers its profile and data in `run.yaml`.
        profile: demo, small, full or a YAML file; None: the remembered one, at first demo.
        data: arguments of `prepare` that name the user's data, absolute; None: the remembered one, at first a phantom.
        methods: compared at equal minutes of training, such as lldm, ddpm; None: the remembered ones, at first none.
        dry_run: only list what would run and, of a prepared data set, what it takes on this machine.
        until: the last stage to run.
        cores: CPU cores to use at once; None: all.
        gpus: GPUs to use at once; None: all.
        executor: slurm sends the stages to a cluster; None: they run on this machine.
        jobs: largest number of the cluster's jobs at once; None: 20.

    Raises:
        UserError: for a mistake in the profile or data, a work directory in use, or a stage that stopped with one.
        ChildError: when a stage failed.
    """
    work = Path(workdir).resolve()
    plan = planned(work, profile, data, methods=methods)
    require_chain(work, plan)
    if until is not None:
        check_stage(until, rules(plan))
    where = {"cores": cores, "gpus": gpus, "executor": executor, "jobs": jobs}
    stages = execute(work, plan, ["--until", until] if until else [], dry_run, **where)
    if dry_run and not executor:  # a cluster's login node would tell nothing of its other nodes
        from lldm3d.pipeline.cost import tell_cost

        tell_cost(work, plan, stages)
    if not dry_run:
        print(
            f"lldm3d: done until {until}" if until else f"lldm3d: done; the report is {work / 'report' / 'report.html'}"
        )


def execute(work: Path, plan: dict, target: list[str], dry_run: bool, **where) -> list[str] | None:
    """Write `run.yaml` and have Snakemake run what is not done of `target`, its options; a dry run lists the stages.

    Args:
        where: `cores` and `gpus` of this machine, or `executor` and `jobs` of a cluster; see `run`.
    """
    options, executor = [*target, *placed(work, plan, **where)], where["executor"]
    with locked(work / ".locks" / "run.lock", f"the work directory {work}"):
        if executor:
            refuse_left_over(work)
        shutil.rmtree(work / FAILURES, ignore_errors=True)
        if dry_run:
            return dry(work, plan, options)
        with whole(work / "run.yaml") as temporary:
            temporary.write_text(yaml.safe_dump(plan, sort_keys=False))
        quiet = ["--quiet", "host", "reason"] if executor else ["--quiet", "all"]  # jobs do not write to this terminal
        snakemake(work, work / "run.yaml", [*options, *quiet], signal.SIGINT if executor else signal.SIGKILL)


def placed(
    work: Path, plan: dict, cores: int | None, gpus: int | None, executor: str | None, jobs: int | None
) -> list[str]:
    """Snakemake's options for where stages run; the threads of each on this machine are noted in `plan`.

    Raises UserError for a cluster that cannot be used, or for limits of the other place.
    """
    other = {"--cores": cores, "--gpus": gpus} if executor else {"--jobs": jobs}
    if given := [name for name, value in other.items() if value is not None]:
        limits = "a cluster: limit it with --jobs" if executor else "this machine: limit it with --cores and --gpus"
        raise UserError(f"{', '.join(given)} says nothing of {limits}, or choose with --executor where stages run")
    if executor:
        check_executor(executor)
        plan["threads"] = plan["threads_alone"] = 1  # slurm_options sets those of each stage
        return slurm_options(work, plan["settings"], rules(plan), jobs or 20)
    cores = cores or usable_cores()
    # a training counts as one GPU; on a CPU two run at once, which there is a third faster than one after the other
    devices = gpus or len(visible_gpus())
    gpus = devices or min(2, cores)
    require_gpus(plan["settings"], gpus)
    plan["threads"] = max(1, cores // gpus)
    # stages that all others wait for, which on a CPU have all of it to themselves
    plan["threads_alone"] = plan["threads"] if devices else cores
    return ["--cores", str(cores), "--resources", f"gpu={gpus}"]


def require_gpus(settings: dict, gpus: int) -> None:
    """Raise UserError for stages of more processes than GPUs are used at once."""
    processes = {stage: processes_of(settings[stage]) for stage in (*BUNDLES, "generate")}
    if wanting := {f"{stage}#processes": number for stage, number in processes.items() if number > gpus}:
        raise UserError(f"{wanting}: more than the {gpus} GPUs at once; lower them in the profile, or raise --gpus")


def require_chain(work: Path, plan: dict) -> None:
    """Raise UserError where the data set was not made by the chain, which would replace it."""
    made = (work / "run.yaml").is_file() or plan["data"]
    if plan["data"] == GIVEN or not made and (work / "dataset" / "dataset.json").is_file():
        raise UserError(
            f"{work / 'dataset'}: was not made by `lldm3d run`, which would replace it; train the segmentations with "
            "`lldm3d study`, or choose another --workdir"
        )


def planned(
    work: Path,
    profile: str | None,
    data: dict[str, str] | None,
    grid: dict | None = None,
    methods: list[str] | None = None,
) -> dict:
    """The content of `run.yaml`: profile, data and all settings; what is None is taken from the last run.

    `grid` replaces entries of the profile's `segment` section, and is remembered until another profile is given.
    """
    path = work / "run.yaml"
    before = read_yaml(path, "delete it to begin anew") if path.is_file() else {"profile": "demo", "data": data}
    if data and data != before["data"]:
        made = before["data"] or "a phantom"
        raise UserError(f"{path}: this work directory was made from {made}, not from {data}; choose another --workdir")
    grid = ({} if profile else before.get("grid", {})) | (grid or {})
    profile, methods = profile or before["profile"], methods or before.get("methods", [])
    check_methods(methods)
    settings = load_profile(profile, grid)
    named = profile if profile in BUILT_IN else str(Path(profile).resolve())
    return {"profile": named, "data": before["data"], "grid": grid, "methods": methods, "settings": settings}


def dry(work: Path, plan: dict, options: list[str]) -> list[str]:
    """Print and return the stages that would run; the work directory keeps the settings it has."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(plan, file)
        file.flush()
        options = [*options, "--dry-run", "--printshellcmds"]
        shown = snakemake(work, Path(file.name), options, signal.SIGKILL, stdout=subprocess.PIPE)
    stages = sorted(re.findall(r"lldm3d stage --workdir \. (\S+)", shown), key=all_stages(plan).index)
    print("\n".join([f"lldm3d: {len(stages)} stages would run in {work}", *stages]))
    return stages


def snakemake(work: Path, config: Path, options: list[str], end: int, **keywords) -> str | None:
    """Run Snakemake in `work` and give its captured output. It ends with this process, and its jobs with it.

    The lock is ours, as Snakemake's stays behind when it is killed. Only times, settings and inputs make a stage run
    again: not this package's code, or an update would throw away a week of training.

    Args:
        end: the signal at which Snakemake ends its jobs: its death, where they are its children; an interrupt, where it
            has to cancel them on a cluster. It gets a session of its own, or a terminal would interrupt it twice.

    Raises:
        UserError, ChildError: what the stage that failed raised.
    """
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE), "--directory", str(work)]
    command += ["--configfile", str(config), "--nolock", "--rerun-incomplete"]
    command += ["--rerun-triggers", "mtime", "params", "input", "--max-checksum-file-size", "0"]
    environment = {**source_environment(), IN_WORKFLOW: "1"}
    keywords |= {"env": environment, "text": True, "start_new_session": end == signal.SIGINT}
    child = subprocess.Popen([*command, *options], preexec_fn=tied_to_me(end), **keywords)
    try:
        output, _ = child.communicate()
    finally:
        child.send_signal(end)  # nothing, where it has ended
        child.wait()
    if child.returncode:
        raise failure(work, child.returncode, output or "")
    return output


def failure(work: Path, status: int, output: str) -> Exception:
    """What each stage that failed left as its message; when the fault is Snakemake's, what it said or logged last."""
    logs = sorted((work / ".snakemake" / "log").glob("*.log"), key=lambda log: log.stat().st_mtime)[-1:]
    log = "".join(path.read_text(errors="replace") for path in logs)
    left = [read_json(path) for path in sorted((work / FAILURES).rglob("*.json"))]
    ended = ended_by_slurm(log, told=[found["stage"] for found in left])
    own = [found for found in left if found["stage"] not in ended]
    messages = {**ended, **{found["stage"]: found["message"] for found in own}}
    lines = [f"the stage {stage} stopped: {message}" for stage, message in messages.items()]
    if refused := refused_by_slurm(log):
        return UserError("\n".join([*refused, *lines]))
    if not lines:
        said = output or "".join(f"{path} ends:\n{tail(path)}" for path in logs)
        return ChildError(f"{work}: the workflow ended with status {status}; {said}")
    mistake = not ended and all(found["user"] for found in own)
    return UserError("\n".join(lines)) if mistake else ChildError("\n".join(lines))
