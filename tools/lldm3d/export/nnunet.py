"""nnU-Net v2's raw layout (its documentation/dataset_format.md)."""

import re
import shutil
from pathlib import Path

import numpy as np

from lldm3d.data.dataset import LEFT_OUT_VALUE, Case, Schema, Task, stem
from lldm3d.data.scans import Scan, read_pair_of_any_size
from lldm3d.data.volumes import lies_along
from lldm3d.errors import UserError
from lldm3d.files import save_nifti, write_json

NAME = re.compile(r"Dataset\d{3}_[\w-]+")
ENDING, IGNORE = ".nii.gz", "ignore"
PLACES = {"training": "Tr", "validation": "Tr", "test": "Ts"}


def check_name(output_dir: Path) -> None:
    """Raise UserError where nnU-Net would not find the folder."""
    if not NAME.fullmatch(output_dir.name):
        raise UserError(
            f"--output_dir {output_dir}: nnU-Net finds data sets by a name such as Dataset501_Liver (three digits) in "
            "its folder nnUNet_raw; give $nnUNet_raw/Dataset501_Liver or the like"
        )


def write_nnunet(content: dict, schema: Schema, task: Task, folder: Path) -> None:
    """Write the cases of a data list in nnU-Net's layout, with the labels of the task and a split of one fold.

    Training and validation cases are in imagesTr; `splits_final.json` tells them apart, so that fold 0 validates on
    real patients who are not trained on. The channel is called "image": nnU-Net then normalises each case by itself, as
    prepared images are scaled one by one (its scheme for "CT" is for Hounsfield units). Voxels that are left out of a
    loss get its label `ignore`, which comes after all classes.

    Raises:
        UserError: where a real and a synthetic case have the same name, or a class has the name of that label.
    """
    if IGNORE in task.class_names:
        raise UserError(f"the class {IGNORE!r}: of this name nnU-Net has voxels that it leaves out; rename it")
    names = {split: [stem(Path(case["image"])) for case in content[split]] for split in PLACES}
    every = [name for split in names.values() for name in split]
    if twice := sorted({name for name in every if every.count(name) > 1}):
        raise UserError(
            f"real and synthetic cases have the same names, {twice[:5]}; generate the pairs under other names"
        )
    for split, place in PLACES.items():
        for name, case in zip(names[split], content[split], strict=True):
            paths = folder / f"images{place}" / f"{name}_0000{ENDING}", folder / f"labels{place}" / f"{name}{ENDING}"
            copy_case(case, schema, task, *paths)
    labels = {name: value for value, name in enumerate((*task.class_names, *([IGNORE] if schema.left_out else [])))}
    number = len(names["training"]) + len(names["validation"])
    dataset = {"channel_names": {"0": "image"}, "labels": labels, "numTraining": number, "file_ending": ENDING}
    write_json(folder / "dataset.json", {"name": content["name"], **dataset})
    write_json(folder / "splits_final.json", [{"train": names["training"], "val": names["validation"]}])


def copy_case(case: dict, schema: Schema, task: Task, image: Path, label: Path) -> None:
    """Write image and label of a case along the axes of its data set, the label with the values of the task.

    Raises UserError where the pair is damaged.
    """
    image.parent.mkdir(parents=True, exist_ok=True)
    scan = read_listed(case, schema)
    if case["image"].endswith(ENDING) and lies_along(case["image"], schema.axes):
        shutil.copyfile(case["image"], image)
    else:  # not packed, or a pair of another program that is stored along other axes
        save_nifti(image, scan.image, scan.affine)
    targets = np.full(LEFT_OUT_VALUE + 1, len(task.class_names), np.uint8)  # of those that are left out: `IGNORE`
    targets[: len(task.targets)] = task.targets
    save_nifti(label, targets[scan.label], scan.affine)


def read_listed(case: dict, schema: Schema) -> Scan:
    """The pair of an entry of a data list. Raises UserError where it is damaged."""
    return read_pair_of_any_size(Case(stem(case["image"]), case["image"], case["label"], case["patient"]), schema)
