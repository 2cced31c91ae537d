"""The whole chain, a study, one stage, the report."""

from pathlib import Path

from lldm3d.commands.call import call


def run(
    workdir: str,
    profile: str | None = None,
    data: str | None = None,
    images: str | None = None,
    labels: str | None = None,
    label_map: str | dict | None = None,
    methods: str | None = None,
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
        methods: to be compared at equal minutes of training, as lldm,ha_gan,ddpm (docs/methods.md); remembered as well.
        dry_run: only list the stages that would run and, of a prepared data set, what they take on this machine.
        until: last stage to run.
        cores: CPU cores to use at once; default: all.
        gpus: GPUs to use at once; default: all.
        executor: slurm, which sends the stages to a cluster as jobs (docs/cluster.md); default: this machine.
        jobs: jobs of the cluster at once; default: 20.
    """
    files = {"data": data, "images": images, "labels": labels, "label_map": label_map}
    source = {key: absolute(name) for key, name in files.items() if name}
    options = {
        "methods": methods.split(",") if methods else None,
        "dry_run": dry_run,
        "until": until,
        "cores": cores,
        "gpus": gpus,
    }
    options |= {"executor": executor, "jobs": jobs}
    call("lldm3d.pipeline.run", "run", {"workdir": workdir, "profile": profile, "data": source or None, **options})


def absolute(source: str | dict) -> str | dict:
    """A path made absolute; a label map given on the command line as it is."""
    return source if isinstance(source, dict) else str(Path(source).resolve())


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
    call("lldm3d.pipeline.study", "study", {"workdir": workdir, "profile": profile, "grid": grid, **options})
