"""The command `lldm3d`: python-fire calls one function for each command; each calls one module of the package."""

import functools
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fire

from lldm3d.chain.process import ChildError
from lldm3d.errors import Refused, UserError


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
    executor: str | None = None,
    jobs: int | None = None,
) -> None:
    """Run the whole chain, or what is not done of it, in a work directory; without data it draws a phantom.

    Args:
        workdir: folder of all results. It remembers profile and data, so that --workdir alone goes on.
        profile: demo (minutes on a CPU, the default), small, full (the paper's), or a YAML file with `base: small`.
        data: a Decathlon or nnU-Net raw folder; or instead
        images: a folder of NIfTI images, with
        labels: a folder of labels with the same names.
        label_map: YAML file of class names and their values in the data; default: the labels of dataset.json.
        dry_run: only list the stages that would run and, of a prepared data set, what they take on this machine.
        until: last stage to run.
        cores: CPU cores to use at once; default: all.
        gpus: GPUs to use at once; default: all.
        executor: slurm, which sends the stages to a cluster as jobs (docs/cluster.md); default: this machine.
        jobs: jobs of the cluster at once; default: 20.
    """
    files = {"data": data, "images": images, "labels": labels, "label_map": label_map}
    source = {key: absolute(name) for key, name in files.items() if name}
    options = {"dry_run": dry_run, "until": until, "cores": cores, "gpus": gpus, "executor": executor, "jobs": jobs}
    call("lldm3d.chain.run", "run", {"workdir": workdir, "profile": profile, "data": source or None, **options})


def study(
    workdir: str,
    profile: str | None = None,
    networks: str | None = None,
    tasks: str | None = None,
    regimes: str | None = None,
    seeds: str | None = None,
    dry_run: bool = False,
    cores: int | None = None,
    gpus: int | None = None,
    executor: str | None = None,
    jobs: int | None = None,
) -> None:
    """Train segmentation networks on real and synthetic data, and write the table of what the synthetic data is worth.

    Args:
        workdir: holds dataset/ and synthetic/, made by `lldm3d run` or by another program. It remembers the grid.
        profile: its section `segment` is taken; default: the work directory's, or small.
        networks: of the grid, as seg_unet,seg_dynunet.
        tasks: as multi,liver; `multi` tells all classes apart, others are declared in the data set.
        regimes: as R,R+S,0.1R,0.1R+S.
        seeds: as 0,1,2.
        dry_run: only list the trainings, with the hours and the disk that they take.
        cores: CPU cores to use at once; default: all.
        gpus: GPUs to use at once; default: all.
        executor: slurm, which sends the trainings to a cluster as jobs (docs/cluster.md); default: this machine.
        jobs: jobs of the cluster at once; default: 20.
    """
    given = {"networks": networks, "tasks": tasks, "regimes": regimes, "seeds": seeds}
    grid = {key: text.split(",") for key, text in given.items() if text}
    if "seeds" in grid:
        grid["seeds"] = [int(seed) if seed.isdigit() else seed for seed in grid["seeds"]]
    options = {"dry_run": dry_run, "cores": cores, "gpus": gpus, "executor": executor, "jobs": jobs}
    call("lldm3d.chain.study", "study", {"workdir": workdir, "profile": profile, "grid": grid, **options})


def tasks(dataset_dir: str, tasks: str) -> None:
    """Declare tasks of a prepared data set: which of its classes a segmentation takes as one.

    Args:
        dataset_dir: prepared data set.
        tasks: YAML file of task, target class, merged classes: `vein: {vein: [portal vein, hepatic vein]}`.
    """
    call("lldm3d.data.declare", "declare_tasks", locals())


def absolute(source: str | dict) -> str | dict:
    """A path made absolute; a label map given on the command line as it is."""
    return source if isinstance(source, dict) else str(Path(source).resolve())


def stage(workdir: str, name: str) -> None:
    """Run one stage of a work directory by hand: a name that `lldm3d run --dry_run` lists."""
    call("lldm3d.chain.stage", "stage", locals())


def phantom(
    output_dir: str,
    num_cases: int = 32,
    size: tuple[int, int, int] = (48, 48, 32),
    spacing: tuple[float, float, float] = (5.0, 5.0, 6.0),
    seed: int = 0,
    thinnest_vessel: float = 0,
    overwrite: bool = False,
) -> None:
    """Write a raw Decathlon data set of simulated liver MR.

    Args:
        output_dir: the new folder.
        num_cases: number of cases.
        size: voxels of each case, as 48,48,32.
        spacing: mm, as 5,5,6.
        seed: of all random numbers.
        thinnest_vessel: radius in mm below which twigs are left out; 0 draws all that the voxels can hold.
        overwrite: replace an existing data set.
    """
    call("lldm3d.phantom", "write", locals())


def prepare(
    output_dir: str,
    data: str | None = None,
    images: str | None = None,
    labels: str | None = None,
    label_map: str | dict | None = None,
    roi_size: tuple[int, int, int] | None = None,
    spacing: tuple[float, float, float] | None = None,
    center: str = "foreground",
    crops: int | None = None,
    intensity: str = "min_max",
    percentiles: tuple[float, float] = (0.5, 99.5),
    split: tuple[float, float, float] = (0.7, 0.1, 0.2),
    split_by: str = "patient",
    patient_pattern: str | None = None,
    channel: int | None = None,
    max_cases: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Prepare your scans: one orientation, spacing and size, intensities in [0, 1], split by patient.

    Args:
        output_dir: the new folder.
        data: a Decathlon or nnU-Net raw folder; or instead
        images: a folder of NIfTI images (or one file), with
        labels: a folder of labels with the same names (or one file).
        label_map: YAML file of class names and their values in the data; default: the labels of dataset.json.
        roi_size: voxels of each prepared volume, multiples of 16; default: follows from the data.
        spacing: mm; default: follows from the data.
        center: what each crop is centred on: foreground, image, or the name of a class.
        crops: random crops to draw from each case; default: one, in its middle.
        intensity: min_max, or percentile (clipped to `percentiles` first).
        percentiles: lower and upper percentile.
        split: parts of training, validation and test.
        split_by: patient, or case.
        patient_pattern: regular expression that finds the patient in a case's name, if dataset.json names none.
        channel: which channel of images that have several, from 0.
        max_cases: only the first cases.
        seed: of split and crops.
        overwrite: replace an existing data set.
    """
    call("lldm3d.data.prepare", "prepare", locals())


def check(dataset_dir: str) -> None:
    """Print all faults of a raw or prepared data set, one on each line; exit status 2 when there are any."""
    if faults := call("lldm3d.data.check", "check", locals()):
        print("\n".join(faults))
        sys.exit(2)
    print(f"{dataset_dir}: no faults")


def encode(
    dataset_dir: str,
    image_codec: str,
    label_codec: str,
    output_dir: str,
    views: int = 1,
    degrees: float = 5.0,
    scale: float = 0.05,
    shift: float = 2.0,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Encode a prepared data set with both autoencoders: mean and sigma of the latents of each case.

    Args:
        dataset_dir: prepared data set.
        image_codec: codec.pt of the image autoencoder.
        label_codec: codec.pt of the label autoencoder.
        output_dir: the new folder.
        views: entries for each training case; the first is the case itself, the others are augmented.
        degrees: range of the augmentation's rotation.
        scale: range of its scaling, as a fraction.
        shift: range of its shift in voxels.
        seed: of the augmentation.
        overwrite: replace existing latents.
    """
    call("lldm3d.latents", "encode", locals())


def generate(
    workdir: str,
    output_dir: str,
    n: int = 1,
    label: str | None = None,
    seed: int = 0,
    batch_size: int = 16,
    num_inference_steps: int = 20,
    solver: str = "euler",
    time_shift: float = 1.0,
    guidance_scale: float = 1.0,
    memory_gb: float | None = None,
    overlays: tuple[str, ...] = (),
    overwrite: bool = False,
    first: int = 0,
    processes: int = 1,
) -> None:
    """Draw pairs of image and label with the models of a work directory; an interrupted call goes on.

    Args:
        workdir: a finished chain.
        output_dir: folder for the pairs.
        n: number of pairs with drawn labels.
        label: a NIfTI label map of your own (or several, separated by commas), instead of drawn ones.
        seed: of all cases.
        batch_size: cases drawn at once, at most.
        num_inference_steps: steps of the sampler.
        solver: euler, or heun (two calls of the network a step); for rectified flow.
        time_shift: above 1 steps are shorter near the noise and longer near the end; for rectified flow.
        guidance_scale: guidance on the label, 1 for none.
        memory_gb: budget in GB, by which fewer cases are drawn at once and decoded in slabs; default: what is free on
            the GPU, no limit on a CPU.
        overlays: further configs of the ControlNet bundle, such as ddpm.yaml.
        overwrite: replace pairs that were generated with other settings or checkpoints.
        first: the first of the n pairs, so that several calls share a large number (docs/scaling.md).
        processes: on this machine, that share the pairs, each with a GPU of its own if there are any.
    """
    call("lldm3d.generate", "generate", locals())


def join(parts: str, output_dir: str, overwrite: bool = False) -> None:
    """Make one data set of pairs that several calls of `lldm3d generate` drew, each into a folder of its own.

    Args:
        parts: pattern of the folders, as 'pairs/part_*'; they stay where they are.
        output_dir: folder for dataset.json and manifest.json.
        overwrite: replace them.
    """
    call("lldm3d.generate", "join", locals())


def evaluate(
    real: str,
    synthetic: str,
    output_dir: str,
    segmenter: str | None = None,
    medicalnet: str | None = None,
    radimagenet: str | None = None,
    radiomics: bool = False,
    segmenter_command: str | None = None,
    max_copies: float | None = None,
    cache_dir: str | None = None,
    overwrite: bool = False,
) -> None:
    """Judge a synthetic data set against the real one: quality, alignment with the labels, copies of patients.

    Args:
        real: prepared data set, or any folder of scans.
        synthetic: generated data set, or any folder of scans on the same grid.
        output_dir: folder of the results.
        segmenter: folder of a segmentation stage trained on `real` alone (regime R).
        medicalnet: weights of a MedicalNet ResNet (its .pth file), for FID and KID as others report them.
        radimagenet: weights of RadImageNet's ResNet-50, for FID and KID in slices of each plane.
        radiomics: also compare radiomic features; needs the extra `radiomics`.
        segmenter_command: a further segmenter, such as 'nnUNetv2_predict -i {images} -o {labels} ...'.
        max_copies: largest share of near copies of training cases; above it the command exits with status 3.
        cache_dir: where findings of each case are kept, for all evaluations of the same data; default: in output_dir.
        overwrite: replace results that are there.
    """
    call("lldm3d.evaluation", "evaluate", locals())


def report(workdir: str, overwrite: bool = True) -> None:
    """Write the report of a work directory: report/report.html and report/tables.csv."""
    call("lldm3d.report", "report", locals())


def pack(
    output_dir: str,
    workdir: str | None = None,
    stages: tuple[str, ...] | str | None = None,
    bundle: str | None = None,
    weights: str | None = None,
    url: str = "https://github.com/Project-MONAI/model-zoo/releases/download/hosting_storage_v1",
    overwrite: bool = False,
) -> None:
    """Write bundles as zips that others run with MONAI alone, and their entries of the Model Zoo's model_info.json.

    Args:
        output_dir: folder for the zips.
        workdir: a chain's work directory: pack what it trained, its settings as defaults.
        stages: stages of it, or how their names begin, separated by commas; default: the generative ones, and the
            segmentations of the first seed.
        bundle: instead, this bundle; default: all, without weights.
        weights: its weights; settings are read from an overrides.yaml beside them.
        url: address at which the zips will lie, for model_info.json.
        overwrite: replace zips of the same version.
    """
    call("lldm3d.pack", "pack", locals())


def export(
    real: str,
    output_dir: str,
    synthetic: str | None = None,
    regime: str = "R",
    task: str = "multi",
    format: str = "decathlon",
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Write the real and synthetic cases of a regime for another program; validation and test cases are real always.

    Args:
        real: prepared data set.
        output_dir: the new folder; for nnunet its name is Dataset<three digits>_<Name>.
        synthetic: data set of synthetic pairs, for regimes with S.
        regime: R, S, R+S, 0.1R+S ...
        task: which classes the network tells apart; one that the data set declares (`lldm3d tasks`).
        format: decathlon (dataset.json with absolute paths, for the segmentation bundles and MONAI), nnunet (v2 raw,
            with copies of the files), or auto3dseg (a list, and the input.yaml of MONAI's AutoRunner).
        seed: of the choice of patients and pairs.
        overwrite: replace an earlier export.
    """
    call("lldm3d.export", "export", locals())


STATUSES = {ChildError: 1, UserError: 2, Refused: 3}  # exit statuses
COMMANDS = (run, study, stage, tasks, phantom, prepare, check, encode, generate, join, evaluate, report, pack, export)


def call(module: str, function: str, arguments: dict) -> Any:
    """Import `module` only now, as torch and MONAI take seconds, and call its function."""
    return getattr(importlib.import_module(module), function)(**arguments)


def deferred(command: Callable, calls: list[Callable]) -> Callable:
    """Stand in for `command` while fire reads the arguments.

    Fire itself would notice an unknown flag only after the command has run, which may be a week later.
    """

    @functools.wraps(command)
    def record(*args, **kwargs) -> None:
        calls.append(functools.partial(command, *args, **kwargs))

    texts = {name: str for name, kind in command.__annotations__.items() if kind in (str, str | None)}
    return fire.decorators.SetParseFns(**texts)(record)  # a folder named 2024 is no number


def main() -> None:
    """Exit status 2 for a user's mistake, 3 when a limit of the user's is passed, 1 when a child process failed, 130
    when interrupted."""
    calls: list[Callable] = []
    fire.Fire({command.__name__: deferred(command, calls) for command in COMMANDS}, name="lldm3d")
    try:
        for command in calls:
            command()
    except tuple(STATUSES) as error:
        print(f"lldm3d: error: {error}", file=sys.stderr)
        sys.exit(STATUSES[type(error)])
    except KeyboardInterrupt:
        sys.exit(130)
