"""MONAI's own BundleGen and AutoRunner with the segmentation bundles as algorithms, on tiny data and offline."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from monai.apps.auto3dseg import AutoRunner, BundleGen
from monai.bundle import ConfigParser
from tests.methods.conftest import TRAP, set_traps

from lldm3d.bundle import bundle_names, bundle_path
from lldm3d.data.dataset import load_schema
from lldm3d.errors import UserError
from lldm3d.export.auto3dseg import SegmentationAlgo, algorithms
from lldm3d.export.write import export
from lldm3d.files import read_json

SHORT = {"epochs": 1, "epoch_length": 2, "val_interval": 1, "device": "$torch.device('cpu')"}


@pytest.fixture(scope="module")
def mix(tiny_dataset, tiny_synthetic, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("auto3dseg") / "mix"
    export(str(tiny_dataset), str(folder), str(tiny_synthetic), "R+0.75S", format="auto3dseg")
    return folder


@pytest.fixture(autouse=True)
def own_path(monkeypatch):
    """Auto3DSeg adds its algorithms' folders to the path for good."""
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture(scope="module")
def ran(mix) -> Path:
    """The work directory of a whole run of the first network."""
    source = yaml.safe_load((mix / "input.yaml").read_text())
    source["algos"] = {"segunet": source["algos"]["segunet"]}
    runner = AutoRunner(work_dir=str(mix.parent / "work"), input=source)
    runner.set_training_params(SHORT)
    runner.set_analyze_params({"do_ccp": False, "device": "cpu", "worker": 0})
    runner.set_prediction_params({"device": "$torch.device('cpu')"})
    runner.run()
    return mix.parent / "work"


def test_every_segmentation_bundle_is_an_algorithm():
    names = [name for name in bundle_names() if name.startswith("seg_")]
    assert [Path(algo["template_path"]).name for algo in algorithms().values()] == names
    assert not any("_" in name for name in algorithms())


def test_synthetic_cases_are_trained_on_but_neither_validate_nor_test(mix):
    content = read_json(mix / "datalist.json")
    validating = [case["patient"] for case in content["training"] if case["fold"] == 0]
    training = [case["patient"] for case in content["training"] if case["fold"] != 0]
    assert validating == ["case_04", "case_05"]
    assert sorted(training) == [f"case_0{n}" for n in range(4)] + [f"synthetic_0{n}" for n in range(3)]
    assert [Path(case["image"]).name for case in content["testing"]] == ["case_06.nii.gz", "case_07.nii.gz"]


@pytest.mark.slow
def test_auto_runner_analyses_trains_and_predicts_the_test_cases(ran, tiny_dataset):
    saved = json.loads((ran / "segunet_0/algo_object.json").read_text())
    assert 0 <= saved["best_metric"] <= 1
    for name in ("case_06", "case_07"):
        pred = nib.load(ran / f"ensemble_output/imagesTr/{name}_ensemble.nii.gz")
        image = nib.load(tiny_dataset / f"imagesTr/{name}.nii.gz")
        assert pred.shape == image.shape and np.allclose(pred.affine, image.affine)
        assert set(np.unique(pred.dataobj)) <= {0, 1, 2}


@pytest.mark.slow
def test_its_prediction_is_that_of_the_bundle(ran, tiny_dataset, tmp_path):
    command = [sys.executable, "-m", "monai.bundle", "run", "inferring", "--config_file", "configs/inference.yaml"]
    overrides = yaml.safe_load((ran / "segunet_0/overrides.yaml").read_text())
    settings = {key: overrides[key] for key in ("ckpt_path", "class_names", "roi_size", "device")}
    settings |= {"dataset_dir": str(tiny_dataset), "output_dir": str(tmp_path)}
    command += [f"--{key}={value}" for key, value in settings.items()]
    subprocess.run(command, cwd=ran / "segunet_0", env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
    mine = nib.load(ran / "ensemble_output/imagesTr/case_06_ensemble.nii.gz")
    assert np.array_equal(mine.dataobj, nib.load(tmp_path / "case_06_pred.nii.gz").dataobj)


@pytest.fixture(scope="module")
def generated(mix) -> dict:
    """Name: algorithm, of BundleGen with all networks."""
    folder = mix.parent / "generated"
    folder.mkdir()
    source = folder / "input.yaml"
    source.write_text((mix / "input.yaml").read_text())
    generator = BundleGen(str(folder), algorithms(), data_stats_filename="", data_src_cfg_name=str(source))
    generator.generate(str(folder), num_fold=1)
    return {item["identifier"]: item["algo_instance"] for item in generator.get_history()}


def test_bundle_gen_sets_every_network_for_the_data(generated):
    assert list(generated) == [f"{name}_0" for name in sorted(algorithms())]
    for algo in generated.values():
        content = read_json(Path(algo.output_path) / "dataset.json")
        assert len(content["training"]) == 7 and len(content["validation"]) == 2
        overrides = yaml.safe_load((Path(algo.output_path) / "overrides.yaml").read_text())
        assert overrides["class_names"] == ["background", "liver", "portal vein"]
        assert overrides["roi_size"] == [16, 16, 16]


@pytest.mark.slow
def test_two_devices_train_one_network(generated):
    algo = generated["segunet_0"]
    settings = {key: value for key, value in SHORT.items() if key != "device"}
    algo.train(settings, {"CUDA_VISIBLE_DEVICES": "", "n_devices": 2})
    assert 0 <= algo.get_score() <= 1


def test_an_unknown_training_parameter_is_refused_with_the_nearest(generated):
    with pytest.raises(UserError, match="training parameter#num_epochs .* did you mean epochs"):
        generated["segunet_0"].train({"num_epochs": 2})


def test_names_of_classes_and_folders_are_no_code_of_the_algorithms(tiny_dataset, tmp_path):
    folder, mark = tmp_path / TRAP, tmp_path / "mark"
    shutil.copytree(tiny_dataset, folder / "dataset")
    set_traps(folder / "dataset", mark)
    export(str(folder / "dataset"), str(folder / "mix"), format="auto3dseg")
    algo = SegmentationAlgo(str(bundle_path("seg_unet")))
    algo.set_data_source(str(folder / "mix/input.yaml"))
    algo.export_to_disk(str(folder), "segunet_0", fold=0)
    parser = ConfigParser()
    parser.read_config([str(Path(algo.output_path) / "configs/train.yaml"), str(algo.overrides)])
    assert parser.get_parsed_content("class_names") == list(load_schema(folder / "dataset").class_names)
    assert parser.get_parsed_content("ckpt_path") == str(Path(algo.output_path) / "models/model.pt")
    assert not mark.exists()


def test_a_data_list_of_another_origin_is_refused(tiny_dataset, tmp_path):
    cases = [{"image": f"imagesTr/case_0{n}.nii.gz", "label": f"labelsTr/case_0{n}.nii.gz", "fold": n} for n in (0, 1)]
    (tmp_path / "list.json").write_text(json.dumps({"training": cases}))
    source = {"modality": "MRI", "datalist": str(tmp_path / "list.json"), "dataroot": str(tiny_dataset)}
    (tmp_path / "input.yaml").write_text(yaml.safe_dump(source))
    generator = BundleGen(str(tmp_path), algorithms(), data_src_cfg_name=str(tmp_path / "input.yaml"))
    with pytest.raises(UserError, match="has no 'name'"):
        generator.generate(str(tmp_path), num_fold=1)
