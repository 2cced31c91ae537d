"""The command `lldm3d`: python-fire calls one function for each command; each calls one module of the package."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path

import fire

from lldm3d.chain.process import ChildError
from lldm3d.errors import UserError


def phantom(
    output_dir: str,
    num_cases: int = 32,
    size: tuple[int, int, int] = (48, 48, 32),
    spacing: tuple[float, float, float] = (5.0, 5.0, 6.0),
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Write a raw Decathlon data set of simulated liver MR: size in voxels, spacing in mm."""
    from lldm3d.phantom import write

    write(output_dir, num_cases, size, spacing, seed, overwrite)


def encode(dataset_dir: str, image_codec: str, label_codec: str, output_dir: str, overwrite: bool = False) -> None:
    """Encode a prepared data set with both autoencoders: mean and sigma of the latents of each case."""
    from lldm3d.latents import encode

    encode(dataset_dir, image_codec, label_codec, output_dir, overwrite=overwrite)


def check(dataset_dir: str) -> None:
    """Print all faults of a prepared data set, one on each line; exit status 2 when there are any."""
    from lldm3d.data.check import check

    if faults := check(dataset_dir):
        print("\n".join(faults))
        sys.exit(2)
    print(f"{dataset_dir}: no faults")


def run(
    workdir: str,
    profile: str | None = None,
    data: str | None = None,
    images: str | None = None,
    labels: str | None = None,
    label_map: str | dict | None = None,
    dry_run: bool = False,
    until: str | None = None,
    cores: int | None = None,
    gpus: int | None = None,
) -> None:
    """Run the whole chain, or what is not done of it, in a work directory; without data it draws a phantom.

    Args:
        workdir: folder of all results. It remembers profile and data, so that --workdir alone goes on.
        profile: demo (minutes on a CPU, the default), small, full (the paper's), or a YAML file with `base: small`.
        data: data set in Decathlon layout; or images and labels: folders of NIfTI files with equal names.
        images: folder of images.
        labels: folder of labels.
        label_map: names of the label values.
        dry_run: only list the stages that would run.
        until: last stage to run.
        cores: CPU cores to use at once (default: all).
        gpus: GPUs to use at once (default: all).
    """
    from lldm3d.chain.run import run

    folders = {"data": data, "images": images, "labels": labels}
    source = {key: str(Path(folder).resolve()) for key, folder in folders.items() if folder is not None}
    if label_map is not None:
        source["label_map"] = label_map
    run(workdir, profile, source or None, dry_run, until, cores, gpus)


def stage(workdir: str, name: str) -> None:
    """Run one stage of a work directory by hand: a name that `lldm3d run --dry_run` lists."""
    from lldm3d.chain.stage import stage

    stage(workdir, name)


def generate(
    workdir: str,
    n: int,
    output_dir: str,
    seed: int = 0,
    label: str | None = None,
    batch_size: int = 1,
    overwrite: bool = False,
) -> None:
    """Draw n pairs of image and label with the models of a work directory; or n images for one given label file."""
    from lldm3d.generate import generate

    generate(workdir, n, output_dir, seed, label=label, batch_size=batch_size, overwrite=overwrite)


def evaluate(real: str, synthetic: str, segmenter: str, output_dir: str, overwrite: bool = False) -> None:
    """Judge a synthetic data set against the real one: quality, alignment with the labels, copies of patients."""
    from lldm3d.evaluation import evaluate

    evaluate(real, synthetic, segmenter, output_dir, overwrite=overwrite)


def report(workdir: str, overwrite: bool = True) -> None:
    """Write the report of a work directory: report/report.html and report/tables.csv."""
    from lldm3d.report import report

    report(workdir, overwrite=overwrite)


COMMANDS = (phantom, check, encode, run, stage, generate, evaluate, report)


def deferred(command: Callable, calls: list[Callable]) -> Callable:
    """Stand in for `command` while fire reads the arguments.

    Fire itself would notice an unknown flag only after the command has run, which may be a week later.
    """

    @functools.wraps(command)
    def record(*args, **kwargs) -> None:
        calls.append(functools.partial(command, *args, **kwargs))

    return record


def main() -> None:
    """Exit status 2 for a user's mistake, 1 when a child process failed, 130 when interrupted."""
    calls: list[Callable] = []
    fire.Fire({command.__name__: deferred(command, calls) for command in COMMANDS}, name="lldm3d")
    try:
        for call in calls:
            call()
    except (UserError, ChildError) as error:
        print(f"lldm3d: error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)
