"""Two methods beside each other: the chain's own, and one that is a folder with three files."""

import csv
import json
import os
import shutil
from pathlib import Path

import nibabel as nib
import pytest
import yaml

from lldm3d.errors import UserError
from lldm3d.pipeline.profile import load_profile

from .conftest import lldm3d, write_profile
from .test_whole_chain import SECTIONS

ROOT = Path(__file__).parents[2]

# draws the mean training image where the label is above 0
METHOD = """
title: Cut-out
source: this test
needs: [image, label]
makes: [image]
trainings:
  mean: {config: configs/train.yaml, share: 1}
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
images: "$[torch.as_tensor(files.load_nifti(case['image'])[0]) for case in load_cases(@dataset_dir, 'training')]"
training:
- "$files.save_checkpoint(@output_dir + '/model.pt', {'mean': torch.stack(@images).mean(0)})"
- "$files.write_json(@output_dir + '/metrics.json', @curves)"
run: "$@training"
"""
INFERENCE = """
imports: ["$from pathlib import Path", "$import lldm3d.files as files"]
method_dir: ""
output_dir: ""
label_paths: []
folder: "$@output_dir + '/imagesTr/'"
mean: "$files.load_checkpoint(@method_dir + '/mean/model.pt', 'mean')['mean'].numpy()"
cost: {volumes: "$len(@label_paths)", seconds: 0.1, batch_size: 1, memory_gb: null, parameters: 0, device: CPU}
labels: "$[files.load_nifti(path) for path in @label_paths]"
names: "$[Path(path).name for path in @label_paths]"
inferring:
- "$[files.save_nifti(@folder + name, @mean * (label > 0), affine)
    for name, (label, affine) in zip(@names, @labels)]"
- "$files.write_json(@output_dir + '/cost.json', @cost)"
run: "$@inferring"
"""


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A checkout with a further method in it, in which it is compared with the chain's own."""
    root = tmp_path_factory.mktemp("methods")
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info", "models", "eval")
    for name in ("tools", "bundles"):
        shutil.copytree(ROOT / name, root / name, ignore=unwanted)
    configs = root / "bundles/baselines/cut_out/configs"
    configs.mkdir(parents=True)
    for name, text in (("method", METHOD), ("train", TRAIN), ("inference", INFERENCE)):
        (configs / f"{name}.yaml").write_text(text)
    methods = {"minutes": 0.02, "seeds": [3], "n": 4}
    profile = write_profile(root / "tiny.yaml", **{**SECTIONS, "methods": methods})
    arguments = ("--workdir", root / "work", "--profile", profile, "--until", "comparison")
    environment = {**os.environ, "PYTHONPATH": str(root / "tools")}
    command = ("run", *arguments, "--methods", "lldm,cut_out")
    result = lldm3d(*command, cwd=root, env=environment)
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-5000:]
    return root / "work"


def test_the_table_has_each_method(compared):
    with open(compared / "comparison/comparison.csv") as file:
        rows = list(csv.DictReader(file))
    found = {(row["method"], row["seed"], row["metric"]) for row in rows}
    for name in ("lldm", "cut_out"):
        assert {(name, "3", metric) for metric in ("FID", "KID", "training", "seconds a volume")} <= found
    assert ("lldm", "3", "peak memory") in found and ("cut_out", "3", "peak memory") not in found  # as it told none
    table = (compared / "comparison/table.md").read_text()
    assert "| 3D-LLDM |" in table and "| Cut-out |" in table and "| real |" in table
    assert (compared / "comparison/figure.png").stat().st_size > 10_000


def test_each_training_had_the_steps_of_its_share_of_the_minutes(compared):
    cost = json.loads((compared / "methods/lldm/seed_3/cost.json").read_text())["trainings"]
    for training, share in (("autoencoder_image", 0.25), ("controlnet", 0.14)):
        pace = json.loads((compared / f"methods/lldm/seed_3/{training}/pace.json").read_text())
        assert pace["minutes"] == pytest.approx(0.02 * share)
        steps = cost[training]["steps"]
        assert steps == 2 * pace["epoch_length"]  # of the profile's two epochs
        assert steps == max(2, 2 * round(60 * pace["minutes"] / pace["step_seconds"] / 2))


def test_a_method_on_labels_draws_on_those_of_the_chain(compared):
    drawn = compared / "methods/cut_out/seed_3/synthetic"
    listed = json.loads((drawn / "dataset.json").read_text())["training"]
    assert len(listed) == 4 and "label" not in listed[0]
    label = nib.load(compared / "methods/lldm/seed_3/synthetic/labelsTr/synthetic_00003.nii.gz").get_fdata()
    cut = nib.load(drawn / "imagesTr/synthetic_00003.nii.gz").get_fdata()
    assert (cut[label == 0] == 0).all()


def test_all_is_done_and_a_new_budget_trains_anew(compared, dry_run):
    assert dry_run(compared, until="judge", methods=["lldm"]) == []
    settings = yaml.safe_load((compared / "run.yaml").read_text())["settings"]
    profile = write_profile(compared.parent / "other.yaml", **{**settings, "methods": {"minutes": 9, "seeds": [0]}})
    assert dry_run(compared, until="method", methods=["lldm"], profile=str(profile)) == ["methods/lldm/seed_0"]


@pytest.mark.parametrize(
    "methods, message",
    [
        ({"gan": {}}, "methods#gan: there is no method 'gan'"),
        ({"lldm": {"image_ldm": {}}}, "methods#lldm#image_ldm is unknown, its settings are those of the stages"),
        ({"minutes": 0}, "methods#minutes: 0 is less than or equal to the minimum of 0"),
    ],
)
def test_a_mistake_in_the_section_of_methods_is_told(methods, message, tmp_path):
    profile = write_profile(tmp_path / "mine.yaml", methods=methods)
    with pytest.raises(UserError, match=message):
        load_profile(str(profile))
