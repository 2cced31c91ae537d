"""Checks between jobs: what is done already, and that the files which a job reads are whole and fit each other."""

import shutil
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from lldm3d.data.dataset import SPLITS
from lldm3d.errors import UserError
from lldm3d.files import checksum, read_json, sha256, write_json
from lldm3d.pipeline.plan import DATASET, FINISHED, digest
from lldm3d.pipeline.stages import Job
from lldm3d.study.stages import RECORDS

KEPT = ("*.pt", "encoded/latents.json", "labels.json", "shapes.json")  # what later jobs read of a training's folder
PASSING = ("state.pt", "state.old.pt")  # checkpoints that are no results
LISTS = ("dataset.json", "labels.json")  # which name volumes
UNCHANGING = ("tasks",)  # entries of dataset.json that may change without changing its cases


REPLACED = ".replaced"  # models that were finished, until others are whole in their place
TRAINED = ("train", "segment")  # stages whose folders hold models


def depends_on(work: Path, job: Job) -> dict | None:
    """Settings and content of what a job reads, and the task that it learns; None where one is missing or broken."""
    return _depends_on(work, job, identity)


def _depends_on(work: Path, job: Job, identify: Callable[[Path], str]) -> dict | None:
    try:
        found = {"settings": job.digest, "inputs": {name: identify(work / name) for name in job.reads}}
        task = job.values.get("task")  # what it merges is no part of the data's identity
        merged = read_json(work / DATASET).get("tasks", {}).get(task) if task else None
        return found | {"task": merged} if merged else found
    except (UserError, OSError, KeyError, TypeError, AttributeError):
        return None


def is_done(work: Path, job: Job) -> bool:
    """Whether a job was done with the settings and inputs of now, and what it wrote is there."""
    record = work / RECORDS / f"{job.name}.json"
    try:
        if not all(is_whole(work / name) for name in job.writes):
            return False
        found = read_json(record)
    except (UserError, OSError, KeyError, TypeError, AttributeError):
        return False
    for identify in (identity, fingerprint):  # the latter as before 0.17
        now = _depends_on(work, job, identify)
        if now and isinstance(found, dict) and "task" not in found:  # as before 0.21
            now.pop("task", None)
        if found == now:
            return True
    return False


def is_whole(path: Path) -> bool:
    """Whether a file is there, and with a list the volumes that it names."""
    return path.is_file() and (path.name not in LISTS or all(volume.is_file() for volume in volumes_in(path)))


def jobs_to_do(work: Path, jobs: Sequence[Job]) -> list[Job]:
    """Those of the jobs, in order, that are not done, and all that read what these write."""
    found: list[Job] = []
    changed: set[str] = set()
    for job in jobs:
        if changed.intersection(job.reads) or not is_done(work, job):
            found.append(job)
            changed.update(job.writes)
    return found


def is_trained(work: Path, job: Job) -> bool:
    """Whether there is a finished model of a job, with whatever settings."""
    return job.stage in TRAINED and (work / job.name).is_dir() and (work / RECORDS / f"{job.name}.json").is_file()


def set_aside(work: Path, job: Job, found: dict) -> None:
    """Move a finished model that will be trained anew out of the way, with its record; `found` is of the new one."""
    record, aside, folder = work / RECORDS / f"{job.name}.json", work / REPLACED / job.name, work / job.name
    if is_trained(work, job) and read_json(record) != found:
        forget_replaced(work, job)
        aside.parent.mkdir(parents=True, exist_ok=True)
        record.rename(aside.with_name(f"{aside.name}.json"))  # first: a model without a record would never come back
        folder.rename(aside)


def put_back(work: Path, job: Job, found: dict) -> bool:
    """Put a finished model back that was trained with the settings and inputs `found`, after a slip; whether it was."""
    aside = work / REPLACED / job.name
    record = aside.with_name(f"{aside.name}.json")
    if not record.is_file() or read_json(record) != found:
        return False
    if aside.is_dir():
        shutil.rmtree(work / job.name, ignore_errors=True)
        aside.rename(work / job.name)
    elif not all(is_whole(work / name) for name in job.writes):  # else a kill came between two moves, here or there
        return False
    (work / RECORDS / job.name).parent.mkdir(parents=True, exist_ok=True)
    record.rename(work / RECORDS / f"{job.name}.json")
    return True


def mark_done(work: Path, job: Job, found: dict | None = None) -> None:
    """Note that a job is done, from what it depended on (by default now); what it replaces is deleted."""
    write_json(work / RECORDS / f"{job.name}.json", found or depends_on(work, job))
    forget_replaced(work, job)


def forget_replaced(work: Path, job: Job) -> None:
    aside = work / REPLACED / job.name
    aside.with_name(f"{aside.name}.json").unlink(missing_ok=True)
    shutil.rmtree(aside, ignore_errors=True)


def finish(work: Path, job: Job) -> None:
    """Write `finished.json`: hashes of what a training left, and of what it was made from."""
    folder = work / job.name
    files = sorted(path for pattern in KEPT for path in folder.glob(pattern) if path.name not in PASSING)
    content = {
        "files": {path.relative_to(folder).as_posix(): sha256(path) for path in files},
        "inputs": {name: fingerprint(work / name) for name in job.reads},
    }
    write_json(folder / FINISHED, content)


def fingerprint(path: Path) -> str:
    """What identifies a file that a job reads: of a data set all but its tasks, of a training what it left."""
    if path.name == FINISHED:
        return digest(read_json(path)["files"])
    if path.name == Path(DATASET).name and path.parent.name == Path(DATASET).parent.name:
        return digest({key: value for key, value in read_json(path).items() if key not in UNCHANGING})
    return sha256(path)


def identity(path: Path) -> str:
    """What identifies a file that a job reads: of a list the volumes as well, since others may have the same names."""
    found = fingerprint(path)
    if path.name not in LISTS:
        return found
    about = path.stat()
    return digest(found, _checksums(path, about.st_ino, about.st_mtime_ns))


def volumes_in(path: Path) -> list[Path]:
    """The volumes that a dataset.json or labels.json names."""
    content = read_json(path)
    if path.name == "labels.json":
        return [path.parent / entry["path"] for entry in content["labels"]]
    entries = [entry for split in SPLITS for entry in content.get(split) or []]
    return [path.parent / entry[key] for entry in entries for key in ("image", "label") if key in entry]


@lru_cache
def _checksums(path: Path, *_: int) -> list[str]:
    """Of each volume of a list; read once for each state of the list."""
    return [checksum(volume) for volume in volumes_in(path)]


def check_inputs(work: Path, job: Job) -> None:
    """Raises UserError where what a job reads is missing, broken, or not made from what lies there now."""
    for name in job.reads:
        path = work / name
        if not path.is_file():
            maker = {"dataset": "prepare", "data": "phantom"}.get(Path(name).parts[0], Path(name).parent.as_posix())
            raise UserError(f"{path}: no such file, but {job.name} reads it; run the stage {maker!r} first")
        if path.name == FINISHED:
            check_finished(work, path)


def check_finished(work: Path, path: Path) -> None:
    """Raises UserError where a training's files have changed since it ended, or it was made from other ones."""
    content, folder = read_json(path), path.parent
    name = folder.relative_to(work).as_posix()
    again = f"delete {path} and run the stage {name!r} again"
    for file, expected in content["files"].items():
        if not (folder / file).is_file():
            raise UserError(f"{folder / file}: no such file, though {path} lists it; {again}")
        if sha256(folder / file) != expected:
            raise UserError(
                f"{folder / file}: is not what {path} says, so it is damaged or of another training; {again}"
            )
    for other, expected in content["inputs"].items():
        if (work / other).is_file() and fingerprint(work / other) != expected:
            raise UserError(f"{folder}: was made with another version of {work / other}; {again}")


def check_gates(method_dir: Path, sections: dict[str, dict]) -> None:
    """Stop before a training that learns from poor ones: nothing later can make up for that.

    Args:
        method_dir: folder of the trainings.
        sections: of the profile, by training; their `gate` has the least of metrics of `metrics.json`.

    Raises:
        UserError: with all metrics that are too low.
    """
    faults = []
    for training, section in sections.items():
        path = method_dir / training / "metrics.json"
        for metric, least in section.get("gate", {}).items():
            value = read_json(path).get(metric)
            if value is None or not value >= least:  # NaN fails too
                shown = "missing" if value is None else f"{value:.4g}"
                faults.append(
                    f"{path}: {metric} is {shown}, below the gate of {least:g}; train {training} longer (raise its "
                    "epochs) or with more channels in the profile, or lower its gate there"
                )
    if faults:
        raise UserError("\n".join(faults))


def same_beginning(work: Path, name: str, settings: dict, inputs: tuple[str, ...]) -> bool:
    """Whether a job last began from these settings and inputs; they are noted in `W/.begun/<job>.json`.

    Args:
        inputs: files relative to `work`.
    """
    path = work / ".begun" / f"{name}.json"
    found = {key: value.replace(str(work), ".") if isinstance(value, str) else value for key, value in settings.items()}
    begun, earlier = (  # the latter before 0.17
        {"settings": found, "inputs": {item: identify(work / item) for item in inputs}}
        for identify in (identity, fingerprint)
    )
    same = path.is_file() and read_json(path) in (begun, earlier)
    write_json(path, begun)
    return same
