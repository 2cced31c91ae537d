"""A training of a method: a bundle run in a process of its own, for the steps of its config or for minutes."""

import os
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from lldm3d.bundle import bundle_path, defined, load_configs, run_bundle
from lldm3d.data.dataset import load_schema
from lldm3d.errors import UserError
from lldm3d.files import load_checkpoint, read_json, remove_partial, write_json
from lldm3d.locks import free_gpus
from lldm3d.methods.registry import Method
from lldm3d.pairs.sources import edit_settings
from lldm3d.pipeline.checks import check_gates, finish, same_beginning
from lldm3d.pipeline.plan import Plan, digest, seen_by
from lldm3d.pipeline.profile import overlays_of, overrides_of
from lldm3d.pipeline.stages import Job

PILOT_EPOCHS = 4  # the first one is not measured, and the fastest counts: others' work beside it slows some
PILOT_STEPS = 8  # of each
CHECKPOINTS = ("model.pt", "codec.pt")


def train_method(work: Path, job: Job, plan: Plan) -> None:
    """Train one step of a method into its folder; one that was killed goes on from its last full state."""
    name, training, seed = job.values["method"], job.values["training"], job.values["seed"]
    method, section, folder = plan.loaded[name], plan.section(name, training), work / job.name
    entry, bundle = method.trainings[training], method.bundle_of(training)
    configs = [*entry.configs, *overlays_of(section)]
    if not plan.minutes:  # at equal minutes a poor model is a result
        check_gates(folder.parent, {other: plan.section(name, other) for other in method.inputs(training)})
    data = defined(bundle, configs, data_ids(work, work / seen_by(plan, seed), folder.parent, section))
    data |= {"output_dir": str(folder)}
    data |= defined(bundle, configs, edit_settings(plan.settings["methods"]))
    settings = {
        **entry.settings,
        **repeated(method, training, folder.parent),
        **defined(bundle, configs, {"seed": seed}),
    }
    settings |= overrides_of(section)
    minutes = section.get("minutes") or (plan.minutes and entry.share and plan.minutes * entry.share)
    processes = section.get("processes", 1)
    with free_gpus(work, processes) as environment:

        def run(more: dict, where: Path) -> None:
            given = {**data, "output_dir": str(where)}
            run_bundle(where, bundle, entry.run, configs, {**settings, **more}, given, environment, processes=processes)

        epochs = settings.get("epochs") or load_configs(bundle_path(bundle), configs).get("epochs")
        steps = paced(folder, minutes, epochs, run, [settings, processes]) if minutes else {}
        begun = {**settings, **steps, "processes": processes, **data}
        go_on_or_start(work, job.name, begun, job.reads)
        run(steps, folder)
    finish(work, job)


def data_ids(work: Path, dataset: Path, method_dir: Path, section: dict) -> dict:
    """What data and folders say: ids that a training's config may define; `dataset` is the dataset.json to learn."""
    cache, schema = str(work / "cache"), load_schema(dataset.parent)
    return {
        "dataset_dir": str(dataset.parent),
        "method_dir": str(method_dir),
        "class_names": list(schema.class_names),
        "tubular": list(schema.tubular),
        "lesions": list(schema.lesions),
        "roi_size": schema.crop(section.get("roi_size")),
        **{f"{split}#dataset#cache_dir": cache for split in ("train", "validate")},
    }


def repeated(method: Method, training: str, method_dir: Path) -> dict:
    """Ids whose values are those of networks that earlier trainings of the method saved."""
    found = {}
    for other, ids in method.trainings[training].repeats.items():
        path = next((p for p in (method_dir / other / name for name in CHECKPOINTS) if p.is_file()), None)
        content = load_checkpoint(path or method_dir / other / CHECKPOINTS[0], made_by=other)
        known = {**content, **content.get("network", {})}
        if missing := [key for key in ids if key not in known]:
            raise UserError(f"{path}: says nothing of {missing}; train {other!r} again")
        found |= {key: known[key] for key in ids}
    return found


def paced(folder: Path, minutes: float, epochs: int, run: Callable[[dict, Path], None], settings: object) -> dict:
    """The ids `epochs` and `epoch_length` of a training of so many minutes on this machine, as a pilot of it measures.

    Both are kept in `pace.json`, so that a training that was killed goes on with the same steps.

    Args:
        folder: of the training.
        minutes: of its steps; validation comes on top.
        epochs: into which the steps are divided.
        run: trains with these overrides laid last into a folder, and leaves `metrics.json`.
        settings: all else that the time depends on; where it changes a new pilot is trained.
    """
    path, origin = folder / "pace.json", digest(settings, minutes, epochs)
    if path.is_file() and (found := read_json(path))["origin"] == origin:
        return {"epochs": epochs, "epoch_length": found["epoch_length"]}
    pilot = folder / "pilot"
    shutil.rmtree(pilot, ignore_errors=True)
    pilot.mkdir(parents=True)
    # a validation interval that is never reached
    run({"epochs": PILOT_EPOCHS, "epoch_length": PILOT_STEPS, "val_interval": PILOT_EPOCHS + 1}, pilot)
    ends = read_json(pilot / "metrics.json")["seconds"]
    seconds = min(after - before for before, after in pairwise(ends)) / PILOT_STEPS
    length = max(1, round(60 * minutes / seconds / epochs))
    write_json(path, {"origin": origin, "minutes": minutes, "step_seconds": seconds, "epoch_length": length})
    shutil.rmtree(pilot)
    print(f"lldm3d: {seconds:.3g} s a step, so {epochs * length} steps in {minutes:g} minutes", flush=True)
    return {"epochs": epochs, "epoch_length": length}


def go_on_or_start(work: Path, name: str, begun: dict, inputs: tuple[str, ...]) -> None:
    """Keep the state of an earlier training only if it began the same: otherwise it would end as neither. What it left
    half-written goes.

    Args:
        begun: settings and data of this training.
        inputs: the files, relative to `work`, whose change makes the training start anew.
    """
    state, same = work / name / "state.pt", same_beginning(work, name, begun, inputs)
    remove_partial(state.parent)
    if state.is_file() and same:
        print(f"{state}: the training goes on from here", flush=True)
    elif state.is_file():
        os.replace(state, state.with_name("state.old.pt"))
        print(f"{state}: began from other settings or inputs, kept as state.old.pt; training starts anew", flush=True)
