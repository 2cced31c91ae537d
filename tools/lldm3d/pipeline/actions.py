"""What the jobs of stages do that need no training: each calls one function of a folder."""

from pathlib import Path

from lldm3d.locks import free_gpus
from lldm3d.pairs.sources import (
    BOTH,
    DRAWN,
    PSEUDO_LABELLED,
    RECONSTRUCTED,
    SHAPES,
    TEST,
    TRAINING,
    VOTED,
    WRITTEN,
    edit_settings,
    parse_source,
    shapes_path,
)
from lldm3d.pipeline.plan import (
    Plan,
    labels_folder,
    method_folder,
    method_sources,
    number_of_pairs,
    pseudo_labels_of,
    seen_by,
)
from lldm3d.pipeline.stages import Job, all_jobs

DRAWN_AGAIN, AGAIN_SEED = 10, 1_000_000  # test labels drawn a second time, and what is added to their seed


def make_phantom(work: Path, job: Job, plan: Plan) -> None:
    from lldm3d.phantom.write import write_phantom

    write_phantom(output_dir=work / "data", overwrite=True, **plan.settings["phantom"])


def prepare_data(work: Path, job: Job, plan: Plan) -> None:
    from lldm3d.data.prepare import prepare
    from lldm3d.pipeline.cost import print_cost

    source = plan.data or {"data": str(work / "data")}
    prepare(output_dir=work / "dataset", overwrite=True, **source, **plan.settings["prepare"])
    if plan.executor:  # this node says nothing of those that train
        return
    try:  # for what is left of the run, while nothing else runs
        print_cost(work, plan, all_jobs(plan))
    except Exception as error:  # such as sizes that a network refuses: its training says so
        print(f"lldm3d: what the trainings take could not be measured ({error})", flush=True)


def choose_seen(work: Path, job: Job, plan: Plan) -> None:
    from lldm3d.data.regimes import write_seen

    seed = job.values["seed"]
    limits = plan.limits | {"pseudo_labels": pseudo_labels_of(plan, seed)}
    write_seen(work / "dataset", work / job.name, seed=seed, **limits)


def write_labels(work: Path, job: Job, plan: Plan) -> None:
    """Write labels of training cases, warped or with new lesions."""
    from lldm3d.pairs.edits import write_edited_labels
    from lldm3d.pairs.warping import write_warped_pairs

    section, source, seed = plan.settings["methods"], job.values["source"], job.values["seed"]
    seen, number = (work / seen_by(plan, seed)).parent, number_of_pairs(work, plan)
    if source == TRAINING:
        write_warped_pairs(seen, work / job.name, number, seed, section["strength"])
    else:
        shapes = shapes_path(work, f"seed_{seed}") if source == SHAPES else None
        write_edited_labels(seen, work / job.name, source, number, seed, shapes=shapes, **edit_settings(section))


def make_pairs(work: Path, job: Job, plan: Plan) -> None:
    """Make the pairs of a method for a source of labels: draw, reconstruct or join them, or change labels by a vote."""
    from lldm3d.evaluation.refining import label_images, refine_pairs
    from lldm3d.pairs.edits import paste_pairs
    from lldm3d.pairs.folder import join_folders
    from lldm3d.pairs.reconstruction import reconstruct_pairs
    from lldm3d.pairs.sources import read_labels

    name, source, seed = (job.values[key] for key in ("method", "source", "seed"))
    if source == BOTH:
        join_folders([(work / path).parent for path in job.reads], work / job.name, job.name)
    elif source in VOTED:
        pairs, *voting = ((work / path).parent for path in job.reads)
        with free_gpus(work):
            if source == PSEUDO_LABELLED:
                label_images(voting, pairs, work / job.name, drawn=True, overwrite=True)
            else:
                refine_pairs(voting, pairs, work / job.name, source, overwrite=True)
    elif source == RECONSTRUCTED:
        with free_gpus(work):
            models, seen = work / method_folder(name, seed), (work / seen_by(plan, seed)).parent
            reconstruct_pairs(plan.loaded[name], models, seen, work / job.name, seed, overwrite=True)
    elif not plan.loaded[name].trainings:
        labels, seen = read_labels(work / labels_folder(source, seed)), (work / seen_by(plan, seed)).parent
        paste_pairs(plan.loaded[name], seen, work / job.name, labels, seed, overwrite=True)
    else:
        draw(work, job, plan)


def draw(work: Path, job: Job, plan: Plan) -> None:
    """Draw the pairs of a method for a source of labels."""
    from lldm3d.pairs.drawing import draw_pairs
    from lldm3d.pairs.generate import source_labels
    from lldm3d.pairs.sources import read_labels
    from lldm3d.pipeline.profile import overrides_of

    name, slug, seed = (job.values[key] for key in ("method", "source", "seed"))
    method, section, number = plan.loaded[name], plan.section(name, "inference"), number_of_pairs(work, plan)
    models, processes = work / method_folder(name, seed), section.get("processes", 1)
    if slug in WRITTEN:
        labels = read_labels(work / labels_folder(slug, seed))[:number]
    else:
        source = next(item for item in map(parse_source, (DRAWN, *plan.sources)) if item.slug == slug)
        labels = source_labels(work, method, models, source, number if slug == DRAWN else None)
    draws = [(work / job.name, labels, seed)]
    if slug == TEST:  # how much two images of a label differ
        draws.append((again_of(work, job.name), labels[:DRAWN_AGAIN], seed + AGAIN_SEED))
    with free_gpus(work, processes) as environment:
        for folder, wanted, noise in draws:
            draw_pairs(method, models, work / "dataset", folder, wanted, number, 0, noise, overrides_of(section),
                       section.get("overlays", []), processes, environment, overwrite=True)  # fmt: skip


def again_of(work: Path, pairs: str) -> Path:
    """The folder of a second draw for some labels of a folder of pairs."""
    return work / pairs.replace("pairs/", "pairs_again/", 1)


def evaluate_pairs(work: Path, job: Job, plan: Plan) -> None:
    from lldm3d.evaluation.evaluate import evaluate

    warped = work / f"labels/{TRAINING}" / Path(job.name).name
    evaluate(
        work / "dataset",
        work / job.values["pairs"],
        work / job.name,
        segmenter=work / plan.segmenter.path / "model.pt",
        again=again if (again := again_of(work, job.values["pairs"])).is_dir() else None,
        truth=warped if Path(job.name).parent.name in (TRAINING, BOTH) else None,
        cache_dir=work / "evaluation" / "cache",  # real cases are looked at once for all
        overwrite=True,
        **plan.settings["evaluate"],
    )


def write_tables_of_study(work: Path, job: Job, plan: Plan) -> None:
    from lldm3d.study.ladder import write_ladder
    from lldm3d.study.lesions import write_detection
    from lldm3d.study.tables import write_study

    write_study([work], work / "study")
    write_ladder(work)
    write_detection([work], work / "study")


def compare_methods(work: Path, job: Job, plan: Plan) -> None:
    from lldm3d.report.comparison_figure import write_comparison

    sources = list(dict.fromkeys(source for name in plan.methods for source in method_sources(plan, name)))
    write_comparison(work, list(plan.methods), sources, plan.seeds, plan.minutes)


def write_report(work: Path, job: Job, plan: Plan) -> None:
    from lldm3d.report.write import report

    report(work, overwrite=True)
