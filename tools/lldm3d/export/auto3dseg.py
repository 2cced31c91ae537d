"""The two files that MONAI's AutoRunner starts from."""

from pathlib import Path

import yaml

from lldm3d.auto3dseg import algorithms
from lldm3d.files import write_json


def write_auto3dseg(content: dict, folder: Path, target: Path) -> None:
    """Write `datalist.json` (real validation cases are fold 0, all else is trained on) and `input.yaml`.

    Auto3DSeg trains one fold: in another one, synthetic cases would validate.
    """
    cases = [{**case, "fold": 0} for case in content["validation"]] + [
        {**case, "fold": 1} for case in content["training"]
    ]
    testing = [{"image": case["image"]} for case in content["test"]]
    write_json(
        folder / "datalist.json", {**content, "training": cases, "validation": [], "test": [], "testing": testing}
    )
    source = {
        "modality": content.get("modality", {}).get("0", "MRI"),
        "datalist": str(target.resolve() / "datalist.json"),
        "dataroot": str(Path(content["validation"][0]["image"]).parents[1]),
        "num_fold": 1,
        "algos": algorithms(),
    }
    (folder / "input.yaml").write_text(yaml.safe_dump(source, sort_keys=False))
