"""The table of stages: what each reads and writes, what it depends on, how it is run, and what it is called.

A job is one run of a stage, such as the training of one network with one seed. The Snakefile's rules, `--until`, a dry
run, the order of jobs, the checks between them, a cluster's requests and a report's commands all follow from the jobs
of a plan. Read without torch.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from lldm3d.errors import UserError, did_you_mean
from lldm3d.files import checksum, sha256
from lldm3d.methods.registry import IMAGE_CODEC, OURS
from lldm3d.pairs.sources import (
    BOTH,
    DRAWN,
    EDIT_SETTINGS,
    EDITED,
    JOINED,
    RECONSTRUCTED,
    SHAPES,
    TRAINING,
    VOTED,
    WARPED,
    WRITTEN,
    labels_in,
    parse_source,
)
from lldm3d.pipeline.plan import (
    DATASET,
    FINISHED,
    Plan,
    digest,
    draws_labels,
    labels_folder,
    method_folder,
    method_sources,
    pairs_folder,
    pairs_of,
    pseudo_labels_of,
    regimes_with_pairs,
    seen_by,
    segment_stages,
    voters,
)
from lldm3d.study.stages import REAL

NO_DIGEST = ("gate", "processes")  # of a training's section: their change does not undo what is trained


@dataclass(frozen=True)
class Job:
    """One run of a stage. Files are relative to the work directory."""

    stage: str
    name: str  # its folder, or the stage's own name
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    digest: str = ""  # of the settings that it depends on
    processes: int = 0  # each with a GPU of its own; 0 for what needs none
    alone: bool = False  # whether others wait for it, so that on a CPU it gets all cores
    values: dict[str, str | int] = field(default_factory=dict, hash=False)  # what tells it from others of its stage


def phantom_jobs(plan: Plan) -> list[Job]:
    """The simulated data, where no other is given."""
    settings = digest(plan.settings["phantom"])
    return [] if plan.data else [Job("phantom", "phantom", (), ("data/dataset.json",), settings)]


def prepare_jobs(plan: Plan) -> list[Job]:
    reads = () if plan.data else ("data/dataset.json",)
    label_map = [sha256(path)] if plan.data and Path(path := str(plan.data.get("label_map"))).is_file() else []
    return [Job("prepare", "prepare", reads, (DATASET,), digest(plan.settings["prepare"], plan.data, *label_map))]


def seen_jobs(plan: Plan) -> list[Job]:
    """What restricted methods see of the data, for each seed."""
    settings, found = digest(plan.limits), []
    for seed in plan.seeds if plan.restricted else []:
        voted, writes = pseudo_labels_of(plan, seed), (seen_by(plan, seed),)
        reads = (DATASET, *([f"{voted}/dataset.json"] if voted else []))
        found.append(Job("seen", f"seen/seed_{seed}", reads, writes, settings, values={"seed": seed}))
    return found


def train_jobs(plan: Plan) -> list[Job]:
    """Each training of each method and seed."""
    found = []
    for (name, method), seed in product(plan.loaded.items(), plan.seeds):
        folder = method_folder(name, seed)
        for training in method.used(given=not draws_labels(plan, name)):
            entry, section = method.trainings[training], plan.section(name, training)
            kept = {key: value for key, value in section.items() if key not in NO_DIGEST}
            edited = [edited] if method.edits and (edited := chosen_edit(plan)) else []
            settings = digest(kept, plan.minutes * entry.share if plan.minutes and entry.share else None, *edited)
            reads = (seen_by(plan, seed), *(f"{folder}/{other}/{FINISHED}" for other in method.inputs(training)))
            alone = plan.in_turn and training == list(method.trainings)[-1]
            values = {"method": name, "seed": seed, "training": training}
            where, processes = f"{folder}/{training}", section.get("processes", 1)
            found.append(Job("train", where, reads, (f"{where}/{FINISHED}",), settings, processes, alone, values))
    return found


def chosen_edit(plan: Plan) -> dict:
    """The class that lesions get and the organ they lie in, where the profile says them: networks learn these."""
    section = plan.settings["methods"]
    return {key: section[key] for key in ("lesion", "organ") if section.get(key)}


def labels_jobs(plan: Plan) -> list[Job]:
    """Labels of training cases, warped or with new lesions, for all methods that make images for them."""
    wanted = {source for name in plan.methods for source in method_sources(plan, name)}
    wanted |= {TRAINING} if WARPED in plan.pairs else set()
    section, found = plan.settings["methods"], []
    changes = {TRAINING: section["strength"], **dict.fromkeys(EDITED, [section.get(key) for key in EDIT_SETTINGS])}
    for source, seed in product([source for source in WRITTEN if source in wanted], plan.seeds):
        settings = digest(changes[source], section.get("n"), regimes_with_pairs(plan))
        folder = labels_folder(source, seed)
        shapes = (f"{method_folder(SHAPES, seed)}/shapes/{FINISHED}",) if source == SHAPES else ()
        reads, writes = (seen_by(plan, seed), *shapes), (f"{folder}/labels.json",)
        if source == TRAINING:
            writes += (f"{folder}/dataset.json",)
        found.append(Job("labels", folder, reads, writes, settings, values={"source": source, "seed": seed}))
    return found


def pairs_jobs(plan: Plan) -> list[Job]:
    """The pairs of each method, source of labels and seed."""
    found, given = [], [source for source in map(parse_source, plan.sources) if source.folder]
    folders = {one.slug: [(file.name, checksum(Path(file.path))) for file in labels_in(one.folder)] for one in given}
    for name, seed in product(plan.loaded, plan.seeds):
        section = plan.section(name, "inference")
        sampling = digest(section, plan.settings["methods"].get("n"), regimes_with_pairs(plan))
        for source in sorted(method_sources(plan, name), key=lambda source: source in JOINED):
            folder, values = pairs_folder(name, source, seed), {"method": name, "source": source, "seed": seed}
            reads, writes = pairs_reads(plan, name, source, seed), (f"{folder}/dataset.json",)
            settings, processes = sampling, section.get("processes", 1)
            if source in folders:
                settings = digest(sampling, folders[source])
            if source in (RECONSTRUCTED, *JOINED):  # nothing is sampled
                settings, processes = digest(), int(source != BOTH)
            found.append(Job("pairs", folder, reads, writes, settings, processes, plan.in_turn, values))
    return found


def pairs_reads(plan: Plan, name: str, source: str, seed: int) -> tuple[str, ...]:
    """What the pairs of a method for a source of labels are made from."""
    if source in JOINED:
        voting = (f"{path}/metrics.csv" for path in (voters(plan) if source in VOTED else ()))
        return (*(f"{pairs_folder(name, part, seed)}/dataset.json" for part in JOINED[source]), *voting)
    trainings = [IMAGE_CODEC] if source == RECONSTRUCTED else plan.loaded[name].used(given=source != DRAWN)
    labels = {written: [f"{labels_folder(written, seed)}/labels.json"] for written in WRITTEN}
    if plan.loaded[name].needs_drawn_labels:
        labels[DRAWN] = [f"{pairs_folder(plan.label_drawer or OURS, DRAWN, seed)}/dataset.json"]
    models = (f"{method_folder(name, seed)}/{training}/{FINISHED}" for training in trainings)
    return (DATASET, *models, *labels.get(source, []))


def real_segment_jobs(plan: Plan) -> list[Job]:
    """Segmentations of real data alone, on which pairs wait whose labels they vote on."""
    return [job for job in segment_jobs(plan) if not job.values["pairs"]]


def pairs_segment_jobs(plan: Plan) -> list[Job]:
    return [job for job in segment_jobs(plan) if job.values["pairs"]]


def segment_jobs(plan: Plan) -> list[Job]:
    names = {slug: name for name, slug in plan.pairs.items()}
    found = []
    for stage in segment_stages(plan):
        pairs = () if stage.pairs == REAL else (f"{pairs_of(plan, names[stage.pairs], stage.seed)}/dataset.json",)
        settings = digest(
            plan.settings["segment"]["overrides"],
            plan.settings["segment"]["patience"] if stage.until == "convergence" else None,
        )
        writes = (f"{stage.path}/metrics.csv", f"{stage.path}/model.pt")
        values = {"pairs": pairs[:1], "task": stage.task}
        found.append(Job("segment", stage.path, (DATASET, *pairs), writes, settings, 1, values=values))
    return found


def evaluate_jobs(plan: Plan) -> list[Job]:
    """Each folder of pairs beside the real data."""
    settings, segmenter = digest(plan.settings["evaluate"]), f"{plan.segmenter.path}/metrics.csv"
    found = []
    # alignment of voted labels would be judged by the networks that voted; where voxels are left out none is
    for job in (job for job in pairs_jobs(plan) if job.values["source"] not in VOTED):
        folder = job.name.replace("pairs/", "evaluation/", 1)
        writes = (f"{folder}/metrics.json", f"{folder}/metrics.csv")
        found.append(
            Job("evaluate", folder, (DATASET, *job.writes, segmenter), writes, settings, 1, values={"pairs": job.name})
        )
    return found


def study_jobs(plan: Plan) -> list[Job]:
    writes = tuple(f"study/{name}" for name in ("study.csv", "gains.csv", "table.md", "table.tex", "figure.png"))
    return [Job("study", "study", tuple(f"{stage.path}/metrics.csv" for stage in segment_stages(plan)), writes)]


def comparison_jobs(plan: Plan) -> list[Job]:
    study = ("study/gains.csv",) if plan.pairs and regimes_with_pairs(plan) else ()
    reads = (*(job.writes[0] for job in evaluate_jobs(plan)), *study)
    writes = tuple(f"comparison/{name}" for name in ("comparison.csv", "table.md", "table.tex", "figure.png"))
    return [Job("comparison", "comparison", reads, writes)]


def report_jobs(plan: Plan) -> list[Job]:
    writes = ("report/report.html", "report/tables.csv")
    return [Job("report", "report", ("study/gains.csv", "comparison/comparison.csv"), writes)]


@dataclass(frozen=True)
class Stage:
    """A row of the table."""

    name: str
    title: str  # what it does, for who watches a run
    jobs: Callable[[Plan], list[Job]]
    action: str  # module and function that does a job, imported when it is run


SEGMENT_TITLE = "trains and tests a segmentation"
STAGES = (
    Stage("phantom", "draws simulated liver MR", phantom_jobs, "actions:make_phantom"),
    Stage("prepare", "brings the scans to one grid and splits them", prepare_jobs, "actions:prepare_data"),
    Stage("seen", "chooses the patients whose labels the methods see", seen_jobs, "actions:choose_seen"),
    Stage("train", "trains one of the networks of a method", train_jobs, "training:train_method"),
    Stage("labels", "warps labels of training cases, or adds lesions", labels_jobs, "actions:write_labels"),
    Stage("segment", SEGMENT_TITLE, real_segment_jobs, "segmentation:segment"),
    Stage("pairs", "draws pairs of image and label", pairs_jobs, "actions:make_pairs"),
    Stage("segment", SEGMENT_TITLE, pairs_segment_jobs, "segmentation:segment"),
    Stage("evaluate", "judges pairs against real data", evaluate_jobs, "actions:evaluate_pairs"),
    Stage("study", "what the pairs are worth to segmentation", study_jobs, "actions:write_tables_of_study"),
    Stage("comparison", "the methods beside each other", comparison_jobs, "actions:compare_methods"),
    Stage("report", "all of it in one file", report_jobs, "actions:write_report"),
)
OF_STUDY = ("segment", "study")


def all_jobs(plan: Plan) -> list[Job]:
    """All jobs of a run, in an order in which they can be done; of a given data set those of the study."""
    return [job for stage in STAGES if not plan.given or stage.name in OF_STUDY for job in stage.jobs(plan)]


def selected_jobs(plan: Plan, until: str | None = None, stages: Iterable[str] | None = None) -> list[Job]:
    """The jobs of a run up to those that `until` names (a stage, a training, or one job), or of some stages alone.

    Raises UserError for an unknown name, with the nearest one.
    """
    jobs = all_jobs(plan)
    if stages is not None:
        return [job for job in jobs if job.stage in stages]
    if until is None:
        return jobs
    wanted = [job for job in jobs if until in (job.stage, job.name, job.values.get("training"))]
    if not wanted:
        names = dict.fromkeys(name for job in jobs for name in (job.stage, job.values.get("training")) if name)
        hint = did_you_mean(until, [*names, *(job.name for job in jobs)])
        raise UserError(f"--until {until!r}: no such stage; {hint}the stages are {', '.join(names)}")
    makers = {path: job for job in jobs for path in job.writes}
    needed: dict[str, Job] = {}
    while wanted:
        job = wanted.pop()
        if job.name not in needed:
            needed[job.name] = job
            wanted += [makers[path] for path in job.reads if path in makers]
    return [job for job in jobs if job.name in needed]


def find_job(plan: Plan, name: str) -> Job:
    """The job `name`. Raises UserError with those that there are."""
    jobs = {job.name: job for job in all_jobs(plan)}
    if name not in jobs:
        raise UserError(f"there is no stage {name!r} here: {did_you_mean(name, jobs)}There are {', '.join(jobs)}")
    return jobs[name]


def rule_name(job: str) -> str:
    """A job's name as that of a rule of Snakemake."""
    return re.sub(r"\W", lambda sign: f"_{ord(sign[0]):x}_" if sign[0] != "/" else "__", job)
