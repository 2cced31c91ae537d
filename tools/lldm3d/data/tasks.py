"""Tasks: which classes of a data set a segmentation network is to tell apart, and which it takes as one."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lldm3d.errors import UserError

ALL = "multi"  # the task of all classes, which needs no entry
NAME = re.compile(r"\w[\w-]*")  # a task is a folder


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
    if "background" in task or not all(task.values()):
        raise UserError(
            f"{where}: the task {name!r}: a target needs a name other than background, and one class or more"
        )
    return task
