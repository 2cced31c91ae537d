"""A BIDS data set: images of subjects, and their labels in `derivatives/` (bids-specification.readthedocs.io, 1.10)."""

import re
from collections import defaultdict
from pathlib import Path

from lldm3d import __version__
from lldm3d.data.dataset import SPLITS, Schema, Task, modalities
from lldm3d.errors import UserError
from lldm3d.evaluation.metrics import write_csv
from lldm3d.export.nnunet import copy_case
from lldm3d.files import atomic_write, write_json

VERSION = "1.10.0"
SUFFIXES = {"FLAIR": "FLAIR", "T2": "T2w", "PD": "PDw", "": "T1w"}  # what the modality of the data says: image suffix
PARTICIPANTS = {
    "split": {
        "Description": "What the subject is for",
        "Levels": {"training": "to train on", "validation": "to choose by", "test": "to test with"},
    },
    "synthetic": {
        "Description": "Whether a model drew the subject",
        "Levels": {"yes": "drawn by a model: no such patient exists", "no": "a patient"},
    },
}
README = """{name}: {regime} by 3D-LLDM {version}

Subjects of the column `synthetic` in participants.tsv were drawn by a model; no such patients exist. Prepared volumes:
intensities lie in [0, 1]. Labels are in derivatives/labels, their classes in its dseg.tsv. For research only.
"""


def image_suffix(modality: str) -> str:
    """The suffix of images of a modality. Raises UserError for CT, which BIDS does not know."""
    if re.search(r"\bCT\b", modality, re.IGNORECASE):
        raise UserError(f"the data are {modality!r}, and BIDS has names for images of MR alone; take another --format")
    return next(suffix for word, suffix in SUFFIXES.items() if word in modality.upper())


def subject_names(cases: list[dict]) -> list[str]:
    """`sub-` of each case, with `_run-` where a patient has several; synthetic cases are subjects of their own.

    Raises UserError where two patients have the same letters and digits, which are all that BIDS takes.
    """
    subjects, runs = {}, defaultdict(int)
    names = []
    for case in cases:
        subject = re.sub(r"[^a-zA-Z0-9]", "", case["subject"].removeprefix("sub-"))
        if not subject or subjects.setdefault(subject, case["subject"]) != case["subject"]:
            other = subjects.get(subject, "nothing")
            fault = f"the patient {case['subject']!r} has the letters and digits of {other!r}"
            raise UserError(f"{fault}, and BIDS takes no others; rename one of them in dataset.json")
        runs[subject] += 1
        names.append((subject, runs[subject]))
    return [f"sub-{subject}" + (f"_run-{run}" if runs[subject] > 1 else "") for subject, run in names]


def write_bids(
    content: dict, schema: Schema, task: Task, made: set[Path], synthetic: bool, regime: str, folder: Path
) -> None:
    """Write the cases of a data list as subjects, with the labels of the task as a derivative.

    Args:
        made: images of the pairs, which are subjects of their own, whatever patient's label they bear.
        synthetic: whether these show no patients.

    Raises:
        UserError: for CT, and where names of patients do not differ in letters and digits.
    """
    suffix = image_suffix(str(modalities(content).get("0", "")))
    cases = []
    for split in SPLITS:
        for case in content[split]:
            own = Path(case["image"]).resolve() in made
            subject = Path(case["image"]).name.removesuffix(".nii.gz").removesuffix(".nii") if own else case["patient"]
            cases.append(case | {"subject": subject, "split": split, "synthetic": "yes" if own and synthetic else "no"})
    names, labels = subject_names(cases), folder / "derivatives/labels"
    for case, name in zip(cases, names, strict=True):
        place = Path(name.split("_")[0], "anat")
        paths = folder / place / f"{name}_{suffix}.nii.gz", labels / place / f"{name}_dseg.nii.gz"
        copy_case(case, schema, task, *paths)
    write_descriptions(content, task, regime, folder)
    subjects = {name.split("_")[0]: case for case, name in zip(cases, names, strict=True)}
    rows = [{"participant_id": name, **case} for name, case in subjects.items()]
    write_csv(folder / "participants.tsv", ("participant_id", *PARTICIPANTS), rows)
    write_json(folder / "participants.json", PARTICIPANTS)


def write_descriptions(content: dict, task: Task, regime: str, folder: Path) -> None:
    """What BIDS wants at the top of a data set and of a derivative."""
    licence = content.get("licence") or content.get("license")
    common = {"Name": content["name"], "BIDSVersion": VERSION, "License": licence or "not stated"}
    made_by = {"Name": "3D-LLDM", "Version": __version__}
    write_json(folder / "dataset_description.json", common | {"DatasetType": "raw", "GeneratedBy": [made_by]})
    derived = {"DatasetType": "derivative", "GeneratedBy": [made_by], "SourceDatasets": [{"URL": "../.."}]}
    write_json(folder / "derivatives/labels/dataset_description.json", common | derived)
    classes = [{"index": value, "name": name} for value, name in enumerate(task.class_names)]
    write_csv(folder / "derivatives/labels/dseg.tsv", ("index", "name"), classes)
    with atomic_write(folder / "README") as temporary:
        temporary.write_text(README.format(name=content["name"], regime=regime, version=__version__))
