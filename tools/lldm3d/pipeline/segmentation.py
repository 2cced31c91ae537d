"""A job of the stage `segment`: train a segmentation network on the cases of a regime, test it on real ones."""

import shutil
from pathlib import Path

from lldm3d.bundle import INFERENCE, TRAIN, bundle_path, defined, load_configs, run_bundle
from lldm3d.data.dataset import load_schema
from lldm3d.locks import free_gpus
from lldm3d.pipeline.plan import Plan, pairs_of
from lldm3d.pipeline.profile import SEGMENT_OVERLAY
from lldm3d.pipeline.stages import Job
from lldm3d.pipeline.training import go_on_or_start
from lldm3d.study.lesions import write_case_lesions
from lldm3d.study.scores import write_case_metrics, write_data_lists
from lldm3d.study.stages import REAL, SegmentStage, trainings


def segment(work: Path, job: Job, plan: Plan) -> None:
    """Train on the cases of the regime, predict the real test cases, and write their scores to `metrics.csv`."""
    stage, folder, schema = SegmentStage.parse(job.name), work / job.name, load_schema(work / "dataset")
    task, section = schema.task(stage.task), plan.settings["segment"]["overrides"]
    names = {slug: name for name, slug in plan.pairs.items()}
    pairs = None if stage.pairs == REAL else work / pairs_of(plan, names[stage.pairs], stage.seed)
    write_data_lists(work / "dataset", pairs, stage.regime, stage.seed, folder)
    content = {**load_configs(bundle_path(stage.network), [TRAIN, SEGMENT_OVERLAY]), **section}
    settings = {**section, "seed": stage.seed}
    settings["patience"] = plan.settings["segment"]["patience"] if stage.until == "convergence" else None
    data = {
        "class_names": list(task.class_names),
        "targets": list(task.targets),
        "cache_dir": str(work / "cache"),
        "orientation": schema.orientation,
        "roi_size": schema.crop(section.get("roi_size")),
    }
    steps = trainings(folder, stage, content["epochs"], content["val_interval"])
    with free_gpus(work) as environment:
        for training in steps:
            where = {"dataset_dir": str(training.folder), "output_dir": str(training.folder)}
            paced = {**settings, "epochs": training.epochs}
            given = {**data, **where, "init_path": training.init_path}
            reads = (*job.reads, *([str(Path(training.init_path).relative_to(work))] if training.init_path else []))
            go_on_or_start(work, training.folder.relative_to(work).as_posix(), {**paced, **given}, reads)
            run_bundle(training.folder, stage.network, "training", [TRAIN, SEGMENT_OVERLAY], paced, given, environment)
        predict(folder, stage.network, settings, data, environment)
    if task.lesions:
        write_case_lesions(work / "dataset", folder / "predictions", task, folder / "lesions.csv")
    write_case_metrics(work / "dataset", folder / "predictions", task, folder / "metrics.csv")


def predict(folder: Path, network: str, settings: dict, data: dict, environment: dict[str, str]) -> None:
    """Segment the test cases with the weights in `folder`."""
    shutil.rmtree(folder / "predictions", ignore_errors=True)
    where = {
        "dataset_dir": str(folder),
        "output_dir": str(folder / "predictions"),
        "ckpt_path": str(folder / "model.pt"),
    }
    known = (defined(network, [INFERENCE], ids) for ids in (settings, {**data, **where}))
    run_bundle(folder, network, "inferring", [INFERENCE], *known, environment, "inference.yaml")
