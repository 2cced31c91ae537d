"""The two files that MONAI's AutoRunner starts from."""

from pathlib import Path

import yaml

from lldm3d.auto3dseg import algorithms
from lldm3d.data.tasks import Task
from lldm3d.files import write_json


def write_auto3dseg(content: dict, task: Task, folder: Path, target: Path) -> None:
    """Write `datalist.json` (real validation cases are fold 0, all else is trained on) and `input.yaml`.

    `target` is the folder's final place. The algorithms read from the list what classes the task has. Auto3DSeg trains
    one fold: in another one, synthetic cases would validate.
    """
    folds = {"validation": 0, "training": 1}
    cases = [{**case, "fold": fold} for split, fold in folds.items() for case in content[split]]
    testing = [{"image": case["image"]} for case in content["test"]]
    lists = {"training": cases, "validation": [], "test": [], "testing": testing}
    write_json(folder / "datalist.json", {**content, **lists, "task": task.name})
    source = {
        "modality": content.get("modality", {}).get("0", "MRI"),
        "datalist": str(target.resolve() / "datalist.json"),
        "dataroot": str(Path(content["validation"][0]["image"]).parents[1]),
        "num_fold": 1,
        "algos": algorithms(),
    }
    (folder / "input.yaml").write_text(yaml.safe_dump(source, sort_keys=False))
