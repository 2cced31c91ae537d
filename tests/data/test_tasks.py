"""Tasks are data: declared in the label map or later, and checked."""

import json
import shutil

import pytest

from lldm3d.data.dataset import add_tasks, build_task, load_schema
from lldm3d.data.label_map import load_label_map
from lldm3d.errors import UserError
from lldm3d.pipeline.checks import fingerprint


@pytest.fixture
def dataset(tiny_dataset, tmp_path):
    return shutil.copytree(tiny_dataset, tmp_path / "dataset")


def declare(dataset, text: str) -> None:
    (dataset.parent / "tasks.yaml").write_text(text)
    add_tasks(dataset, dataset.parent / "tasks.yaml")


def test_multi_tells_all_classes_apart_and_needs_no_entry(dataset):
    task = load_schema(dataset).task("multi")
    assert task.class_names == ("background", "liver", "portal vein") and task.targets == (0, 1, 2)
    assert task.tubular == ("portal vein",)


def test_a_declared_task_merges_classes(dataset):
    declare(dataset, "tasks: {organ: {organ: [liver, portal vein]}, vein: {vein: portal vein}}")
    schema = load_schema(dataset)
    assert schema.task("organ").targets == (0, 1, 1) and schema.task("vein").targets == (0, 0, 1)
    assert schema.task("vein").tubular == ("vein",) and schema.task("organ").tubular == ()


def test_declaring_makes_nothing_old_and_never_changes_a_task(dataset):
    before = fingerprint(dataset / "dataset.json")
    declare(dataset, "vein: {vein: [portal vein]}")
    declare(dataset, "{vein: {vein: portal vein}, organ: {organ: [liver]}}")
    assert fingerprint(dataset / "dataset.json") == before
    assert list(load_schema(dataset).tasks) == ["vein", "organ"]
    with pytest.raises(UserError, match="other tasks of the names .'organ'"):
        declare(dataset, "organ: {organ: [liver, portal vein]}")
    assert json.loads((dataset / "dataset.json").read_text())["tasks"]["organ"] == {"organ": ["liver"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("liver", "write `tasks:"),
        ("organ: liver", "write `tasks:"),
        ("organ: {organ: [spleen]}", "merges .'spleen'.; the classes are"),
        ("organ: {a: [liver], b: [liver]}", "gives .'liver'. to two targets"),
        ("multi: {organ: [liver]}", "'multi' needs another name"),
        ("a/b: {organ: [liver]}", "'a/b' needs another name"),
        ("organ: {organ: []}", "one class or more"),
        ("organ: {background: [liver]}", "other than background"),
    ],
)
def test_impossible_tasks_are_told(dataset, text, message):
    with pytest.raises(UserError, match=message):
        declare(dataset, text)


def test_a_label_map_may_hold_tasks():
    found = load_label_map(
        {"classes": {"liver": 1, "HCC": [2, 3]}, "tasks": {"all": {"liver": ["liver", "HCC"]}}}, {}, ""
    )
    assert found.tasks == {"all": {"liver": ("liver", "HCC")}}
    with pytest.raises(UserError, match="merges .'vein'"):
        load_label_map({"classes": {"liver": 1}, "tasks": {"all": {"liver": ["vein"]}}}, {}, "")


def test_a_target_is_a_lesion_where_all_of_its_classes_are(tiny_dataset):
    class Liver:
        class_names, tubular, lesions = ("background", "liver", "HCC", "cyst"), (), ("HCC", "cyst")

    assert build_task("focal", {"focal": ["HCC", "cyst"]}, Liver).lesions == ("focal",)
    assert build_task("organ", {"liver": ["liver", "HCC"]}, Liver).lesions == ()


def test_a_label_map_may_lie_in_a_folder_with_braces(tmp_path):
    (tmp_path / "{a}").mkdir()
    (tmp_path / "{a}/map.yaml").write_text("liver: 5\n")
    assert load_label_map(tmp_path / "{a}/map.yaml", {}, "").classes == {"liver": (5,)}
    assert load_label_map("classes: {liver: 5}", {}, "").classes == {"liver": (5,)}


def test_a_file_that_is_no_text_is_told(dataset, tmp_path):
    (tmp_path / "tasks.yaml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(UserError, match="tasks.yaml: is not valid YAML"):
        add_tasks(dataset, tmp_path / "tasks.yaml")


@pytest.mark.parametrize("text", ["inside: {a: [a]}", "priority: [[a]]", "? [a]\n: 1", "tubular: [{}]"])
def test_a_name_in_a_label_map_that_is_a_list_is_told(tmp_path, text):
    (tmp_path / "map.yaml").write_text(f"classes: {{a: 1}}\n{text}")
    with pytest.raises(UserError, match="map.yaml: (is not valid YAML|inside names|priority names|tubular names)"):
        load_label_map(tmp_path / "map.yaml", {}, "")
