"""Wall-clock time and peak memory of a whole chain, the time of each stage, the losses, and what the report says.

    python -m benchmarks.chain --profile demo --workdir work/demo
    python -m benchmarks.chain --profile demo --workdir work/both --source . --source ../3D-LLDM_0.7.2

Runs `lldm3d run` of this checkout, or of others one after the other, each in a folder of its own in the work directory,
and prints JSON; further arguments are those of `lldm3d run`. Memory is the sum over all processes of the run
(proportional set size), sampled every second. Stages that were done before are not run again; their times are those of
then. `losses` are those of the last epoch, `val_loss` that of the last validation.
"""

import argparse
import csv
import json
import os
import sys
from pathlib import Path

from benchmarks.machine import ROOT, describe
from benchmarks.watch import watched

DIFFUSIONS = ("label_ldm", "image_ldm", "controlnet")


def stage_seconds(work: Path) -> dict[str, float]:
    """How long each stage took, as Snakemake noted it.

    On a CPU two trainings run at once, so that the sum is more than the time of the run.
    """
    records = [json.loads(path.read_text()) for path in work.glob(".snakemake/metadata/*")]
    records.sort(key=lambda record: record["endtime"])
    return {record["shellcmd"].split()[-1]: round(record["endtime"] - record["starttime"], 1) for record in records}


def losses(work: Path) -> dict[str, dict[str, float]]:
    """The last values of each diffusion's curves, wherever the layout of that version has them."""
    found = {}
    for name in DIFFUSIONS:
        for path in sorted(work.rglob(f"{name}/metrics.json")):
            curves = json.loads(path.read_text())
            last = {key: curves[key][-1] for key in ("loss", "val_loss") if curves.get(key)}
            found[path.parent.relative_to(work).as_posix()] = last
    return found


def tables(work: Path) -> list[dict]:
    """The rows of the report's tables, without empty fields."""
    path = work / "report" / "tables.csv"
    if not path.is_file():
        return []
    with open(path, newline="") as file:
        return [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]


def measured(source: Path, work: Path, arguments: list[str]) -> dict:
    """One run by the package in `source`/tools."""
    command = [sys.executable, "-m", "lldm3d", "run", "--workdir", str(work), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(source / "tools")}
    found = watched(command, stdout=sys.stderr, env=environment, cwd=source)
    about = {"command": "lldm3d run " + " ".join(Path(item).name if "/" in item else item for item in arguments)}
    results = {"losses": losses(work), "stage_seconds": stage_seconds(work), "tables": tables(work)}
    return {**about, **found, **results, "machine": describe(source)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, type=Path)
    parser.add_argument("--source", action="append", type=Path, help="a checkout; default: this one")
    options, arguments = parser.parse_known_args()
    sources, work = [item.resolve() for item in options.source or [ROOT]], options.workdir.resolve()
    works = [work / f"{place}_{source.name}" for place, source in enumerate(sources)] if len(sources) > 1 else [work]
    found = [measured(source, folder, arguments) for source, folder in zip(sources, works, strict=True)]
    print(json.dumps(found if len(found) > 1 else found[0], indent=1))
    sys.exit(max(item["status"] for item in found))


if __name__ == "__main__":
    main()
