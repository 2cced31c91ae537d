"""`lldm3d cross_validate`: a run for each fold, and one study of all patients."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from lldm3d.data.case_preparation import parse_fold
from lldm3d.errors import UserError
from lldm3d.files import write_yaml
from lldm3d.pipeline.profile import BUILT_IN
from lldm3d.pipeline.run import absolute, run
from lldm3d.pipeline.stage import read_plan
from lldm3d.study.lesions import write_detection
from lldm3d.study.tables import write_study

FOLDS = 5


def cross_validate(
    workdir: str,
    folds: int | None = None,
    profile: str | None = None,
    data: str | None = None,
    images: str | None = None,
    labels: str | None = None,
    label_map: str | dict | None = None,
    unlabelled: str | None = None,
    methods: str | Sequence[str] | None = None,
    sources: str | Sequence[str] | None = None,
    dry_run: bool = False,
    cores: int | None = None,
    gpus: int | None = None,
    executor: str | None = None,
    jobs: int | None = None,
) -> None:
    """Ask the study's question of few scans: each patient is tested once, by models that never saw that patient.

    Each fold is a work directory of `lldm3d run`, W/fold_1 and so on, with models of its own; W/study has the tables of
    all patients. A call goes on where an earlier one stopped.

    Args:
        workdir: folder of all results. It remembers profile, data and methods, so that --workdir alone goes on.
        folds: into how many parts the patients fall; default: 5.
        profile: demo, small (the default), full, or a YAML file; its `split` says the share of validation cases.
        data: a Decathlon, nnU-Net raw, BIDS or DICOM folder; or instead
        images: a folder of NIfTI images, with
        labels: a folder of labels with the same names.
        label_map: YAML file of class names and their values in the data; default: the labels of dataset.json.
        unlabelled: a folder of further images without labels, for what learns images alone.
        methods: to be compared, as haar_ldm,gem3d; default: the profile's.
        sources: of the labels that images are drawn for, as with `lldm3d run`; default: the profile's.
        dry_run: only list what would run.
        cores: CPU cores to use at once; default: all.
        gpus: GPUs to use at once; default: all.
        executor: slurm, which sends the stages to a cluster as jobs; default: this machine.
        jobs: jobs of the cluster at once; default: 20.

    Raises:
        UserError: as `lldm3d run` does, and for another number of folds than there is.
        ChildError: when a stage failed.
    """
    work = Path(workdir).resolve()
    folds = number_of_folds(work, folds)
    places = [work / f"fold_{number}" for number in range(1, folds + 1)]
    options = {"data": data, "images": images, "labels": labels, "label_map": label_map, "unlabelled": unlabelled}
    options |= {"methods": methods, "sources": sources, "dry_run": dry_run}
    options |= {"cores": cores, "gpus": gpus, "executor": executor, "jobs": jobs}
    with TemporaryDirectory() as folder:  # a dry run leaves nothing
        for number, place in enumerate(places, 1):
            own = (Path(folder) if dry_run else work) / f"fold_{number}.yaml"
            if profile or not (place / "run.yaml").is_file():
                base = profile or "small"
                base = base if base in BUILT_IN else absolute(base)
                write_yaml(own, {"base": base, "prepare": {"fold": f"{number}/{folds}"}})
            print(f"lldm3d: fold {number} of {folds}", flush=True)
            run(str(place), str(own) if own.is_file() else None, until="study", **options)
    if not dry_run:
        write_study(places, work / "study")
        write_detection(places, work / "study")
        print(f"lldm3d: done; the tables of all patients are in {work / 'study'}")


def number_of_folds(work: Path, wanted: int | None) -> int:
    """How many folds there are, or shall be.

    Raises UserError where these differ, there would be one alone, or the folder is a run's own.
    """
    if (work / "run.yaml").is_file():
        raise UserError(f"{work}: is the work directory of a run; a cross-validation needs one of its own, --workdir")
    if wanted is not None and wanted < 2:
        raise UserError(f"--folds {wanted}: at least 2 are needed")
    if not (work / "fold_1/run.yaml").is_file():
        return wanted or FOLDS
    _, found = parse_fold(read_plan(work / "fold_1")["settings"]["prepare"]["fold"])
    if wanted not in (None, found):
        raise UserError(f"{work}: has {found} folds, not {wanted}; choose another --workdir")
    return found
