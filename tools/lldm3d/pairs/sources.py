"""For which labels a method draws images: those a generator drew, real ones as they are or warped, or a folder's."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from lldm3d.data.dataset import load_cases, load_schema
from lldm3d.data.sources import ENDINGS, stem
from lldm3d.errors import UserError
from lldm3d.files import load_nifti, read_json, save_nifti, write_json
from lldm3d.processes import in_processes

DRAWN, TRAINING, TEST = "drawn", "training", "test"
# ranges of the warp at strength 1: the shapes of organs vary by more between patients, but stay anatomy
DEGREES, SCALE, SHIFT = 5.0, 0.08, 1.5  # rotation, relative change of size, voxels
ELASTIC, SMOOTHNESS = 1.0, 6.0  # voxels: standard deviation of the displacement, and of the Gaussian that smooths it


@dataclass(frozen=True)
class LabelFile:
    """A label map that an image is drawn for."""

    path: str
    name: str  # of the pair
    patient: str  # whose label it is or was; the name itself where it is nobody's
    table: tuple[tuple[int, int], ...] | None = None  # its values and their classes; None: they are the same


@dataclass(frozen=True)
class LabelSource:
    """A source of labels: `drawn`, `training`, `test`, or a folder of NIfTI label maps."""

    kind: str  # drawn, training, test or folder
    folder: str | None = None

    @property
    def slug(self) -> str:
        """The name of its folder in a work directory."""
        return self.kind if self.folder is None else folder_name(self.folder)


def parse_source(text: str) -> LabelSource:
    """Read the name of a source, or the path of a folder. Raises UserError for what is neither."""
    if text in (DRAWN, TRAINING, TEST):
        return LabelSource(text)
    if not Path(text).is_dir():
        raise UserError(f"there is no source of labels {text!r}: give drawn, training, test, or a folder of label maps")
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
    return [LabelFile(str(path.resolve()), stem(path), stem(path)) for path in paths]


def real_labels(dataset_dir: str | Path, split: str) -> list[LabelFile]:
    """The labels of the cases of a split as they are, under the cases' own names and patients."""
    cases = load_cases(dataset_dir, split)
    return [LabelFile(case.label, case.name, case.patient) for case in cases if case.label]


def warped_labels(
    dataset_dir: str | Path, output_dir: str | Path, n: int, seed: int = 0, strength: float = 1.0
) -> list[LabelFile]:
    """Write `n` labels of real training cases, each smoothly warped anew, as NIfTI of the prepared grid.

    Each case's label is taken in turn; `labels.json` in the folder lists them. No flips, as organs have a side.

    Args:
        strength: of the warp; 0 leaves the labels as they are, 1 is what the constants above say.
    """
    folder, classes = Path(output_dir).resolve(), len(load_schema(dataset_dir).class_names)
    cases = [case for case in load_cases(dataset_dir, TRAINING) if case.label]
    if not cases:
        raise UserError(f"{dataset_dir}: has no labelled training cases to warp")
    rounds = [(cases[index % len(cases)], index // len(cases)) for index in range(n)]
    files = [
        LabelFile(str(folder / f"{case.name}_warp{number:02d}.nii.gz"), f"{case.name}_warp{number:02d}", case.patient)
        for case, number in rounds
    ]
    write = partial(write_warped, classes=classes, seed=seed, strength=strength)
    tasks = [(index, case.label, file.path) for index, ((case, _), file) in enumerate(zip(rounds, files, strict=True))]
    list(in_processes(write, tasks, "warping labels"))
    write_json(folder / "labels.json", {"strength": strength, "labels": [asdict(file) for file in files]})
    return files


def write_warped(task: tuple[int, str, str], classes: int, seed: int, strength: float) -> None:
    """Write one warped label; `task` is its index, the path of the real label and that of the new one."""
    index, source, target = task
    label, affine = load_nifti(source)
    if strength > 0:
        label = warp_label(label.astype(np.uint8), classes, [seed, index], strength)
    save_nifti(target, label.astype(np.uint8), affine)


def warp_label(label: np.ndarray, classes: int, seed: Sequence[int], strength: float) -> np.ndarray:
    """A label map [X, Y, Z] moved by a random affine and a smooth displacement of the same for all classes.

    Each class is resampled linearly as a channel of its own and the largest wins, so that no class appears between two
    others. MONAI's `Rand3DElastic` does the warp.
    """
    import torch
    from monai.transforms import Rand3DElastic

    from lldm3d.data.labels import one_hot

    smoothing = (2 * np.pi**0.5 * SMOOTHNESS) ** 1.5  # uniform noise of +-1 has this much less spread once smoothed
    magnitude = strength * ELASTIC * 3**0.5 * smoothing
    warp = Rand3DElastic(
        sigma_range=(SMOOTHNESS, SMOOTHNESS),
        magnitude_range=(magnitude, magnitude),
        prob=1.0,
        rotate_range=(strength * DEGREES * np.pi / 180,) * 3,
        scale_range=(strength * SCALE,) * 3,
        translate_range=(strength * SHIFT,) * 3,
        mode="bilinear",
        padding_mode="border",
    )
    warp.set_random_state(int(np.random.SeedSequence(list(seed)).generate_state(1)[0]))
    hot = one_hot(torch.as_tensor(label)[None, None], classes)[0]
    return np.asarray(warp(hot)).argmax(0).astype(np.uint8)


def read_labels(folder: str | Path) -> list[LabelFile]:
    """The labels that `warped_labels` wrote."""
    return [LabelFile(**entry) for entry in read_json(Path(folder) / "labels.json")["labels"]]
