"""Exports: what nnU-Net, MONAI and a bundle read of a mix of real and synthetic cases."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser
from tests.conftest import CLASS_NAMES, write_dataset

from lldm3d.bundle import bundle_path
from lldm3d.errors import UserError
from lldm3d.export.write import export
from lldm3d.files import load_nifti, read_json, save_nifti, write_json

NO_NNUNET = "nnU-Net is not installed; pip install -c constraints.txt -e '.[nnunet]'"
REGIMES = {"R": (4, 0), "S": (0, 4), "R+S": (4, 4), "0.5R+0.75S": (2, 3)}  # real and synthetic training cases


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic")
    write_dataset(folder, {"training": 4, "validation": 0, "test": 0}, prefix="synthetic", seed=100)
    return folder


def kinds(names) -> tuple[int, int]:
    """How many real and how many synthetic names there are."""
    made = sum(Path(name).name.startswith("synthetic") for name in names)
    return len(names) - made, made


def test_the_options_that_are_printed_run_nothing_in_a_shell_or_in_monai(tiny_dataset, tmp_path, capsys):
    shutil.copytree(tiny_dataset, tmp_path / "data")
    about = read_json(tmp_path / "data/dataset.json")
    names = [f"$(touch {tmp_path}/shell)", f"$open({str(tmp_path / 'monai')!r}, 'w')"]
    about |= {"labels": {"0": "background", "1": names[0], "2": names[1]}, "tubular": [], "lesions": [], "inside": {}}
    write_json(tmp_path / "data/dataset.json", about)
    export(str(tmp_path / "data"), str(tmp_path / "mix"))
    options = capsys.readouterr().out.partition("for a bundle: ")[2]
    words = subprocess.run(["bash", "-c", f"printf '%s\\n' {options}"], capture_output=True, text=True, check=True)
    parser = ConfigParser({"class_names": words.stdout.splitlines()[1]})
    assert parser.get_parsed_content("class_names") == ["background", *names]
    assert not any((tmp_path / name).exists() for name in ("shell", "monai"))


@pytest.mark.parametrize("regime", REGIMES)
def test_a_bundle_reads_the_mix(regime, tiny_dataset, synthetic, tmp_path):
    export(str(tiny_dataset), str(tmp_path / "mix"), str(synthetic), regime)
    parser = ConfigParser()
    parser.read_config(str(bundle_path("seg_unet") / "configs/train.yaml"))
    parser["dataset_dir"] = str(tmp_path / "mix")
    cases = parser.get_parsed_content("train#dataset#data")
    assert kinds([case["image"] for case in cases]) == REGIMES[regime]
    assert all(Path(case[key]).is_file() for case in cases for key in ("image", "label"))
    assert kinds([case["image"] for case in parser.get_parsed_content("validate#dataset#data")]) == (2, 0)


@pytest.mark.parametrize("regime", ["R", "S", "0.5R+0.75S"])
def test_nnunet_finds_the_raw_data_of_each_regime_whole(regime, tiny_dataset, synthetic, tmp_path):
    verify = pytest.importorskip("nnunetv2.experiment_planning.verify_dataset_integrity", reason=NO_NNUNET)
    raw = tmp_path / "Dataset501_Tiny"
    export(str(tiny_dataset), str(raw), str(synthetic), regime, format="nnunet")
    verify.verify_dataset_integrity(str(raw), num_processes=1)
    (split,) = read_json(raw / "splits_final.json")
    assert kinds(split["train"]) == REGIMES[regime] and kinds(split["val"]) == (2, 0)


SPLIT = """
import json, torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
plans, dataset = (json.load(open("{folder}/" + name)) for name in ("nnUNetPlans.json", "dataset.json"))
trainer = nnUNetTrainer(plans | {{"continue_training": False}}, "3d_fullres", 0, dataset, device=torch.device("cpu"))
print(json.dumps([*trainer.do_split(), trainer.label_manager.num_segmentation_heads]))
"""


@pytest.mark.slow
def test_nnunet_plans_and_preprocesses_the_raw_data(tiny_dataset, synthetic, tmp_path):
    """`nnUNetv2_plan_and_preprocess --verify_dataset_integrity`, as a user calls it, and what its trainer then sees."""
    pytest.importorskip("nnunetv2", reason=NO_NNUNET)
    raw = tmp_path / "raw/Dataset501_Tiny"
    export(str(tiny_dataset), str(raw), str(synthetic), "R+S", format="nnunet")
    folders = {f"nnUNet_{name}": str(tmp_path / name) for name in ("raw", "preprocessed", "results")}
    command = [Path(sys.executable).with_name("nnUNetv2_plan_and_preprocess"), "--verify_dataset_integrity"]
    command += "-d 501 -c 3d_fullres -np 1 -npfp 1".split()
    done = subprocess.run(command, env={**os.environ, **folders}, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    preprocessed = tmp_path / "preprocessed/Dataset501_Tiny"
    plans = read_json(preprocessed / "nnUNetPlans.json")["configurations"]["3d_fullres"]
    assert plans["normalization_schemes"] == ["ZScoreNormalization"]
    spacing = nib.load(tiny_dataset / "imagesTr/case_00.nii.gz").header.get_zooms()
    assert sorted(plans["spacing"]) == pytest.approx(sorted(map(float, spacing)))
    (split,) = read_json(raw / "splits_final.json")
    made = {file.stem for file in (preprocessed / "nnUNetPlans_3d_fullres").glob("*.pkl")}
    assert made == {*split["train"], *split["val"]} and len(made) == 10
    shutil.copy(raw / "splits_final.json", preprocessed)
    code = [sys.executable, "-c", SPLIT.format(folder=preprocessed)]
    done = subprocess.run(code, env={**os.environ, **folders}, capture_output=True, text=True)
    train, validate, classes = json.loads(done.stdout.splitlines()[-1])
    assert [train, validate] == [split["train"], split["val"]] and classes == len(CLASS_NAMES), done.stderr
    assert kinds(train) == (4, 4) and kinds(validate) == (2, 0)


def test_the_raw_data_keep_patients_apart_and_voxels_as_they_are(tiny_dataset, synthetic, tmp_path):
    raw = tmp_path / "Dataset501_Tiny"
    export(str(tiny_dataset), str(raw), str(synthetic), "R+S", format="nnunet")
    content, (split,) = read_json(raw / "dataset.json"), read_json(raw / "splits_final.json")
    assert content["labels"] == {name: value for value, name in enumerate(CLASS_NAMES)}
    tests = {file.name.removesuffix("_0000.nii.gz") for file in (raw / "imagesTs").iterdir()}
    assert tests == {"case_06", "case_07"} and not tests & {*split["train"], *split["val"]}
    assert not set(split["train"]) & set(split["val"])
    assert content["numTraining"] == len(list((raw / "imagesTr").iterdir())) == 10
    for name, key in (("imagesTr/case_00_0000", "imagesTr/case_00"), ("labelsTs/case_06", "labelsTr/case_06")):
        mine, theirs = (nib.load(f"{folder}.nii.gz") for folder in (raw / name, tiny_dataset / key))
        assert np.array_equal(mine.dataobj, theirs.dataobj) and np.array_equal(mine.affine, theirs.affine)


@pytest.fixture
def incomplete(synthetic, tmp_path) -> Path:
    """The pairs, whose labels leave out the voxels of the first slices."""
    shutil.copytree(synthetic, folder := tmp_path / "incomplete")
    write_json(folder / "dataset.json", read_json(folder / "dataset.json") | {"left_out": 255})
    for path in (folder / "labelsTr").iterdir():
        label, affine = load_nifti(path)
        label[:2] = 255
        save_nifti(path, label.astype(np.uint8), affine)
    return folder


def test_voxels_that_are_left_out_get_nnunet_s_label_for_them(tiny_dataset, incomplete, tmp_path):
    raw = tmp_path / "Dataset501_Tiny"
    export(str(tiny_dataset), str(raw), str(incomplete), "R+S", format="nnunet")
    labels = {**{name: value for value, name in enumerate(CLASS_NAMES)}, "ignore": len(CLASS_NAMES)}
    assert read_json(raw / "dataset.json")["labels"] == labels, "its rule: the highest value"
    mine, theirs = (load_nifti(f"{folder}/labelsTr/synthetic_00.nii.gz")[0] for folder in (raw, incomplete))
    assert np.array_equal(mine, np.where(theirs == 255, len(CLASS_NAMES), theirs)) and (theirs[:2] == 255).all()
    export(str(tiny_dataset), str(tmp_path / "mix"), str(incomplete), "R+S")
    assert read_json(tmp_path / "mix/dataset.json")["left_out"] == 255


@pytest.mark.parametrize("format", ["bids", "dicom", "auto3dseg"])
def test_other_formats_refuse_labels_that_leave_voxels_out(format, tiny_dataset, incomplete, tmp_path):
    with pytest.raises(
        UserError, match=f"leave voxels out, and --format {format} knows no such labels; take decathlon"
    ):
        export(str(tiny_dataset), str(tmp_path / "out"), str(incomplete), "S", format=format)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format", ["nnunet", "auto3dseg", "bids"])
def test_a_data_list_alone_says_how_often_a_case_counts(format, tiny_dataset, synthetic, tmp_path):
    with pytest.raises(UserError, match=r"2x0.5R\+S counts real cases several times, .* take 0.5R\+S"):
        export(str(tiny_dataset), str(tmp_path / "Dataset501_Mix"), str(synthetic), "2x0.5R+S", format=format)
    export(str(tiny_dataset), str(tmp_path / "mix"), str(synthetic), "2xR+0.5S")
    assert [case.get("times", 1) for case in read_json(tmp_path / "mix/dataset.json")["training"]] == [2] * 4 + [1] * 2


def test_a_class_of_the_name_of_nnunet_s_label_is_refused(tiny_dataset, tmp_path):
    shutil.copytree(tiny_dataset, tmp_path / "data")
    about = read_json(tmp_path / "data/dataset.json")
    about |= {"labels": {"0": "background", "1": "liver", "2": "ignore"}, "tubular": [], "lesions": [], "inside": {}}
    write_json(tmp_path / "data/dataset.json", about)
    with pytest.raises(UserError, match="the class 'ignore': of this name nnU-Net has voxels that it leaves out"):
        export(str(tmp_path / "data"), str(tmp_path / "Dataset501_A"), format="nnunet")


def test_a_task_s_classes_are_the_labels(tiny_dataset, tmp_path):
    content = read_json(tiny_dataset / "dataset.json") | {"tasks": {"organ": {"organ": ["liver", "portal vein"]}}}
    shutil.copytree(tiny_dataset, tmp_path / "real")
    write_json(tmp_path / "real/dataset.json", content)
    raw = tmp_path / "Dataset501_Tiny"
    export(str(tmp_path / "real"), str(raw), task="organ", format="nnunet")
    assert read_json(raw / "dataset.json")["labels"] == {"background": 0, "organ": 1}
    mine, theirs = (nib.load(f) for f in (raw / "labelsTr/case_00.nii.gz", tiny_dataset / "labelsTr/case_00.nii.gz"))
    assert np.array_equal(mine.dataobj, np.asarray(theirs.dataobj) > 0)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"format": "nnunet"}, "such as Dataset501_Liver"),
        ({"format": "minc"}, "--format 'minc' does not exist; choose one of decathlon, nnunet, auto3dseg, bids"),
        ({"regime": "R+9S"}, "takes 36"),
        ({"regime": "R+S", "synthetic": None}, "needs synthetic pairs"),
        ({"regime": "T"}, "there is no regime 'T'"),
        ({"seed": -1}, "--seed must be a whole number of at least 0, got -1"),
        ({"task": "vein"}, "has no task 'vein'"),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(options, message, tiny_dataset, synthetic, tmp_path):
    arguments = {"real": str(tiny_dataset), "synthetic": str(synthetic), "output_dir": str(tmp_path / "new"), **options}
    with pytest.raises(UserError, match=message):
        export(**arguments)
    assert not list(tmp_path.iterdir())


DAMAGE = {
    "not finite": ("image", lambda image: np.where(image > 0.5, np.nan, image), "holds NaN or infinite values"),
    "not scaled": (
        "image",
        lambda image: 900 * image,
        "holds intensities from .* but those of its data set are from 0",
    ),
    "no class": ("label", lambda label: 9 * label, r"holds the values \[0, 9, 18\], allowed are 0..2"),
    "complex": ("label", lambda label: label.astype(np.complex64), "real numbers are needed"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_pair_is_told_and_nothing_written(name, tiny_dataset, synthetic, tmp_path):
    kind, change, message = DAMAGE[name]
    shutil.copytree(synthetic, tmp_path / "pairs")
    path = tmp_path / f"pairs/{kind}sTr/synthetic_01.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(change(np.asanyarray(image.dataobj)), image.affine), path)
    with pytest.raises(UserError, match=message):
        export(str(tiny_dataset), str(tmp_path / "bids"), str(tmp_path / "pairs"), "S", format="bids")
    assert not (tmp_path / "bids").exists()


def test_names_that_both_sides_use_are_refused(tiny_dataset, tmp_path):
    (tmp_path / "pairs").mkdir()
    write_dataset(tmp_path / "pairs", {"training": 4, "validation": 0, "test": 0})
    with pytest.raises(UserError, match="same names, .*case_00"):
        export(str(tiny_dataset), str(tmp_path / "Dataset501_A"), str(tmp_path / "pairs"), "R+S", format="nnunet")
    assert not (tmp_path / "Dataset501_A").exists()


def test_an_export_is_replaced_only_when_told(tiny_dataset, tmp_path):
    arguments = {"real": str(tiny_dataset), "output_dir": str(tmp_path / "Dataset501_A"), "format": "nnunet"}
    export(**arguments)
    with pytest.raises(UserError, match="exists; .* --overwrite"):
        export(**arguments)
    export(**arguments, overwrite=True)


def turned(folder: Path, code: str, *kinds: str) -> None:
    """Store the images or labels of a folder along other axes; they stay where they are."""
    to = nib.orientations.axcodes2ornt(code)
    for path in (path for kind in kinds for path in (folder / kind).iterdir()):
        image = nib.load(path)
        turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), to)
        nib.save(nib.Nifti1Image.from_bytes(image.as_reoriented(turn).to_bytes()), path)


@pytest.mark.parametrize("kinds", [("imagesTr", "labelsTr"), ("imagesTr",), ("labelsTr",)])
def test_pairs_along_other_axes_are_exported_along_those_of_the_real_cases(tiny_dataset, synthetic, tmp_path, kinds):
    pairs = Path(shutil.copytree(synthetic, tmp_path / "pairs"))
    turned(pairs, "PIR", *kinds)
    export(str(tiny_dataset), str(tmp_path / "Dataset501_Turned"), str(pairs), "R+S", format="nnunet")
    export(str(tiny_dataset), str(tmp_path / "Dataset502_Same"), str(synthetic), "R+S", format="nnunet")
    for kind in ("imagesTr", "labelsTr"):
        for path in (tmp_path / "Dataset501_Turned" / kind).iterdir():
            found, expected = nib.load(path), nib.load(tmp_path / "Dataset502_Same" / kind / path.name)
            assert np.array_equal(found.get_fdata(), expected.get_fdata())
            np.testing.assert_allclose(found.affine, expected.affine, atol=1e-5)
    for format in ("decathlon", "auto3dseg"):
        with pytest.raises(UserError, match="is stored along other axes than the real cases; --format nnunet"):
            export(str(tiny_dataset), str(tmp_path / "list"), str(pairs), "R+S", format=format)


def test_a_pair_whose_label_lies_elsewhere_is_refused_by_its_affine(tiny_dataset, synthetic, tmp_path):
    pairs = Path(shutil.copytree(synthetic, tmp_path / "pairs"))
    path = next((pairs / "labelsTr").iterdir())
    label = nib.load(path)
    moved = label.affine.copy()
    moved[0, 3] += 3
    nib.save(nib.Nifti1Image(np.asarray(label.dataobj), moved), path)
    with pytest.raises(UserError, match=f"{path.name}: lies elsewhere than its image, by 3.00 mm"):
        export(str(tiny_dataset), str(tmp_path / "mix"), str(pairs), "R+S")
