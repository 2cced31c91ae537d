"""Which values of the data's labels become which class."""

import os
import unicodedata
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from lldm3d.data.dataset import LEFT_OUT_VALUE, MEAN, checked_tasks
from lldm3d.errors import UserError
from lldm3d.files import read_yaml

MAX_VALUE = 65535  # of a label file, so that a lookup table stays small


@dataclass(frozen=True)
class LabelMap:
    """Class names with their values in the data; the n-th class (from 1) is n once prepared, 0 is background."""

    classes: dict[str, tuple[int, ...]]
    priority: tuple[str, ...]  # low to high; all classes
    tubular: tuple[str, ...] = ()
    lesions: tuple[str, ...] = ()
    inside: dict[str, str] = field(default_factory=dict)
    tasks: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)  # task -> target -> classes it merges
    background: frozenset[int] | None = frozenset({0})  # values that are background; None: all that no class names

    def unknown(self, values: list[int]) -> list[int]:
        """Those `values` of a label file that the map does not allow."""
        return [] if self.background is None else [v for v in values if v not in self.background | self.named]

    @property
    def named(self) -> frozenset[int]:
        return frozenset(value for values in self.classes.values() for value in values)

    @property
    def thin(self) -> frozenset[str]:
        """Classes that may be thinner than a voxel: their centreline survives resampling."""
        return frozenset(self.tubular + self.lesions)

    def with_class(self, name: str) -> "LabelMap":
        """The same with one more class, the last and below all others, that no value of the data makes.

        A task `labelled` leaves it out again, for a study of what the data's labels show.
        """
        if same := [known for known in self.classes if plain(known) == name]:
            raise UserError(f"the data have a class {same[0]!r}, so none of that name can be added")
        if len(self.classes) + 1 >= LEFT_OUT_VALUE:
            raise UserError(f"the data have {len(self.classes)} classes, to which the class {name} cannot be added")
        tasks = {"labelled": {known: (known,) for known in self.classes}, **self.tasks}
        return replace(self, classes={**self.classes, name: ()}, priority=(name, *self.priority), tasks=tasks)

    def apply(self, label: np.ndarray) -> np.ndarray:
        """Values of the data to class indices, uint8 of the same shape."""
        table = np.zeros(MAX_VALUE + 1, np.uint8)
        for index, values in enumerate(self.classes.values(), start=1):
            table[list(values)] = index
        return table[label.astype(np.int64)]


def load_label_map(label_map: str | Path | dict | None, about: dict, where: str | Path) -> LabelMap:
    """Read the user's map (YAML file, or the mapping itself), or without one the labels of dataset.json (`about`).

    Raises UserError that names the map and what it may hold.
    """
    if label_map is None:
        return _from_dataset_json(about, where)
    content, where = _read(label_map)
    content = content if "classes" in content else {"classes": content}
    if unknown := sorted(map(str, content.keys() - {"classes", "priority", "tubular", "lesions", "inside", "tasks"})):
        allowed = "classes, priority, tubular, lesions, inside and tasks"
        raise UserError(f"{where}: unknown keys {unknown}; allowed are {allowed}")
    return _checked(content["classes"], content, where, background=None)


def _read(label_map: str | Path | dict) -> tuple[dict, str]:
    inline = isinstance(label_map, dict) or ("{" in str(label_map) and not os.path.isfile(label_map))
    where = "--label_map" if inline else str(label_map)
    remedy = "give a YAML file of `class name: value`, one line for each class, or `{liver: 5}`"
    content = label_map
    if not isinstance(label_map, dict):
        content = read_yaml(where, remedy, str(label_map) if inline else None)
    if not content:
        raise UserError(f"{where}: holds no class; {remedy}")
    return content, where


def _from_dataset_json(about: dict, where: str | Path) -> LabelMap:
    """Decathlon writes {"1": "liver"}, nnU-Net {"liver": 1}."""
    where = f"{where}/dataset.json"
    labels = about.get("labels")
    if not isinstance(labels, dict) or not labels:
        raise UserError(
            f"{where}: no class names found there, or in a dseg.tsv of BIDS; give --label_map, a YAML file with lines "
            "`liver: 5`"
        )
    decathlon = all(str(key).isdecimal() for key in labels)
    pairs = [(name, value) for value, name in labels.items()] if decathlon else list(labels.items())
    classes = {"" if name is None else str(name): whole(value) for name, value in pairs}
    regions = [name for name, value in classes.items() if isinstance(value, list) or name == "ignore"]
    if regions or len(classes) != len(labels):
        raise UserError(
            f"{where}: labels {labels} are regions, `ignore` or equal names; say which values make "
            "which class with --label_map"
        )
    zero = [name for name, value in classes.items() if value == 0]
    if len(zero) > 1:
        raise UserError(f"{where}: {zero} all have the value 0, which is the background; give each class its own value")
    if wrong := {name: value for name, value in classes.items() if type(value) is not int}:
        raise UserError(f"{where}: labels give {wrong}; each class needs a whole number")
    if classes.get("background", 0):
        raise UserError(f"{where}: background has the value {classes['background']}, it must be 0; correct the labels")
    if zero and zero[0].lower() != "background":
        print(f"{where}: {zero[0]!r} has the value 0, which is the background, so it is no class")
    ordered = sorted((value, name) for name, value in classes.items() if name not in zero)
    return _checked({name: value for value, name in ordered}, about, where, background=frozenset({0}))


def whole(value: object) -> object:
    """A value as people write whole numbers, `1`, `"1"` or `1.0`, as int; any other as it is."""
    return int(value) if str(value).removesuffix(".0").isdecimal() else value


def _checked(classes: dict, content: dict, where: str, background: frozenset[int] | None) -> LabelMap:
    if not isinstance(classes, dict) or not classes:
        raise UserError(f"{where}: classes must be `class name: value` lines, got {classes!r}")
    classes = {str(name): _values(name, value, where) for name, value in classes.items() if name != "background"}
    if odd := [(name, group[0]) for name, group in classes.items() if not name.strip() or not name.isprintable()]:
        raise UserError(f"{where}: the class of the value {odd[0][1]} is named {odd[0][0]!r}; give it a name to print")
    if MEAN in classes:
        raise UserError(f"{where}: a class is named {MEAN!r}, as tables name the mean of all; rename it")
    first: dict[str, str] = {}
    if alike := [(first[key], name) for name in classes if first.setdefault(key := plain(name), name) != name]:
        raise UserError(f"{where}: the classes {alike[0]} differ in case or spaces alone; rename or merge them")
    values = [value for group in classes.values() for value in group]
    if twice := sorted({value for value in values if values.count(value) > 1}):
        raise UserError(f"{where}: the values {twice} belong to more than one class; give each value to one class")
    if not 1 <= len(classes) < LEFT_OUT_VALUE:
        allowed = f"from 1 to {LEFT_OUT_VALUE - 1} are allowed"
        raise UserError(f"{where}: {len(classes)} classes besides the background; {allowed}")
    lists = {key: _names(key, content.get(key), list, where) for key in ("priority", "tubular", "lesions")}
    inside = _names("inside", content.get("inside"), dict, where)
    for key, names in {**lists, "inside": (*inside, *inside.values())}.items():
        if wrong := [name for name in names if name not in list(classes)]:  # a list, as a name may be one
            raise UserError(f"{where}: {key} names {wrong}; the classes are {list(classes)}")
    lists = {key: tuple(names) for key, names in lists.items()}
    thin = lists["tubular"] + lists["lesions"]
    rest = sorted((name for name in classes if name not in lists["priority"]), key=lambda name: name in thin)
    lists["priority"] = (*rest, *lists["priority"])  # those that it leaves out come lowest, thin ones above others
    tasks = checked_tasks(content.get("tasks") or {}, ("background", *classes), where)
    return LabelMap(classes=classes, **lists, inside=inside, tasks=tasks, background=background)


def plain(name: str) -> str:
    """What tells a name from others for a reader."""
    return unicodedata.normalize("NFKC", " ".join(name.split())).casefold()


def _names(key: str, value: list | dict | None, kind: type, where: str) -> list | dict:
    example = "[vein]" if kind is list else "{vein: liver}"
    if not isinstance(value or kind(), kind):
        raise UserError(f"{where}: {key} is {value!r}; write it as `{key}: {example}`")
    return value or kind()


def _values(name: str, value: object, where: str) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if not values or not all(type(v) is int and 0 < v <= MAX_VALUE for v in values):
        raise UserError(
            f"{where}: class {name!r} has the value {value!r}; allowed is a whole number from 1 to "
            f"{MAX_VALUE}, or a list of them (0 is background)"
        )
    return values
