"""A stage `segment/.../seed_<k>`: train a segmentation network, and test it on real cases."""

from pathlib import Path

from lldm3d.bundle import bundle_path
from lldm3d.data.dataset import load_schema
from lldm3d.locks import at_work
from lldm3d.pipeline.configs import INFERENCE, SEGMENT_OVERLAY, TRAIN, defines, load_configs
from lldm3d.pipeline.training import cache, crop, go_on_or_start, run_bundle
from lldm3d.study.scores import write_case_metrics, write_data_lists
from lldm3d.study.stages import REAL, SegmentStage


def segment(work: Path, stage: str, settings: dict) -> None:
    """Train on the cases of the regime, predict the real test cases, and write their scores to `metrics.csv`."""
    what, folder, schema = SegmentStage.parse(stage), work / stage, load_schema(work / "dataset")
    network, task, section = what.network, schema.task(what.task), settings["segment"]["overrides"]
    write_data_lists(work / "dataset", work / "synthetic", what.regime, what.seed, folder)
    overrides = {
        "dataset_dir": str(folder),
        "class_names": list(task.class_names),
        "targets": list(task.targets),
        "cache_dir": cache(work),
        **section,
        "roi_size": crop(section, schema),
        "seed": what.seed,
        "output_dir": str(folder),
    }
    inputs = ["dataset/dataset.json", *(["synthetic/dataset.json"] if what.pairs != REAL else [])]
    with at_work(work, stage) as environment:
        go_on_or_start(work, stage, overrides, inputs)
        run_bundle(folder, network, "training", [TRAIN, SEGMENT_OVERLAY], overrides, environment)
        prediction = of_inference(network, overrides) | {
            "output_dir": str(folder / "predictions"),
            "ckpt_path": str(folder / "model.pt"),
        }
        run_bundle(folder, network, "inferring", [INFERENCE], prediction, environment, "inference.yaml")
    write_case_metrics(work / "dataset", folder / "predictions", task, folder / "metrics.csv")


def of_inference(network: str, overrides: dict) -> dict:
    """Those of the training's overrides that the inference has too: network, classes, window."""
    known = load_configs(bundle_path(network), [INFERENCE])
    return {key: value for key, value in overrides.items() if defines(known, key)}
