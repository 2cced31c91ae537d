"""For which labels a method draws images: those a generator drew, real ones as they are or warped, or a folder's.

The kinds `reconstructed` (real training pairs, their images encoded and decoded), `both` (the pairs of `training` and
of `drawn` together), `refined` and `left_out` (those of `training`, whose labels networks that learnt from real data
have mended, or in part left out) and `pseudo_labelled` (images drawn without labels, which get those that such networks
see in them) draw nothing.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lldm3d.data.dataset import SPLITS, load_cases, read_description
from lldm3d.data.sources import ENDINGS, stem
from lldm3d.errors import UserError
from lldm3d.files import read_json
from lldm3d.methods.registry import (
    BOTH,
    DRAWN,
    EDITED,
    LEFT_OUT,
    PSEUDO_LABELLED,
    RECONSTRUCTED,
    REFINED,
    SHAPES,
    TEST,
    TRAINING,
    UNWARPED,
)

MENDED = (REFINED, LEFT_OUT)
VOTED = (*MENDED, PSEUDO_LABELLED)  # by networks that learnt from real data: alignment says nothing about such labels
VOTERS = 2  # segmentations of real data, at least, that vote on labels; of two both have to agree
JOINED = {
    BOTH: (TRAINING, DRAWN),
    **dict.fromkeys(MENDED, (TRAINING,)),
    PSEUDO_LABELLED: (DRAWN,),
}  # what is made of pairs of other sources, and of which
EDIT_SETTINGS = ("lesion", "organ", "long_axis")  # of a profile's section `methods`: what these lesions are
WARPED = "warped"  # on a study's axis of pairs: real training scans, warped as the labels of `training`: no synthesis
WRITTEN = (TRAINING, *EDITED)  # whose labels are written before any image is made for them
KINDS = (DRAWN, TRAINING, UNWARPED, TEST, RECONSTRUCTED, BOTH, *VOTED, *EDITED)  # each of this name; and folders


@dataclass(frozen=True)
class LabelFile:
    """A label map that an image is drawn for."""

    path: str
    name: str  # of the pair
    patient: str  # whose label it is or was; the name itself where it is nobody's
    table: tuple[tuple[int, int], ...] | None = None  # its values and their classes; None: they are the same
    edits: Sequence[dict] = ()  # of a real scan, that made the label: rows of `lldm3d.lesions.editor.Edit`


@dataclass(frozen=True)
class LabelSource:
    """A source of labels: one of `KINDS`, or a folder of NIfTI label maps."""

    kind: str  # of KINDS, or folder
    folder: str | None = None

    @property
    def slug(self) -> str:
        """The name of its folder in a work directory."""
        return self.kind if self.folder is None else folder_name(self.folder)


def parse_source(text: str) -> LabelSource:
    """Read the name of a source, or the path of a folder. Raises UserError for what is neither."""
    if text in KINDS:
        return LabelSource(text)
    if not Path(text).is_dir():
        raise UserError(f"there is no source of labels {text!r}: give {', '.join(KINDS)}, or a folder of label maps")
    return LabelSource("folder", str(Path(text).resolve()))


def folder_name(path: str) -> str:
    """A path as the name of one folder, such as `others_labels` for others/labels."""
    return re.sub(r"[^\w.]+", "_", str(path)).strip("_")[-60:]


def labels_in(folder: str | Path) -> list[LabelFile]:
    """The label maps of a folder, or of its `labelsTr`, by name. Raises UserError where there are none."""
    folder = Path(folder)
    held = folder / "labelsTr" if (folder / "labelsTr").is_dir() else folder
    paths = sorted(path for path in held.glob("*") if path.name.endswith(ENDINGS) and path.name[0] != ".")
    if not paths:
        raise UserError(f"{folder}: holds no label maps (.nii.gz or .nii); give a folder of them")
    return label_files(paths)


def label_files(paths: Sequence[Path]) -> list[LabelFile]:
    """Label maps under their files' names, of the patients that a dataset.json beside them, or one folder up, names."""
    known: dict[Path, str] = {}
    for folder in {above for path in paths for above in (path.resolve().parent, path.resolve().parents[1])}:
        content = read_description(folder / "dataset.json") if (folder / "dataset.json").is_file() else {}
        for case in [case for split in SPLITS for case in content.get(split) or [] if isinstance(case, dict)]:
            if isinstance(case.get("label"), str) and case.get("patient"):
                known[(folder / case["label"]).resolve()] = str(case["patient"])
    return [LabelFile(str(path.resolve()), stem(path), known.get(path.resolve(), stem(path))) for path in paths]


def real_labels(dataset_dir: str | Path, split: str) -> list[LabelFile]:
    """The labels of the cases of a split as they are, under the cases' own names and patients."""
    cases = load_cases(dataset_dir, split)
    return [LabelFile(case.label, case.name, case.patient) for case in cases if case.label]


def shapes_path(work: str | Path, seed_folder: str = "seed_0") -> Path:
    """The masks that LN-Gen drew in a work directory."""
    return Path(work) / "methods" / SHAPES / seed_folder / "shapes/shapes.json"


def edit_settings(section: dict) -> dict:
    """What the section `methods` of a profile says of new lesions."""
    return {key: section[key] for key in EDIT_SETTINGS if key in section}


def read_labels(folder: str | Path) -> list[LabelFile]:
    """The labels that `write_warped_pairs` or `write_edited_labels` wrote."""
    return [LabelFile(**entry) for entry in read_json(Path(folder) / "labels.json")["labels"]]
