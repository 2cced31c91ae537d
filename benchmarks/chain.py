"""Wall-clock time and peak memory of a whole chain, the time of each stage, and what the report says.

    python -m benchmarks.chain --workdir work/demo --profile demo

Runs `lldm3d run` with the same arguments and prints JSON. Memory is the sum over all processes of the run (proportional
set size), sampled every second. Stages that were done before are not run again; their times are those of then.
"""

import csv
import json
import sys
from pathlib import Path

from benchmarks.machine import describe
from benchmarks.watch import watched


def stage_seconds(work: Path) -> dict[str, float]:
    """How long each stage took, as Snakemake noted it.

    On a CPU two trainings run at once, so that the sum is more than the time of the run.
    """
    records = [json.loads(path.read_text()) for path in work.glob(".snakemake/metadata/*")]
    records.sort(key=lambda record: record["endtime"])
    return {record["shellcmd"].split()[-1]: round(record["endtime"] - record["starttime"], 1) for record in records}


def tables(work: Path) -> list[dict]:
    """The rows of the report's tables, without empty fields."""
    path = work / "report" / "tables.csv"
    if not path.is_file():
        return []
    with open(path, newline="") as file:
        return [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]


def main() -> None:
    if "--workdir" not in sys.argv:
        sys.exit("usage: python -m benchmarks.chain --workdir W [further arguments of `lldm3d run`]")
    work = Path(sys.argv[sys.argv.index("--workdir") + 1])
    found = watched([sys.executable, "-m", "lldm3d", "run", *sys.argv[1:]], stdout=sys.stderr)
    result = {
        "command": "lldm3d run " + " ".join(Path(item).name if "/" in item else item for item in sys.argv[1:]),
        **found,
        "stage_seconds": stage_seconds(work),
        "machine": describe(),
        "tables": tables(work),
    }
    print(json.dumps(result, indent=1))
    sys.exit(found["status"])


if __name__ == "__main__":
    main()
