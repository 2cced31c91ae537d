"""The stage `segment/<network>/<regime>/seed_<k>`: train a segmentation network, then test it on real cases."""

from pathlib import Path

from lldm3d.chain.configs import SEGMENT_OVERLAY, TRAIN
from lldm3d.chain.lock import at_work
from lldm3d.chain.training import crop, go_on_or_start, run_bundle
from lldm3d.data.dataset import load_schema
from lldm3d.segmentation import write_case_metrics


def segment(work: Path, stage: str, settings: dict) -> None:
    """Train on real (R), synthetic (S) or both (R+S) cases; Dice and HD95 of real test cases go to `metrics.csv`."""
    _, network, regime, seed = stage.split("/")
    schema, section = load_schema(work / "dataset"), settings["segment"]["overrides"]
    overrides = {
        "dataset_dir": str(work / "dataset"),
        "class_names": list(schema.class_names),
        **section,
        "roi_size": crop(section, schema),
        "real": regime != "S",
        "synthetic_dir": None if regime == "R" else str(work / "synthetic"),
        "seed": int(seed.removeprefix("seed_")),
        "output_dir": str(work / stage),
    }
    inputs = ["dataset/dataset.json", *([] if regime == "R" else ["synthetic/dataset.json"])]
    with at_work(work, stage) as environment:
        go_on_or_start(work, stage, overrides, inputs)
        for run_id, further in (("training", []), ("evaluating", ["configs/evaluate.yaml"])):
            configs = [TRAIN, SEGMENT_OVERLAY, *further]
            run_bundle(work / stage, network, run_id, configs, overrides, environment)
    write_case_metrics(work / stage / "evaluation", schema.class_names, work / stage / "metrics.csv")
