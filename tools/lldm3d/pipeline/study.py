"""Run the study: all segmentations of a grid, on a data set and synthetic pairs that are there."""

from pathlib import Path

from lldm3d.data.dataset import load_cases, load_schema
from lldm3d.data.regimes import regime_cases
from lldm3d.errors import UserError
from lldm3d.pipeline.plan import GIVEN
from lldm3d.pipeline.run import execute, planned

TARGET = ["study", "--allowed-rules", "segment", "study"]  # nothing before these rules is made again


def study(
    workdir: str,
    profile: str | None = None,
    grid: dict | None = None,
    dry_run: bool = False,
    **where,
) -> None:
    """Train what is not done of the grid, and write W/study.

    Args:
        workdir: holds `dataset/`, and `synthetic/` if a regime needs it: from `lldm3d run`, or from another program.
        profile: whose section `segment` is taken; None: the remembered one, at first small.
        grid: networks, tasks, regimes and seeds that replace the profile's.
        dry_run: only list the trainings and what they cost.
        where: `cores` and `gpus` of this machine, or `executor` and `jobs` of a cluster; see `lldm3d.pipeline.run.run`.

    Raises:
        UserError: where the data or the synthetic pairs do not suffice for the grid, before any training.
        ChildError: when a training failed.
    """
    work = Path(workdir).resolve()
    if not (work / "run.yaml").is_file():
        plan = planned(work, profile or "small", GIVEN, grid)
    else:
        plan = planned(work, profile, None, grid)
    require_data(work, plan["settings"]["segment"])
    stages = execute(work, plan, TARGET, dry_run, **where)
    if not dry_run:
        print(f"lldm3d: done; the tables are in {work / 'study'}, `lldm3d report --workdir {workdir}` shows them")
    elif not where.get("executor"):  # a cluster's login node would tell nothing of its other nodes
        from lldm3d.pipeline.study_cost import tell_cost

        tell_cost(work, plan, [stage for stage in stages if stage.startswith("segment/")])


def require_data(work: Path, section: dict) -> None:
    """Raises UserError where the grid's tasks or regimes cannot be had from the data, or nothing is held out."""
    schema, made = load_schema(work / "dataset"), work / "synthetic"
    for task in section["tasks"]:
        schema.task(task)
    for split in ("validation", "test"):
        if not load_cases(work / "dataset", split):
            raise UserError(f"{work / 'dataset' / 'dataset.json'}: has no {split} cases; a study needs real ones")
    for regime in section["regimes"]:
        regime_cases(work / "dataset", made if made.is_dir() else None, regime, section["seeds"][0])
