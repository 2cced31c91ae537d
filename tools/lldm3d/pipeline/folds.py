"""`lldm3d cross_validate`: a run for each fold, and one study of all patients."""

from collections.abc import Sequence
from pathlib import Path

from lldm3d.data.case_preparation import parse_fold
from lldm3d.data.dataset import SPLITS, load_cases
from lldm3d.errors import UserError
from lldm3d.pipeline.plan import Plan, check_plan
from lldm3d.pipeline.run import as_list, planned, require_own_data, source_of
from lldm3d.pipeline.stage import read_plan
from lldm3d.pipeline.stages import selected_jobs
from lldm3d.pipeline.workflow import execute
from lldm3d.study.lesions import write_detection
from lldm3d.study.tables import write_study

FOLDS = 5
CHANGED = "the data changed between the preparations of the folds; choose another --workdir"


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
    work, files = Path(workdir).resolve(), {"data": data, "images": images, "labels": labels}
    files |= {"label_map": label_map, "unlabelled": unlabelled}
    contents = planned_folds(work, folds, profile, source_of(files), as_list(methods), as_list(sources))
    where = {"dry_run": dry_run, "cores": cores, "gpus": gpus, "executor": executor, "jobs": jobs}
    for until in ["study"] if dry_run else ["prepare", "study"]:  # all folds of the same data, before long work starts
        for number, (place, content) in enumerate(contents.items(), 1):
            print(f"lldm3d: fold {number} of {len(contents)}, until {until}", flush=True)
            execute(place, content, selected_jobs(Plan.of(content), until), **where)
        if not dry_run:
            require_whole(list(contents))
    if not dry_run:
        write_study(list(contents), work / "study")
        write_detection(list(contents), work / "study")
        print(f"lldm3d: done; the tables of all patients are in {work / 'study'}")


def planned_folds(work: Path, folds: int | None, profile: str | None, *options: object) -> dict[Path, dict]:
    """The content of `run.yaml` of each fold, by its work directory.

    Args:
        options: data, methods and sources, as `planned` takes them.

    Raises:
        UserError: where the folds would differ, or are not planned by these settings.
    """
    folds = number_of_folds(work, folds)
    places, contents = [work / f"fold_{number}" for number in range(1, folds + 1)], {}
    profile = profile or (None if (places[0] / "run.yaml").is_file() else "small")
    source, *rest = options
    for number, place in enumerate(places, 1):
        known = number == 1 or (place / "run.yaml").is_file()
        content = planned(place, profile, source, None, *rest) if known else contents[places[0]]
        contents[place] = with_fold(content, f"{number}/{folds}")
    for place, content in contents.items():
        require_own_data(place, content)
        check_plan(Plan.of(content))
    require_alike_folds(contents)
    return contents


def with_fold(content: dict, fold: str) -> dict:
    """The content of `run.yaml` of another fold."""
    settings = content["settings"] | {"prepare": content["settings"]["prepare"] | {"fold": fold}}
    return content | {"fold": fold, "settings": settings}


def number_of_folds(work: Path, wanted: int | None) -> int:
    """How many folds there are, or shall be.

    Raises UserError where these differ and a fold is prepared, there would be one alone, or the folder is not a
    cross-validation's.
    """
    if work.exists() and not work.is_dir():
        raise UserError(f"{work}: is a file; a cross-validation needs a folder of its own, --workdir")
    if (work / "run.yaml").is_file():
        raise UserError(f"{work}: is the work directory of a run; a cross-validation needs one of its own, --workdir")
    if wanted is not None and wanted < 2:
        raise UserError(f"--folds {wanted}: at least 2 are needed")
    first = work / "fold_1"
    if not (first / "run.yaml").is_file():
        if (work / "study").exists():
            raise UserError(f"{work / 'study'}: was made by no cross-validation; choose another --workdir")
        return wanted or FOLDS
    fold = parse_fold(read_plan(first).get("fold"))
    if fold is None:
        raise UserError(f"{first}: is no fold of a cross-validation, but a run of its own; choose another --workdir")
    if wanted not in (None, fold[1]) and (first / "dataset").is_dir():
        raise UserError(f"{work}: has {fold[1]} folds, not {wanted}; choose another --workdir")
    return wanted or fold[1]


def require_alike_folds(contents: dict[Path, dict]) -> None:
    """Raise UserError where folds would have other data or settings, or a patient in two of them."""
    same = {}
    for place, content in contents.items():
        prepare = {**content["settings"]["prepare"], "fold": None}
        if prepare.get("split_by") == "case":
            raise UserError(
                f"{content['profile']}: prepare#split_by is case, so that a patient would be in several folds; a "
                "cross-validation needs patient"
            )
        kept = {key: content[key] for key in ("data", "methods", "sources")}
        same[place] = {**kept, "settings": {**content["settings"], "prepare": prepare}}
    first = next(iter(same))
    for place, other in same.items():
        if differing := [key for key in other if other[key] != same[first][key]]:
            raise UserError(
                f"{place}/run.yaml: has other {', '.join(differing)} than {first}; give --profile, and --methods "
                "and --sources if they are not the profile's, for all folds"
            )


def require_whole(places: Sequence[Path]) -> None:
    """Raise UserError unless each labelled patient of each prepared fold is tested in one fold, and in no other."""
    tested: dict[str, Path] = {}
    for place in places:
        for patient in {case.patient for case in load_cases(place / "dataset", "test")}:
            if patient in tested:
                raise UserError(f"{place}: tests {patient}, whom {tested[patient]} tests as well; {CHANGED}")
            tested[patient] = place
    for place in places:
        cases = [case for split in SPLITS for case in load_cases(place / "dataset", split) if case.label]
        if missing := sorted({case.patient for case in cases} - tested.keys()):
            raise UserError(f"{place}: has {missing[0]}, whom no fold tests; {CHANGED}")
