"""Finding the labelled scans of a BIDS data set (bids-specification.readthedocs.io: Anatomy, Segmentations)."""

import csv
import re
from pathlib import Path

from lldm3d.data.dataset import ENDINGS, Case, read_description, stem
from lldm3d.errors import UserError

DESCRIPTION = "dataset_description.json"
FIRST = "T1w"  # of several kinds of images
OF_LABELS = ("space", "seg", "atlas", "res", "den", "label", "desc")  # what a label's name has beyond its image's
OWN_GRID = ("orig", "T1w", "T2w", "FLAIR", "PDw", "scanner", "individual")  # spaces of a label that are its image's
NOT_IMAGES = ("dseg", "probseg", "mask", "defacemask")


def split_name(path: Path) -> tuple[str, dict[str, str], str]:
    """The entities of a file's name that tell which scan it is (`sub-01_ses-2`), the others, and its suffix (`T1w`)."""
    *parts, suffix = stem(path).split("_")
    entities = dict(part.partition("-")[::2] for part in parts)
    scan = "_".join(f"{key}-{value}" for key, value in entities.items() if key not in OF_LABELS)
    return scan, {key: value for key, value in entities.items() if key in OF_LABELS}, suffix


def anatomy_files(folder: Path, pattern: str) -> list[Path]:
    """NIfTI files of all subjects and sessions, in order."""
    found = {*folder.glob(f"sub-*/anat/{pattern}"), *folder.glob(f"sub-*/ses-*/anat/{pattern}")}
    return sorted(path for path in found if path.name.endswith(ENDINGS))


def bids_cases(folder: Path) -> tuple[list[Case], dict]:
    """The labelled scans, a patient for each `sub-`, and what their descriptions say (name, labels, licence).

    Labels are the `*_dseg.nii.gz` on the grid of their image in one of `derivatives/*`, or beside the images; images
    are T1w, or the one kind that has labels. Classes are those of a `dseg.tsv` (index, name).

    Raises:
        UserError: where there are no labels, one has no image, or a scan has two labels.
    """
    labels = scan_labels(folder)
    images: dict[str, dict[str, Path]] = {}
    for path in anatomy_files(folder, "*.nii*"):
        scan, _, suffix = split_name(path)
        if scan in labels and suffix not in NOT_IMAGES:
            images.setdefault(suffix, {})[scan] = path
    if len(images) > 1 and FIRST not in images:
        raise UserError(f"{folder}: has labelled {', '.join(images)} and no {FIRST}; keep one kind of images")
    suffix = FIRST if FIRST in images or not images else next(iter(images))
    chosen = images.get(suffix, {})
    if alone := sorted(labels.keys() - chosen.keys()):
        wanted = f"{alone[0]}_{suffix}.nii.gz"
        raise UserError(f"{labels[alone[0]]}: its image {wanted} is missing; add it, or remove the label")
    count = sum(split_name(path)[2] == suffix for path in anatomy_files(folder, "*.nii*"))
    if count > len(chosen):
        print(f"{folder}: {count - len(chosen)} of {count} {suffix} images have no label and are left out")
    pairs = [(scan, image.absolute(), labels[scan].absolute()) for scan, image in sorted(chosen.items())]
    cases = [Case(scan, str(image), str(label), scan.split("_")[0]) for scan, image, label in pairs]
    return cases, describe_bids(folder, next(iter(labels.values())))


def scan_labels(folder: Path) -> dict[str, Path]:
    """The label of each scan that has one on its own grid. Raises UserError where it has two, or none has one."""
    found: dict[str, Path] = {}
    for place in (folder, *sorted(folder.glob("derivatives/*"))):
        for path in anatomy_files(place, "*_dseg.nii*"):
            scan, entities, _ = split_name(path)
            if entities.get("space", "orig") not in OWN_GRID:
                continue
            if scan in found:
                raise UserError(f"{folder}: {found[scan]} and {path} are labels of one scan; keep one of them")
            found[scan] = path
    if not found:
        raise UserError(
            f"{folder}: has no labels; of BIDS are read derivatives/*/sub-*/anat/sub-*_dseg.nii.gz on the grid of "
            "their images. For labels elsewhere give --images, --labels and --label_map"
        )
    return found


def describe_bids(folder: Path, label: Path) -> dict:
    """Name, licence and class names as a dataset.json has them; without "labels" where no table names them."""
    description = read_description(folder / DESCRIPTION)
    about = {key: str(description[of]) for key, of in (("name", "Name"), ("licence", "License")) if of in description}
    place = next(parent for parent in label.parents if parent.parent.name == "derivatives" or parent == folder)
    tables = [*sorted(place.glob("*dseg.tsv")), *sorted(label.parent.glob("*dseg.tsv"))]
    return about | ({"labels": class_table(tables[0])} if tables else {})


def class_table(path: Path) -> dict[str, str]:
    """{value: name} of a dseg.tsv. Raises UserError where it has other columns or values."""
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines(), delimiter="\t"))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({error}); write it as a table with tabs") from None
    wrong = [row for row in rows if not re.fullmatch(r"\d+", row.get("index") or "") or not row.get("name")]
    if wrong or not rows:
        raise UserError(f"{path}: needs the columns index and name, tab between them, has {wrong[:1] or 'no lines'}")
    found = {int(row["index"]): row["name"] for row in rows}
    if len(found) < len(rows):
        raise UserError(f"{path}: a value stands there twice; give each one name")
    return {str(value): name for value, name in found.items()}
