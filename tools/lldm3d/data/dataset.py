"""Reading a prepared data set (Decathlon layout, see docs/how-to/data.md), and its tasks: the classes told apart."""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lldm3d.errors import UserError
from lldm3d.files import read_json, read_yaml, write_json

ALL = "multi"  # the task of all classes, which needs no entry
MEAN = "mean"  # over the classes of a task, in tables: no class is named so
NAME = re.compile(r"\w[\w-]*")  # a task is a folder
LEFT_OUT_VALUE = 255  # of voxels that the loss of a segmentation leaves out; no class has it


@dataclass(frozen=True)
class Task:
    """What a network learns: the target classes, and the one to which each label value of the files belongs."""

    name: str
    class_names: tuple[str, ...]  # targets, with background at 0
    targets: tuple[int, ...]  # for each label value of the files the index of its target, 0 for background
    tubular: tuple[str, ...]  # targets that are made of tubular classes alone
    lesions: tuple[str, ...]  # targets that are made of lesions alone


def build_task(name: str, merged: Mapping[str, Sequence[str]], schema) -> Task:
    """The task that merges classes of `schema` (class_names, tubular, lesions) into the targets of `merged`."""
    target_of = {source: index for index, sources in enumerate(merged.values(), start=1) for source in sources}

    def made_of(kind: Sequence[str]) -> tuple[str, ...]:
        return tuple(target for target, sources in merged.items() if set(sources) <= set(kind))

    targets = tuple(target_of.get(source, 0) for source in schema.class_names)
    return Task(name, ("background", *merged), targets, made_of(schema.tubular), made_of(schema.lesions))


def checked_tasks(tasks: object, class_names: tuple[str, ...], where: str | Path) -> dict[str, dict[str, tuple]]:
    """Task: target class: source classes, from YAML or JSON. Raises UserError with the first fault.

    `{liver: {liver: [liver, HCC]}}`; a target of one class may be written `{hcc: {HCC: HCC}}`.
    """
    example = "write `tasks: {vein: {vein: [portal vein, hepatic vein]}}`: task, target class, classes that it merges"
    if not isinstance(tasks, dict) or not all(isinstance(targets, dict) and targets for targets in tasks.values()):
        raise UserError(f"{where}: tasks is {tasks!r}; {example}")
    return {str(name): checked_task(str(name), targets, class_names, where) for name, targets in tasks.items()}


def checked_task(name: str, targets: dict, class_names: tuple[str, ...], where: str | Path) -> dict[str, tuple]:
    if not NAME.fullmatch(name) or name == ALL:
        reason = "always means all classes" if name == ALL else "names a folder: letters, digits, - and _"
        raise UserError(f"{where}: the task {name!r} needs another name, as it {reason}")
    task = {str(to): tuple(of) if isinstance(of, (list, tuple)) else (of,) for to, of in targets.items()}
    sources = [source for merged in task.values() for source in merged]
    if wrong := [source for source in sources if source not in class_names[1:]]:
        raise UserError(f"{where}: the task {name!r} merges {wrong}; the classes are {list(class_names[1:])}")
    if twice := sorted({source for source in sources if sources.count(source) > 1}):
        raise UserError(f"{where}: the task {name!r} gives {twice} to two targets; give each class to one")
    if not {"background", MEAN}.isdisjoint(task) or not all(task.values()):
        raise UserError(
            f"{where}: the task {name!r}: a target needs a name other than background and {MEAN}, and one class or more"
        )
    return task


SPLITS = ("training", "validation", "test")
ORIENTATIONS = ("ras", "stored")
ENDINGS = (".nii.gz", ".nii")


def stem(path: str | Path) -> str:
    """The file name without .nii.gz or .nii."""
    return re.sub(r"\.nii(\.gz)?$", "", Path(path).name)


@dataclass(frozen=True)
class Case:
    """One scan, its label and its patient; the paths are absolute."""

    name: str  # crops of one patient are cases of their own
    image: str
    label: str | None  # None for a training scan that nobody labelled, and an image that was drawn without one
    patient: str
    split: str = "training"
    rescale: bool = False  # read with intensities brought to [0, 1]: a scan that was not prepared
    times: int = 1  # how often a segmentation sees it for each time that it sees another case of its list

    def as_dict(self) -> dict[str, str | int]:
        """The case as MONAI takes it and as a data list holds it; without "label" where it has none."""
        times = self.times if self.times > 1 else None
        found = {"image": self.image, "label": self.label, "patient": self.patient, "times": times}
        return {key: value for key, value in found.items() if value is not None}


@dataclass(frozen=True)
class Schema:
    """What the cases of a prepared data set have in common."""

    name: str
    class_names: tuple[str, ...]  # by label value; background at 0
    roi_size: tuple[int, int, int]  # voxels
    spacing: tuple[float, float, float]  # mm
    tubular: tuple[str, ...] = ()  # thin classes, such as vessels
    lesions: tuple[str, ...] = ()
    inside: dict[str, str] = field(default_factory=dict)  # class -> the class that surrounds it
    tasks: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)  # task -> target -> classes it merges
    orientation: str = "ras"  # or stored: the acquisition's own axes, the thick one last
    intensity: str | None = None  # how grey values were brought to 0 to 1: min_max, percentile or window
    source_values: dict[str, tuple[int, ...]] = field(default_factory=dict)  # class -> its values before `prepare`
    left_out: bool = False  # whether labels have voxels of `LEFT_OUT_VALUE`

    @property
    def axes(self) -> np.ndarray | None:
        """What `load_volume` turns the files of this data set, and of its pairs, to."""
        return axes_of(self.orientation)

    @property
    def thin(self) -> list[int]:
        """The label values of vessels and lesions, which resampling has to keep whole."""
        return [self.class_names.index(name) for name in (*self.tubular, *self.lesions)]

    def crop(self, roi_size: Sequence[int] | None) -> list[int]:
        """A training crop in voxels: as wanted, but no larger than the cases; without a wish, whole cases."""
        return [min(pair) for pair in zip(roi_size or self.roi_size, self.roi_size, strict=True)]

    def task(self, name: str) -> Task:
        """The task `name`; `multi` tells all classes apart. Raises UserError for a task that it does not have."""
        if name == ALL:
            return build_task(name, {class_name: (class_name,) for class_name in self.class_names[1:]}, self)
        if name not in self.tasks:
            raise UserError(
                f"the data set {self.name!r} has no task {name!r}; it has {', '.join((ALL, *self.tasks))}. "
                "Add tasks with `lldm3d tasks`, or in the label map of `lldm3d prepare`"
            )
        return build_task(name, self.tasks[name], self)


def one_of(allowed: Sequence, key: str, value: object) -> object:
    """The value. Raises ValueError where it is none of the allowed ones."""
    if value not in allowed:
        raise ValueError(f"{key} is {value!r}, allowed are {', '.join(map(str, allowed))}")
    return value


def modalities(about: dict) -> dict[str, str]:
    """Channel: modality, as the Decathlon writes it; others write one string, or nnU-Net's `channel_names`."""
    found = about.get("modality") or about.get("channel_names") or "unknown"
    return found if isinstance(found, dict) else {"0": str(found)}


def axes_of(orientation: str | None) -> np.ndarray | None:
    """What `load_volume` turns volumes to in an orientation, ras or stored."""
    return None if orientation == "stored" else np.eye(4)


def load_schema(dataset_dir: str | Path, left_out: bool = False) -> Schema:
    """Read what all cases of the prepared data set share.

    Args:
        left_out: whether labels may leave voxels out, as whoever reads them knows what these mean.

    Raises:
        UserError: where any of it is missing or broken, or labels leave voxels out that may not.
    """
    file, content = _read(dataset_dir)
    try:
        schema = Schema(
            name=str(content["name"]),
            class_names=_class_names(content["labels"]),
            roi_size=tuple(int(size) for size in content["roi_size"]),
            spacing=tuple(float(length) for length in content["spacing"]),
            tubular=tuple(content.get("tubular", ())),
            lesions=tuple(content.get("lesions", ())),
            inside=dict(content.get("inside", {})),
            tasks=checked_tasks(content.get("tasks", {}), _class_names(content["labels"]), file),
            intensity=content.get("intensity"),
            orientation=one_of(ORIENTATIONS, "orientation", content.get("orientation", "ras")),
            source_values={name: tuple(map(int, of)) for name, of in content.get("source_values", {}).items()},
            left_out=one_of((None, LEFT_OUT_VALUE), "left_out", content.get("left_out")) is not None,
        )
    except KeyError as error:
        raise UserError(f"{file}: has no {error}; make a prepared data set with `lldm3d prepare`") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file}: is broken ({error}); make it again with `lldm3d prepare`") from None
    if len(schema.roi_size) != 3 or len(schema.spacing) != 3:
        raise UserError(f"{file}: roi_size {schema.roi_size} and spacing {schema.spacing} must have three entries each")
    if schema.left_out and not left_out:
        raise UserError(
            f"{file}: labels leave voxels out (value {LEFT_OUT_VALUE}, of `lldm3d refine --contradicted left_out`); "
            "segmentations and `lldm3d export` to nnunet or decathlon take them; give the pairs it was made from"
        )
    for name in [*schema.tubular, *schema.lesions, *schema.inside, *schema.inside.values()]:
        if name not in schema.class_names:
            raise UserError(f"{file}: names the class {name!r}, but its labels are {list(schema.class_names)}")
    return schema


def load_cases(dataset_dir: str | Path, split: str) -> list[Case]:
    """The cases of a split: training, validation or test.

    Raises UserError where a file is missing, or a case of the split stands there twice, or in another split as well. In
    the list of a mix, real and synthetic training cases may have one name.
    """
    if split not in SPLITS:
        raise UserError(f"split {split!r} does not exist; choose one of {', '.join(SPLITS)}")
    file, content = _read(dataset_dir)
    cases, names = [], {part: names_in(content, part) for part in SPLITS}
    others = {name for part in SPLITS if part != split for name in names[part]}
    if twice := [name for name, number in names[split].items() if number > 1 or name in others]:
        raise UserError(f"{file}: lists the case {twice[0]!r} more than once; a case belongs to one split")
    for entry in content.get(split) or []:
        if not has_image(entry) or not isinstance(entry.get("label", ""), str):
            raise UserError(f'{file}: {entry!r} in {split}: a case needs an "image", one file, and a "label" likewise')
        if not isinstance(times := entry.get("times", 1), int) or times < 1:
            raise UserError(f"{file}: {entry!r} in {split}: `times` must be a whole number of at least 1")
        # links are not followed, as what they lead to may bear another name: DVC, git-annex and Hugging Face do so
        paths = {key: os.path.abspath(file.parent / entry[key]) for key in ("image", "label") if key in entry}
        for path in paths.values():
            if not Path(path).is_file():
                raise UserError(f"{path}: no such file, though {file} lists it; run `lldm3d prepare` again")
        patient = Path(entry["image"]).name if entry.get("patient") is None else str(entry["patient"])
        cases.append(Case(stem(paths["image"]), paths["image"], paths.get("label"), patient, split, times=times))
    return cases


def names_in(content: dict, split: str) -> Counter:
    """How often each case's name stands in a split."""
    return Counter(stem(entry["image"]) for entry in content.get(split) or [] if has_image(entry))


def has_image(entry: object) -> bool:
    """Whether the entry of a case names its image."""
    return isinstance(entry, dict) and isinstance(entry.get("image"), str)


def moved(case: dict, folder: Path, target: Path) -> dict:
    """The entry of a case in the dataset.json of `folder` as it is written in that of `target`."""
    return case | {key: os.path.relpath(folder / case[key], target) for key in ("image", "label") if key in case}


def read_description(file: Path) -> dict:
    """The content of a dataset.json. Raises UserError where it is missing, broken or no mapping."""
    content = read_json(file)
    if not isinstance(content, dict):
        raise UserError(f"{file}: holds a {type(content).__name__}, but a mapping `{{name: value}}` is needed")
    return content


def _read(dataset_dir: str | Path) -> tuple[Path, dict]:
    file = Path(dataset_dir).resolve() / "dataset.json"
    if not file.is_file():
        raise UserError(f"{dataset_dir}: holds no dataset.json; give the folder that `lldm3d prepare` made")
    return file, read_description(file)


def _class_names(labels: dict[str, str]) -> tuple[str, ...]:
    """Order {"0": "background", "1": ...} by value; the values must be 0, 1, 2 ... without a gap."""
    names = {int(value): str(name) for value, name in labels.items()}
    if sorted(names) != list(range(len(names))) or names.get(0) != "background":
        raise ValueError(f"labels must be 0 (background), 1, 2 ... without a gap, got {labels}")
    if len({*names.values()}) < len(names) or not all(name.strip() for name in names.values()):
        raise ValueError(f"each of the labels needs a name of its own, got {labels}")
    return tuple(names[value] for value in sorted(names))


def add_tasks(dataset_dir: str | Path, tasks: str | Path) -> None:
    """Add tasks to a prepared data set: which of its classes a segmentation takes as one.

    Nothing that was made from its cases is made again. A task that is there cannot become another one, as trained
    networks bear its name.

    Args:
        dataset_dir: prepared data set.
        tasks: YAML file of task, target class, merged classes: `vein: {vein: [portal vein, hepatic vein]}`.

    Raises:
        UserError: where the file cannot be read, or a task is not possible or already there with other classes.
    """
    schema, path = load_schema(dataset_dir), Path(dataset_dir) / "dataset.json"
    content = read_yaml(tasks, "write `tasks: {vein: {vein: [portal vein, hepatic vein]}}`")
    added = checked_tasks(content.get("tasks", content), schema.class_names, tasks)
    if changed := [name for name in added if name in schema.tasks and added[name] != schema.tasks[name]]:
        raise UserError(f"{path}: has other tasks of the names {changed}; choose new names")
    write_json(path, read_json(path) | {"tasks": schema.tasks | added})
    print(f"{path}: the tasks are {', '.join((ALL, *(schema.tasks | added)))}")
