"""The stages of the comparison: methods trained in equal minutes, their volumes drawn and judged, all in one table."""

import os
import shutil
from pathlib import Path

from lldm3d.bundle import bundle_path
from lldm3d.data.dataset import load_cases, load_schema
from lldm3d.data.sources import stem
from lldm3d.files import read_json, write_json
from lldm3d.locks import at_work
from lldm3d.methods.registry import OURS, Method, load_method, seed_stage
from lldm3d.pairs.cases import drawn_name
from lldm3d.pairs.generate import write_dataset_json
from lldm3d.pipeline.configs import BUNDLES, INFERENCE, defines, load_configs
from lldm3d.pipeline.origin import same_origin
from lldm3d.pipeline.plan import OF_METHODS, segmenter_stage
from lldm3d.pipeline.training import Training, cache, run_bundle, train_bundle

DRAWN = "synthetic"


def method(work: Path, name: str, settings: dict) -> None:
    """Train the method of `methods/<method>/seed_<k>` and draw its volumes; or judge those (`.../evaluation`)."""
    if name.endswith("/evaluation"):
        return judge(work, name, settings)
    _, which, last = name.split("/")
    found, seed = load_method(which), int(last.removeprefix("seed_"))
    with at_work(work, name) as environment:
        os.environ.update(environment)  # all that it starts stays on this GPU
        if found.is_chain:
            own_chain(work, name, found, seed, settings)
        else:
            train_and_draw(work, name, found, seed, settings)
    write_json(work / name / "cost.json", cost(work / name, found))


def minutes(found: Method, settings: dict) -> dict[str, float]:
    """The minutes of each training of the method."""
    return {training: share * settings["methods"]["minutes"] for training, share in found.shares.items()}


def number(work: Path, settings: dict) -> int:
    """How many volumes each method draws: as many as there are training cases, unless the profile gives a number."""
    return settings["methods"].get("n", len(load_cases(work / "dataset", "training")))


def train_and_draw(work: Path, name: str, found: Method, seed: int, settings: dict) -> None:
    """Train the bundle's configs one after the other, then run its inference."""
    section, schema = settings["methods"].get(found.name, {}), load_schema(work / "dataset")
    common = {"dataset_dir": str(work / "dataset"), "method_dir": str(work / name), "seed": seed}
    common |= {"class_names": list(schema.class_names), "roi_size": list(schema.roi_size)}
    common |= {f"{split}#dataset#cache_dir": cache(work) for split in ("train", "validate")}
    inputs = ["dataset/dataset.json"]
    for training, share in minutes(found, settings).items():
        config = found.configs[training]
        overrides = {**section.get(training, {}), **wanted(found, config, common)}
        train_bundle(
            work, f"{name}/{training}", Training(found.bundle, [config], overrides, list(inputs), minutes=share)
        )
        inputs.append(f"{name}/{training}/model.pt")
    common |= {"num_cases": number(work, settings), "label_paths": labels(work, seed) if found.on_labels else []}
    overrides = {**section.get("inference", {}), **wanted(found, INFERENCE, common)}
    draw(work, name, found, overrides, inputs)


def wanted(found: Method, config: str, ids: dict) -> dict:
    """Those of the ids that the bundle's config defines: what it wants to be told."""
    content = load_configs(bundle_path(found.bundle), [config])
    return {key: value for key, value in ids.items() if defines(content, key)}


def labels(work: Path, seed: int) -> list[str]:
    """The labels that the chain's own system drew with this seed."""
    return [case["label"] for case in load_cases(work / seed_stage(OURS, seed) / DRAWN, "training")]


def draw(work: Path, name: str, found: Method, overrides: dict, inputs: list[str]) -> None:
    """Draw what is not drawn yet by these models and settings, and describe it as a data set."""
    stage = f"{name}/{DRAWN}"
    target = work / stage
    overrides = {**overrides, "output_dir": str(target)}
    if not same_origin(work, stage, overrides, inputs):
        shutil.rmtree(target, ignore_errors=True)
    target.mkdir(exist_ok=True)
    run_bundle(target, found.bundle, "inferring", [INFERENCE], overrides, {})
    given = overrides.get("label_paths")
    names = [stem(Path(path)) for path in given] if given else None
    write_dataset_json(
        target, work / "dataset", names or [drawn_name(index) for index in range(overrides["num_cases"])]
    )


def own_chain(work: Path, name: str, found: Method, seed: int, settings: dict) -> None:
    """Run the chain's stages from the autoencoders to the pairs in a work directory of their own."""
    from lldm3d.pipeline.run import execute

    folder = work / name
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "dataset").exists():
        (folder / "dataset").symlink_to(Path("../../..") / "dataset")
    shares = minutes(found, settings)
    own = {stage: settings[stage] | {"minutes": share, "seed": seed} for stage, share in shares.items()}
    own["generate"] = settings["generate"] | {"seed": seed, "n": number(work, settings)}
    own["segment"] = settings["segment"] | {"regimes": []}  # which would ask for a number of pairs
    own["gates"] = dict.fromkeys(settings["gates"], float("-inf"))  # a poor autoencoder is a result here
    plan = {"profile": "", "data": OF_METHODS, "grid": {}, "methods": [], "settings": {**of_profile(settings), **own}}
    target = [f"{DRAWN}/dataset.json", "--allowed-rules", *BUNDLES, "latents", "generate"]
    execute(folder, plan, target, dry_run=False, cores=settings["threads"], gpus=1, executor=None, jobs=None)


def of_profile(settings: dict) -> dict:
    """The settings of a stage without what it is told of its run."""
    return {key: value for key, value in settings.items() if key not in ("data", "threads", "method_names")}


def cost(folder: Path, found: Method) -> dict:
    """What training and drawing took: seconds and steps of each training, and what `Meter` counted."""
    trainings = {}
    for training in found.shares:
        curves, pace = read_json(folder / training / "metrics.json"), read_json(folder / training / "pace.json")
        steps = len(curves["epoch"]) * pace["epoch_length"]
        trainings[training] = {"seconds": curves["seconds"][-1], "steps": steps, "minutes_given": pace["minutes"]}
    return {"trainings": trainings, "drawing": read_json(folder / DRAWN / "cost.json")}


def judge(work: Path, name: str, settings: dict) -> None:
    """Evaluate what a method drew, by the segmentation network of the run; real cases are looked at once for all."""
    from lldm3d.evaluation.evaluate import evaluate

    folder = (work / name).parent
    segmenter, cache_dir = work / segmenter_stage(settings) / "model.pt", work / "evaluation" / "cache"
    common = {"segmenter": segmenter, "cache_dir": cache_dir, "overwrite": True}
    evaluate(work / "dataset", folder / DRAWN, work / name, **common, **settings["evaluate"])


def comparison(work: Path, name: str, settings: dict) -> None:
    """Write the table and the figures of all methods that the run names."""
    from lldm3d.report.comparison_figure import write_comparison

    write_comparison(work, settings["method_names"], settings["methods"]["seeds"], settings["methods"]["minutes"])
