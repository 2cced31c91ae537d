"""nnU-Net v2's raw layout (its documentation/dataset_format.md)."""

import re
import shutil
from pathlib import Path

from lldm3d.errors import UserError
from lldm3d.files import write_json

NAME = re.compile(r"Dataset\d{3}_[\w-]+")
ENDING = ".nii.gz"


def check_name(output_dir: Path) -> None:
    """Raise UserError where nnU-Net would not find the folder."""
    if not NAME.fullmatch(output_dir.name):
        raise UserError(
            f"--output_dir {output_dir}: nnU-Net finds data sets by a name such as Dataset501_Liver (three digits) in "
            "its folder nnUNet_raw; give $nnUNet_raw/Dataset501_Liver or the like"
        )


def write_nnunet(content: dict, folder: Path, target: Path) -> None:
    """Copy the cases of a mixed data set into nnU-Net's layout, with its dataset.json and a split of one fold.

    Training and validation cases are in imagesTr; `splits_final.json` tells them apart, so that fold 0 validates on
    real patients who are not trained on. The channel is called "image": nnU-Net then normalises each case by itself, as
    prepared images are scaled one by one (its scheme for "CT" is for Hounsfield units).
    """
    names = {split: [case_name(case) for case in content[split]] for split in ("training", "validation", "test")}
    check_unique([name for split in names.values() for name in split])
    for split, place in (("training", "Tr"), ("validation", "Tr"), ("test", "Ts")):
        for name, case in zip(names[split], content[split], strict=True):
            copy(case["image"], folder / f"images{place}" / f"{name}_0000{ENDING}")
            copy(case["label"], folder / f"labels{place}" / f"{name}{ENDING}")
    number = len(names["training"]) + len(names["validation"])
    labels = {name: int(value) for value, name in content["labels"].items()}
    dataset = {"channel_names": {"0": "image"}, "labels": labels, "numTraining": number, "file_ending": ENDING}
    write_json(folder / "dataset.json", {"name": content["name"], "description": content["regime"], **dataset})
    write_json(folder / "splits_final.json", [{"train": names["training"], "val": names["validation"]}])


def case_name(case: dict) -> str:
    return Path(case["image"]).name.removesuffix(ENDING)


def check_unique(names: list[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(
            f"real and synthetic cases have the same names, {twice[:5]}; generate the pairs under other names"
        )


def copy(source: str, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(source, target)
