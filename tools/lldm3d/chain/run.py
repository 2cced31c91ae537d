"""Run the whole chain in a work directory: check everything, then hand over to Snakemake."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from lldm3d.chain.lock import locked, visible_gpus
from lldm3d.chain.plan import GIVEN, all_stages, check_stage, rules
from lldm3d.chain.process import ChildError, source_environment, tail, tied_to_me
from lldm3d.chain.profile import BUILT_IN, load_profile, read_yaml
from lldm3d.chain.stage import FAILURE, IN_WORKFLOW
from lldm3d.errors import UserError
from lldm3d.files import read_json, whole

SNAKEFILE = Path(__file__).parent / "Snakefile"


def run(
    workdir: str,
    profile: str | None = None,
    data: dict[str, str] | None = None,
    dry_run: bool = False,
    until: str | None = None,
    cores: int | None = None,
    gpus: int | None = None,
) -> None:
    """Run the stages that are not done, or whose settings changed.

    Args:
        workdir: folder of all results; it remembers its profile and data in `run.yaml`.
        profile: demo, small, full or a YAML file; None: the remembered one, at first demo.
        data: arguments of `prepare` that name the user's data, absolute; None: the remembered one, at first a phantom.
        dry_run: only list what would run.
        until: the last stage to run.
        cores: CPU cores to use at once; None: all.
        gpus: GPUs to use at once; None: all.

    Raises:
        UserError: for a mistake in the profile or data, a work directory in use, or a stage that stopped with one.
        ChildError: when a stage failed.
    """
    work = Path(workdir).resolve()
    plan = planned(work, profile, data)
    require_chain(work, plan)
    if until is not None:
        check_stage(until, rules(plan))
    execute(work, plan, ["--until", until] if until else [], dry_run, cores, gpus)
    if not dry_run:
        print(
            f"lldm3d: done until {until}" if until else f"lldm3d: done; the report is {work / 'report' / 'report.html'}"
        )


def execute(
    work: Path, plan: dict, target: list[str], dry_run: bool, cores: int | None, gpus: int | None
) -> list[str] | None:
    """Write `run.yaml` and have Snakemake run what is not done of `target`, its options; a dry run lists the stages."""
    cores = cores or usable_cores()
    # a training counts as one GPU; on a CPU two run at once, which there is a third faster than one after the other
    devices = gpus or len(visible_gpus())
    gpus = devices or min(2, cores)
    plan["threads"] = max(1, cores // gpus)
    # stages that all others wait for, which on a CPU have all of it to themselves
    plan["threads_alone"] = plan["threads"] if devices else cores
    options = [*target, "--cores", str(cores), "--resources", f"gpu={gpus}"]
    with locked(work / ".locks" / "run.lock", f"the work directory {work}"):
        (work / FAILURE).unlink(missing_ok=True)
        if dry_run:
            return dry(work, plan, options)
        with whole(work / "run.yaml") as temporary:
            temporary.write_text(yaml.safe_dump(plan, sort_keys=False))
        snakemake(work, work / "run.yaml", [*options, "--quiet", "all"])


def usable_cores() -> int:
    """The cores that this process may use: in a container or a cluster's job fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def require_chain(work: Path, plan: dict) -> None:
    """Raise UserError where the data set was not made by the chain, which would replace it."""
    made = (work / "run.yaml").is_file() or plan["data"]
    if plan["data"] == GIVEN or not made and (work / "dataset" / "dataset.json").is_file():
        raise UserError(
            f"{work / 'dataset'}: was not made by `lldm3d run`, which would replace it; train the segmentations with "
            "`lldm3d study`, or choose another --workdir"
        )


def planned(work: Path, profile: str | None, data: dict[str, str] | None, grid: dict | None = None) -> dict:
    """The content of `run.yaml`: profile, data and all settings; what is None is taken from the last run.

    `grid` replaces entries of the profile's `segment` section, and is remembered until another profile is given.
    """
    path = work / "run.yaml"
    before = read_yaml(path, "delete it to begin anew") if path.is_file() else {"profile": "demo", "data": data}
    if data and data != before["data"]:
        made = before["data"] or "a phantom"
        raise UserError(f"{path}: this work directory was made from {made}, not from {data}; choose another --workdir")
    grid = ({} if profile else before.get("grid", {})) | (grid or {})
    profile = profile or before["profile"]
    settings = load_profile(profile, grid)
    named = profile if profile in BUILT_IN else str(Path(profile).resolve())
    return {"profile": named, "data": before["data"], "grid": grid, "settings": settings}


def dry(work: Path, plan: dict, options: list[str]) -> list[str]:
    """Print and return the stages that would run; the work directory keeps the settings it has."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(plan, file)
        file.flush()
        shown = snakemake(work, Path(file.name), [*options, "--dry-run", "--printshellcmds"], stdout=subprocess.PIPE)
    stages = sorted(re.findall(r"lldm3d stage --workdir \. (\S+)", shown), key=all_stages(plan).index)
    print("\n".join([f"lldm3d: {len(stages)} stages would run in {work}", *stages]))
    return stages


def snakemake(work: Path, config: Path, options: list[str], **keywords) -> str | None:
    """Run Snakemake in `work` and give its captured output. It dies with this process, and its jobs with it.

    The lock is ours, as Snakemake's stays behind when it is killed. Only times, settings and inputs make a stage run
    again: not this package's code, or an update would throw away a week of training.

    Raises:
        UserError, ChildError: what the stage that failed raised.
    """
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE), "--directory", str(work)]
    command += ["--configfile", str(config), "--nolock", "--rerun-incomplete"]
    command += ["--rerun-triggers", "mtime", "params", "input", "--max-checksum-file-size", "0"]
    environment = {**source_environment(), IN_WORKFLOW: "1"}
    child = subprocess.Popen(
        [*command, *options], env=environment, text=True, preexec_fn=tied_to_me(signal.SIGKILL), **keywords
    )
    try:
        output, _ = child.communicate()
    finally:
        child.kill()
        child.wait()
    if child.returncode:
        raise failure(work, child.returncode, output or "")
    return output


def failure(work: Path, status: int, output: str) -> Exception:
    """What the stage that failed left as its message; when the fault is Snakemake's, what it said or logged last."""
    path = work / FAILURE
    if not path.is_file():
        logs = sorted((work / ".snakemake" / "log").glob("*.log"), key=lambda log: log.stat().st_mtime)
        said = output or "".join(f"{log} ends:\n{tail(log)}" for log in logs[-1:])
        return ChildError(f"{work}: the workflow ended with status {status}; {said}")
    found = read_json(path)
    message = f"the stage {found['stage']} stopped: {found['message']}"
    return UserError(message) if found["user"] else ChildError(message)
