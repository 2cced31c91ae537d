"""The axes of a study that follow from others: those of the ladder, and the pairs that are yet to be made for them."""

from collections.abc import Iterable
from pathlib import Path

from lldm3d.files import read_json
from lldm3d.methods.registry import load_method
from lldm3d.pairs.sources import DRAWN, JOINED, WRITTEN
from lldm3d.pipeline.plan import Plan, needed_pairs, number_of_labelled, pairs_of
from lldm3d.pipeline.stages import Job, labels_jobs, pairs_jobs, real_segment_jobs
from lldm3d.study.stages import RUNGS, UNTIL


def ladder_axes(methods: Iterable[str]) -> dict[str, list[str]]:
    """Axes of the section `segment` with which a study climbs the ladder: R, and S of each rung of each method."""
    loaded = [load_method(name) for name in methods]
    drawn = any(method.draws_labels for method in loaded)
    pairs = [
        method.name if source == DRAWN else f"{method.name}/{source}"
        for method in loaded
        for source in RUNGS
        if method.has_labels
        and source in method.sources
        and source not in JOINED
        and (source != DRAWN or drawn or not method.needs_drawn_labels)
    ]
    return {"regimes": ["R", "S"], "until": list(UNTIL), **({"pairs": pairs} if pairs else {})}


def sources_with(sources: list[str], pairs: Iterable[str], methods: Iterable[str]) -> list[str]:
    """The sources of labels of a run, with those that pairs of the study name."""
    named = [name.partition("/") for name in pairs]
    own = [source or load_method(method).sources[0] for method, _, source in named if method in methods]
    return list(dict.fromkeys([*sources, *own]))


def pairs_to_make(work: Path, plan: Plan) -> list[Job]:
    """The jobs, in order, of pairs on the study's axis that are not there, or fewer than a regime takes, but whose
    models are. Raises UserError where the profile wants fewer than a regime takes."""
    jobs = [] if plan.given else [*labels_jobs(plan), *real_segment_jobs(plan), *pairs_jobs(plan)]
    there = {job for job in jobs if (work / job.writes[0]).is_file()}
    growing = {job for job in there if job.values.get("source") in (DRAWN, *WRITTEN, *JOINED)}
    at_least = needed_pairs(plan, number_of_labelled(work)) if growing else 0
    few = {job for job in growing if length_of_list(work, job) < at_least}
    left = [job for job in jobs if job not in there or job in few]
    able: list[Job] = []
    while new := [job for job in left if job not in able and within_reach(work, job, able)]:
        able += new
    makers = {path: job for job in able for path in job.writes}
    wanted, needed = wanted_pairs(plan, plan.pairs), set()
    while wanted:
        job = makers.get(wanted.pop())
        if job and job.name not in needed:
            needed.add(job.name)
            wanted += job.reads
    return [job for job in able if job.name in needed]


def length_of_list(work: Path, job: Job) -> int:
    """How many labels or pairs the list of a job names."""
    return len(read_json(work / job.writes[0])["labels" if job.stage == "labels" else "training"])


def within_reach(work: Path, job: Job, able: list[Job]) -> bool:
    """Whether all that a job reads is there, or made by one of the jobs that are able."""
    made = {path for other in able for path in other.writes}
    return all(path in made or (work / path).is_file() for path in job.reads)


def wanted_pairs(plan: Plan, names: Iterable[str]) -> list[str]:
    """The `dataset.json` of the pairs of these names for all seeds of the segmentations."""
    seeds = plan.settings["segment"]["seeds"]
    return list(dict.fromkeys(f"{pairs_of(plan, name, seed)}/dataset.json" for name in names for seed in seeds))


def pairs_at_hand(work: Path, plan: Plan) -> list[str]:
    """The names on the axis of pairs of those that are there, or that `pairs_to_make` makes."""
    made = {path for job in pairs_to_make(work, plan) for path in job.writes}
    return [
        name
        for name in plan.pairs
        if all(path in made or (work / path).is_file() for path in wanted_pairs(plan, [name]))
    ]
