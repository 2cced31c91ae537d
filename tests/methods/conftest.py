"""All methods, trained for two steps on data whose names are traps, and a further one: a folder of three files."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.in_process import SEGMENT, do_stages, write_run

from lldm3d import bundle
from lldm3d.methods.registry import load_method, method_names
from lldm3d.pairs.sources import folder_name

TRAP = """it's "$@seed" @output_dir %configs#seed {a: 1}"""  # what parsers and shells take for theirs

# draws the mean training image where the label is above 0
METHOD = """
title: Cut-out
source: this test
needs: [image, label]
makes: [image]
trainings:
  mean: {share: 1}
"""
TRAIN = """
imports: ["$import torch", "$import lldm3d.files as files", "$from lldm3d.data.dataset import load_cases"]
dataset_dir: ""
output_dir: ""
seed: 0
epochs: 2
epoch_length: 1
val_interval: 1
curves: {epoch: [1, 2], seconds: [0.5, 1.0], loss: [2.0, 1.0]}
images: "$[torch.as_tensor(files.load_nifti(case.image)[0]) for case in load_cases(@dataset_dir, 'training')]"
training:
- "$files.save_checkpoint(@output_dir + '/model.pt', {'mean': torch.stack(@images).mean(0)})"
- "$files.write_json(@output_dir + '/metrics.json', @curves)"
run: "$@training"
"""
INFERENCE = """
imports: ["$import numpy as np", "$from pathlib import Path", "$import lldm3d.files as files"]
method_dir: ""
output_dir: ""
label_paths: []
mean: "$files.load_checkpoint(@method_dir + '/mean/model.pt', 'mean')['mean'].numpy()"
cost: {volumes: "$len(@label_paths)", seconds: 0.1, batch_size: 1, memory_gb: null, parameters: 0, device: CPU}
labels: "$[files.load_nifti(path) for path in @label_paths]"
names: "$[Path(path).name for path in @label_paths]"
inferring:
- "$[files.save_nifti(@output_dir + '/labelsTr/' + name, label.astype(np.uint8), affine)
    for name, (label, affine) in zip(@names, @labels)]"
- "$[files.save_nifti(@output_dir + '/imagesTr/' + name, @mean * (label > 0), affine)
    for name, (label, affine) in zip(@names, @labels)]"
- "$files.write_json(@output_dir + '/cost.json', @cost)"
run: "$@inferring"
"""
GUEST = "cut_out"


@pytest.fixture(scope="session")
def bundles_with_guest(made_once) -> Path:
    """The bundles, and beside them a method of three files."""

    def make(folder: Path) -> None:
        unwanted = shutil.ignore_patterns("models", "eval", "__pycache__")
        shutil.copytree(bundle.bundles_dir(), folder / "bundles", ignore=unwanted)
        configs = folder / f"bundles/{GUEST}/configs"
        configs.mkdir(parents=True)
        for name, text in (("method", METHOD), ("train", TRAIN), ("inference", INFERENCE)):
            (configs / f"{name}.yaml").write_text(text)

    return made_once("bundles_with_guest", make) / "bundles"


@pytest.fixture
def with_guest(bundles_with_guest) -> Iterator[None]:
    """The further method is there for the test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle, "INSTALLED", bundles_with_guest)
        yield


@pytest.fixture(scope="session")
def mark(made_once) -> Path:
    """A file that is there once text of the data was run as code."""
    return made_once("trap", lambda folder: None) / "mark"


@pytest.fixture(scope="session")
def work(tiny_dataset, made_once, mark, bundles_with_guest) -> Path:
    """A work directory for all methods and sources of labels; its folder, classes and a case have traps for names."""

    def make(folder: Path) -> None:
        place = folder / TRAP
        shutil.copytree(tiny_dataset, place / "dataset")
        set_traps(place / "dataset", mark)
        (place / "own").mkdir()
        shutil.copy(place / "dataset/labelsTr" / f"{TRAP}.nii.gz", place / "own/mine.nii.gz")
        sources = ["drawn", "training", "unwarped", "reconstructed", "both", "test", str(place / "own")]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bundle, "INSTALLED", bundles_with_guest)
            segment = {**SEGMENT, "tasks": ["multi", "trap"]}
            write_run(place, method_names(), sources, methods={"n": 2}, segment=segment)

    return made_once("methods", make) / TRAP


def set_traps(dataset: Path, mark: Path) -> None:
    """Give classes and the first training case names that MONAI's parser would run, resolve or rewrite."""
    content = json.loads((dataset / "dataset.json").read_text())
    case = content["training"][0]
    for key in ("image", "label"):
        path = dataset / case[key]
        path.rename(path.with_name(f"{TRAP}.nii.gz"))
        case[key] = f"./{key}sTr/{TRAP}.nii.gz"
    liver, vein = f"$__import__('pathlib').Path({str(mark)!r}).touch()", f"@seed %configs/train.yaml#seed {TRAP}"
    labels = {"0": "background", "1": liver, "2": vein}
    content |= {"labels": labels, "tubular": [vein], "inside": {vein: liver}}
    content["tasks"] = {"trap": {f"{liver}#2": [liver]}}  # of a segmentation that merges classes
    (dataset / "dataset.json").write_text(json.dumps(content))


@pytest.fixture(scope="session")
def trained(work, made_once) -> Callable[[str], Path]:
    """`trained(method)` is the work directory once the method is trained there, by whichever worker comes first."""

    def call(name: str) -> Path:
        stages = [f"methods/{name}/seed_0/{training}" for training in load_method(name).trainings]
        made_once(f"trained_{name}", lambda _: do_stages(work, *stages))
        return work

    return call


@pytest.fixture(scope="session")
def drawn(trained, made_once) -> Callable[[str, str], Path]:
    """`drawn(method, source)` is the folder of its pairs for a source of labels, drawn once."""

    def call(name: str, source: str) -> Path:
        work = trained(name)
        if source == "training":
            made_once("labels", lambda _: do_stages(work, "labels/training/seed_0"))
        for part in ("training", "drawn") if source == "both" else ():
            call(name, part)
        if source == "drawn" and not load_method(name).draws_labels and load_method(name).takes_labels:
            call("lldm", "drawn")
        slug = source if source != "folder" else folder_name(str(work / "own"))
        pairs = f"pairs/{name}/{slug}/seed_0"
        made_once(f"pairs_{name}_{source}", lambda _: do_stages(work, pairs))
        return work / pairs

    return call
