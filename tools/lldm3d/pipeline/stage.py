"""One stage of the chain, run by hand or by the workflow: `lldm3d stage --workdir W NAME`."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from lldm3d.children import end_with_parent, raise_on_sigterm
from lldm3d.data.dataset import load_cases, load_schema
from lldm3d.data.regimes import parse_regime
from lldm3d.errors import ChildError, UserError
from lldm3d.files import write_json
from lldm3d.pipeline import checks
from lldm3d.pipeline.method import comparison, method
from lldm3d.pipeline.plan import all_stages, check_stage, segmenter_stage
from lldm3d.pipeline.profile import read_yaml
from lldm3d.pipeline.segment import segment
from lldm3d.pipeline.training import train

IN_WORKFLOW = "LLDM3D_WORKFLOW"  # set by the workflow for its jobs
FAILURES = ".failures"  # folder in which each stage that failed leaves its message


def stage(workdir: str, name: str) -> None:
    """Run one stage of a work directory by hand, with the settings in its `run.yaml`.

    Args:
        workdir: a work directory that `lldm3d run` began.
        name: of the stage, as `lldm3d run --dry_run` lists it.

    Raises UserError when an input is missing or does not fit, or when the gate fails; ChildError when a training fails.
    """
    work = Path(workdir).resolve()
    run = read_yaml(work / "run.yaml", f"make it with `lldm3d run --workdir {workdir} --until prepare`")
    check_stage(name, all_stages(run))
    raise_on_sigterm()
    if IN_WORKFLOW not in os.environ:
        return dispatch(work, name, run)
    end_with_parent()
    failure = work / FAILURES / f"{name}.json"
    if failure.is_file():  # a second attempt is for what ended a job from outside, such as its time limit
        sys.exit(1)
    try:
        dispatch(work, name, run)
    except (UserError, ChildError) as error:
        write_json(failure, {"stage": name, "user": isinstance(error, UserError), "message": str(error)})
        sys.exit(1)  # the workflow's end shows the message


def dispatch(work: Path, name: str, run: dict) -> None:
    """Call the function of the stage; the first part of a name with slashes says which one that is."""
    names = all_stages(run)
    print(f"lldm3d: stage {name} ({names.index(name) + 1} of {len(names)})", flush=True)
    stages: dict[str, Callable[[Path, str, dict], None]] = {
        "phantom": phantom,
        "prepare": prepare,
        "latents": latents,
        "generate": generate,
        "evaluate": evaluate,
        "study": study,
        "report": report,
        "segment": segment,
        "methods": method,
        "comparison": comparison,
    }
    further = {"data": run["data"], "threads": run.get("threads", 1), "method_names": run.get("methods", [])}
    stages.get(name.split("/")[0], train)(work, name, {**run["settings"], **further})


def phantom(work: Path, name: str, settings: dict) -> None:
    from lldm3d.phantom.write import write_phantom

    write_phantom(output_dir=work / "data", overwrite=True, **settings["phantom"])


def prepare(work: Path, name: str, settings: dict) -> None:
    from lldm3d.data.prepare import prepare

    source = settings["data"] or {"data": str(work / "data")}
    prepare(output_dir=work / "dataset", overwrite=True, **source, **settings["prepare"])


def latents(work: Path, name: str, settings: dict) -> None:
    """Encode the data set, but only with autoencoders that pass the gate."""
    from lldm3d.codec.latents import encode

    schema = load_schema(work / "dataset")
    for kind in checks.KINDS:
        checks.codec(work, kind, schema)
    checks.gate(work, settings["gates"])
    paths = [checks.codec_path(work, kind) for kind in checks.KINDS]
    encode(work / "dataset", *paths, work / "latents", overwrite=True, **settings["latents"])


def generate(work: Path, name: str, settings: dict) -> None:
    """Draw the synthetic pairs, after checking the models and that their number is enough for the regimes."""
    from lldm3d.pairs.generate import generate

    section = {**settings["generate"], "n": number_of_pairs(work, settings)}
    for model in ("label_ldm", "image_ldm", "controlnet"):
        checks.diffusion(work, model, load_schema(work / "dataset"))
    generate(work, output_dir=work / "synthetic", overwrite=True, **section)


def number_of_pairs(work: Path, settings: dict) -> int:
    """As many as the regimes take, and as the real training cases at least, unless the profile gives a number.

    Raises UserError where that is smaller than a regime takes.
    """
    cases, regimes = len(load_cases(work / "dataset", "training")), settings["segment"]["regimes"]
    needed = {regime: parse_regime(regime).pairs(cases) for regime in regimes}
    number = settings["generate"].get("n", max([cases, *needed.values()]))
    if wanting := {regime: pairs for regime, pairs in needed.items() if pairs > number}:
        raise UserError(f"generate#n is {number}, but the regimes take more pairs: {wanting}; raise it in the profile")
    return number


def evaluate(work: Path, name: str, settings: dict) -> None:
    from lldm3d.evaluation.evaluate import evaluate

    segmenter = work / segmenter_stage(settings) / "model.pt"
    output_dir = work / "evaluation"
    evaluate(work / "dataset", work / "synthetic", output_dir, segmenter, overwrite=True, **settings["evaluate"])


def study(work: Path, name: str, settings: dict) -> None:
    from lldm3d.study.tables import write_study

    write_study(work)


def report(work: Path, name: str, settings: dict) -> None:
    from lldm3d.report.write import report

    report(work, overwrite=True)
