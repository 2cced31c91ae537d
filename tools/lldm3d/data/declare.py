"""`lldm3d tasks`: declare tasks of a data set that is prepared already."""

import os
from pathlib import Path

import yaml

from lldm3d.data.dataset import load_schema
from lldm3d.data.tasks import ALL, checked_tasks
from lldm3d.errors import UserError
from lldm3d.files import read_json, write_json


def declare_tasks(dataset_dir: str | Path, tasks: str | Path) -> None:
    """Add the tasks of a YAML file to the dataset.json of a prepared data set.

    The file keeps its time, since its cases stay as they are: nothing that was made from them is made again. A task
    that is there cannot become another one, as trained networks bear its name.

    Raises:
        UserError: where the file cannot be read, or a task is not possible or already there with other classes.
    """
    schema, path = load_schema(dataset_dir), Path(dataset_dir) / "dataset.json"
    added = checked_tasks(_read(tasks), schema.class_names, tasks)
    if changed := [name for name in added if name in schema.tasks and added[name] != schema.tasks[name]]:
        raise UserError(f"{path}: has other tasks of the names {changed}; choose new names")
    time = path.stat().st_mtime_ns
    write_json(path, read_json(path) | {"tasks": schema.tasks | added})
    os.utime(path, ns=(time, time))
    print(f"{path}: the tasks are {', '.join((ALL, *(schema.tasks | added)))}")


def _read(path: str | Path) -> object:
    try:
        content = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a YAML file of tasks") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: is not valid YAML ({error})") from None
    return content.get("tasks", content) if isinstance(content, dict) else content
