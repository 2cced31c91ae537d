"""Time limits of a cluster's jobs, from what their stages were measured to take on a node like those of the jobs."""

import math
from pathlib import Path

from lldm3d.files import read_json, sha256, write_json
from lldm3d.pipeline.configs import BUNDLES
from lldm3d.pipeline.plan import digest

FACTOR = 2  # over the measured steps: stages took up to 1.6 times as long (docs/scaling.md)
START = 10  # minutes for all else: a busy file system, compiling, the last validation


def keep_limits(work: Path, settings: dict, minutes: dict[str, float]) -> None:
    """Note the limit of each rule that was measured in `limits.json`; those of other rules stay.

    Args:
        minutes: of one job of each rule, by its steps alone.
    """
    path = work / "limits.json"
    found = read_json(path) if path.is_file() else {}
    for rule, value in minutes.items():
        runtime = math.ceil(FACTOR * value + START)
        found[rule] = {"measured": origin(work, settings, rule), "minutes": value, "runtime": runtime}
    write_json(path, found)


def measured_limits(work: Path, settings: dict) -> dict[str, dict[str, int]]:
    """`runtime` (minutes) of each rule that was measured with these settings and this data set."""
    path = work / "limits.json"
    found = read_json(path) if path.is_file() and (work / "dataset/dataset.json").is_file() else {}
    return {
        rule: {"runtime": item["runtime"]}
        for rule, item in found.items()
        if item["measured"] == origin(work, settings, rule)
    }


def origin(work: Path, settings: dict, rule: str) -> str:
    """What the time of a rule depends on."""
    sections = ["segment"] if rule == "segment" else [*BUNDLES, "generate"]
    return digest(sha256(work / "dataset/dataset.json"), [settings[section] for section in sections])
