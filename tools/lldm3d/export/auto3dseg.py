"""MONAI's Auto3DSeg with the segmentation bundles as its algorithms; nothing is downloaded."""

import csv
import os
import shutil
import subprocess
from pathlib import Path

import torch
import yaml
from monai.apps.auto3dseg import BundleAlgo
from monai.auto3dseg.utils import datafold_read
from monai.bundle import ConfigParser
from monai.data import MetaTensor

from lldm3d.bundle import INFERENCE, TRAIN, bundle_command, bundle_path, defines, literal, segmentation_names, undefined
from lldm3d.data.dataset import ALL, Task, load_schema, modalities
from lldm3d.errors import UserError
from lldm3d.export.package_configs import read_config
from lldm3d.files import load_checkpoint, read_json, write_json, write_yaml

EVALUATE, MULTI_GPU = "configs/evaluate.yaml", "configs/multi_gpu.yaml"
LEFT = shutil.ignore_patterns("models", "eval")


def algorithms() -> dict[str, dict]:
    """All segmentation bundles as the `algos` of MONAI's BundleGen and AutoRunner.

    The names have no underscore: Auto3DSeg reads the fold from what follows the first one.
    """
    target = f"{__name__}.{SegmentationAlgo.__name__}"
    paths = {name.replace("_", ""): str(bundle_path(name).resolve()) for name in segmentation_names()}
    return {name: {"_target_": target, "template_path": path} for name, path in paths.items()}


class SegmentationAlgo(BundleAlgo):
    """A segmentation bundle as an algorithm of Auto3DSeg.

    MONAI's BundleAlgo wants Python in the bundle (`scripts/train.py`, `scripts/infer.py`) and a template in a folder
    of the algorithm's name; a bundle of YAML alone is run by `monai.bundle run`.

    Args:
        template_path: the bundle's folder.
    """

    def export_to_disk(self, output_path: str, algo_name: str, **kwargs) -> None:
        """Copy the bundle to `<output_path>/<algo_name>` and set it for the data (`fold` in `kwargs`)."""
        self.output_path = os.path.join(output_path, algo_name)
        shutil.copytree(self.template_path, self.output_path, ignore=LEFT, dirs_exist_ok=True)
        self.fill_records = self.fill_template_config(self.data_stats_files, self.output_path, **kwargs)

    def fill_template_config(self, data_stats_filename: str, algo_path: str, fold: int = 0, **kwargs) -> dict:
        """Write the fold's `dataset.json` and `overrides.yaml`.

        Classes and sizes are those of the data list; the report of the DataAnalyzer knows no names of classes.

        Raises:
            UserError: where the data list does not say what all cases share; `lldm3d export` writes one that does.
        """
        source, folder = ConfigParser.load_config_file(self.data_list_file), Path(algo_path)
        content = read_json(source["datalist"])
        training, validation = datafold_read(content, source["dataroot"], fold)
        splits = {"training": training, "validation": validation, "test": validation}  # its score is that of the fold
        write_json(folder / "dataset.json", {**content, **splits})
        schema = load_schema(folder)
        task = schema.task(content.get("task", ALL))
        overrides = {
            "bundle_root": str(folder),
            "dataset_dir": str(folder),
            "ckpt_path": str(folder / "models/model.pt"),
            "class_names": list(task.class_names),
            "targets": list(task.targets),
            "roi_size": schema.crop(yaml.safe_load((folder / TRAIN).read_text())["roi_size"]),
        }
        overrides = {key: literal(value) for key, value in overrides.items()}
        self.write_overrides(overrides)
        return {"overrides.yaml": overrides}

    def write_overrides(self, overrides: dict) -> None:
        if faults := undefined("training parameter", overrides, Path(self.template_path).name, [TRAIN]):
            raise UserError("; ".join(faults))
        write_yaml(self.overrides, overrides)

    @property
    def overrides(self) -> Path:
        return Path(self.output_path) / "overrides.yaml"

    def train(
        self, train_params: dict | None = None, device_setting: dict | None = None
    ) -> subprocess.CompletedProcess:
        """Train the bundle, then measure it on the fold's validation cases.

        Args:
            train_params: ids of the bundle's train.yaml, such as {"epochs": 10}.
            device_setting: as AutoRunner's `set_device_info` makes it; several devices on one node.

        Raises:
            UserError: for a parameter that train.yaml does not define.
        """
        self.device_setting.update(device_setting or {})
        self.write_overrides({**yaml.safe_load(self.overrides.read_text()), **(train_params or {})})
        number = int(self.device_setting["n_devices"])
        self.run("training", [TRAIN, *([MULTI_GPU] if number > 1 else [])], number)
        return self.run("evaluating", [TRAIN, EVALUATE])

    def run(self, run_id: str, configs: list[str], processes: int = 1) -> subprocess.CompletedProcess:
        """`monai.bundle run` in the algorithm's folder; raises CalledProcessError where it fails.

        Not by `lldm3d.bundle.run_bundle`, which runs this package's own bundle: the algorithm's folder is a copy of it,
        which its user may edit, move and hand on, with overrides that were written when it was generated.
        """
        command = bundle_command(run_id, [*configs, str(self.overrides)], processes)
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": str(self.device_setting["CUDA_VISIBLE_DEVICES"])}
        return subprocess.run(command, cwd=self.output_path, env=environment, check=True)

    def get_score(self, *args, **kwargs) -> float:
        """Mean Dice of the fold's validation cases, the background left out; FileNotFoundError before the training."""
        with open(Path(self.output_path) / "models/evaluation/metrics.csv", newline="") as file:
            return float(dict(csv.reader(file))["val_mean_dice"])

    @torch.no_grad()
    def predict(self, predict_files: list, predict_params: dict | None = None) -> list[MetaTensor]:
        """Class probabilities [C, X, Y, Z] of each file.

        Args:
            predict_files: paths, or dicts with the key "image".
            predict_params: ids of the bundle's inference.yaml; what that does not define is the ensemble's own.
        """
        parser = read_config(Path(self.output_path) / INFERENCE)
        settings = {**yaml.safe_load(self.overrides.read_text()), **(predict_params or {})}
        parser.update({key: value for key, value in settings.items() if defines(parser.get(), key)})
        network, inferer, load, device, path = (
            parser.get_parsed_content(name) for name in ("network", "inferer", "preprocessing", "device", "ckpt_path")
        )
        network.load_state_dict(load_checkpoint(path, made_by=self.name))
        network.eval()
        images = [load({"image": file["image"] if isinstance(file, dict) else file})["image"] for file in predict_files]
        logits = [inferer(image[None].to(device), network)[0] for image in images]
        return [MetaTensor(x.softmax(0).cpu(), meta=image.meta) for x, image in zip(logits, images, strict=True)]


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
        "modality": modalities(content).get("0", "MRI"),
        "datalist": str(target.resolve() / "datalist.json"),
        "dataroot": str(Path(content["validation"][0]["image"]).parents[1]),
        "num_fold": 1,
        "algos": algorithms(),
    }
    write_yaml(folder / "input.yaml", source)
