"""Reading a prepared data set (Decathlon layout, see docs/data.md)."""

from dataclasses import dataclass, field
from pathlib import Path

from lldm3d.data.tasks import ALL, Task, build_task, checked_tasks
from lldm3d.errors import UserError
from lldm3d.files import read_json

SPLITS = ("training", "validation", "test")


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

    def task(self, name: str) -> Task:
        """The task `name`; `multi` tells all classes apart. Raises UserError for a task that is not declared."""
        if name == ALL:
            return build_task(name, {class_name: (class_name,) for class_name in self.class_names[1:]}, self)
        if name not in self.tasks:
            raise UserError(
                f"the data set {self.name!r} has no task {name!r}; it has {', '.join((ALL, *self.tasks))}. "
                "Declare tasks with `lldm3d tasks`, or in the label map of `lldm3d prepare`"
            )
        return build_task(name, self.tasks[name], self)


def load_schema(dataset_dir: str | Path) -> Schema:
    """Read what all cases of the prepared data set share. Raises UserError where any of it is missing or broken."""
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
        )
    except KeyError as error:
        raise UserError(f"{file}: has no {error}; make a prepared data set with `lldm3d prepare`") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file}: is broken ({error}); make it again with `lldm3d prepare`") from None
    if len(schema.roi_size) != 3 or len(schema.spacing) != 3:
        raise UserError(f"{file}: roi_size {schema.roi_size} and spacing {schema.spacing} must have three entries each")
    for name in [*schema.tubular, *schema.lesions, *schema.inside, *schema.inside.values()]:
        if name not in schema.class_names:
            raise UserError(f"{file}: names the class {name!r}, but its labels are {list(schema.class_names)}")
    return schema


def load_cases(dataset_dir: str | Path, split: str) -> list[dict]:
    """List the cases of a split as dicts with the absolute paths "image" and "label", and "patient".

    The label is None where synthetic images were drawn without one. `split` is training, validation or test. Raises
    UserError where a file is missing.
    """
    if split not in SPLITS:
        raise UserError(f"split {split!r} does not exist; choose one of {', '.join(SPLITS)}")
    file, content = _read(dataset_dir)
    cases = []
    for entry in content.get(split, []):
        case = {key: str((file.parent / entry[key]).resolve()) for key in ("image", "label") if key in entry}
        for path in case.values():
            if not Path(path).is_file():
                raise UserError(f"{path}: no such file, though {file} lists it; run `lldm3d prepare` again")
        cases.append({"label": None, **case, "patient": str(entry.get("patient", Path(entry["image"]).name))})
    return cases


def _read(dataset_dir: str | Path) -> tuple[Path, dict]:
    file = Path(dataset_dir).resolve() / "dataset.json"
    if not file.is_file():
        raise UserError(f"{dataset_dir}: holds no dataset.json; give the folder that `lldm3d prepare` made")
    return file, read_json(file)


def _class_names(labels: dict[str, str]) -> tuple[str, ...]:
    """Order {"0": "background", "1": ...} by value; the values must be 0, 1, 2 ... without a gap."""
    names = {int(value): str(name) for value, name in labels.items()}
    if sorted(names) != list(range(len(names))) or names.get(0) != "background":
        raise ValueError(f"labels must be 0 (background), 1, 2 ... without a gap, got {labels}")
    return tuple(names[value] for value in sorted(names))
