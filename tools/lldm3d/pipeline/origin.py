"""What an unfinished stage began from, so that it goes on only when that is still the same."""

from pathlib import Path

from lldm3d.files import read_json, write_json


def same_origin(work: Path, stage: str, settings: dict, inputs: list[str]) -> bool:
    """Whether the stage last began from these settings and inputs; they are noted in `W/.origins/<stage>.json`.

    Args:
        inputs: files relative to `work`; a file that was written anew counts as another one.
    """
    path = work / ".origins" / f"{stage}.json"
    times = {name: (work / name).stat().st_mtime_ns for name in inputs}
    origin = {"settings": relative(settings, work), "inputs": times}
    same = path.is_file() and read_json(path) == origin
    write_json(path, origin)
    return same


def relative(settings: dict, work: Path) -> dict:
    """The settings with the work directory's own path taken out, so that moving it changes nothing."""
    return {key: value.replace(str(work), ".") if isinstance(value, str) else value for key, value in settings.items()}
