"""What a user of the methods that draw images for labels would notice, for each of them and each of its variants."""

import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from lldm3d.bundle import bundle_path
from lldm3d.files import load_checkpoint
from lldm3d.methods.registry import load_method

from .small import CLASS_NAMES, KINDS, LABEL_TO_IMAGE
from .test_baselines import cause, killed_in_the_second_epoch

VARIANTS = ("pix2pix3d", "spade3d", "med_ddpm", "mask_guided_ddpm", "edge_guided_ddpm")  # with the slow tests
METHODS = [pytest.param(name, marks=pytest.mark.slow) if name in VARIANTS else name for name in LABEL_TO_IMAGE]
LENGTH = {"epochs": 2, "epoch_length": 2, "val_interval": 1, "batch_size": 2}


def config(name: str, training: str | None, dataset: Path, **ids: object) -> ConfigParser:
    """The config of a training, or of the inference without one, with the smallest networks."""
    method, parser = load_method(name), ConfigParser()
    configs = method.trainings[training].configs if training else method.inference
    parser.read_config([str(bundle_path(method.bundle) / file) for file in configs])
    common = {"dataset_dir": str(dataset), "device": torch.device("cpu"), "roi_size": [16] * 3}
    wanted = {**common, "class_names": CLASS_NAMES, **ids}
    parser.update({key: value for key, value in wanted.items() if key.split("#")[0] in parser.get()})
    return parser


def train(name: str, work: Path, dataset: Path, until: str | None = None, **ids: object) -> tuple[dict, dict]:
    """The weights and curves that the trainings of a method leave, up to one of them."""
    for training, entry in load_method(name).trainings.items():
        own = {**LENGTH, **LABEL_TO_IMAGE[name][training], **entry.settings, **ids}
        parser = config(name, training, dataset, method_dir=str(work), **own)
        for split in ("train", "validate"):
            parser[f"{split}#dataset"]["cache_dir"] = str(work / "cache")
        parser.get_parsed_content("training")
        folder = Path(parser.get_parsed_content("output_dir"))
        if training == until:
            break
    return load_checkpoint(folder / "model.pt", training)["model"], json.loads((folder / "metrics.json").read_text())


@pytest.fixture(scope="session")
def trained(tiny_dataset, made_once):
    """`trained(name)` is the folder of its trainings."""
    return lambda name: made_once(f"label_to_image_{name}", lambda folder: train(name, folder, tiny_dataset))


def draw(name: str, work: Path, dataset: Path, output: Path, labels: list[Path], **ids: object) -> list[np.ndarray]:
    ids = {"num_inference_steps": 3, "autocast": False, **ids}
    paths = [str(label) for label in labels]
    parser = config(name, None, dataset, method_dir=str(work), output_dir=str(output), label_paths=paths, **ids)
    parser.get_parsed_content("inferring")
    return [nib.load(path).get_fdata() for path in sorted(output.glob("imagesTr/*.nii.gz"))]


@pytest.fixture(scope="session")
def labels(tiny_dataset) -> list[Path]:
    return sorted(tiny_dataset.glob("labelsTr/*.nii.gz"))[:2]


@pytest.mark.parametrize("name", METHODS)
def test_a_killed_training_ends_with_the_weights_of_one_that_was_not(name, tiny_dataset, tmp_path):
    whole, curves = train(name, tmp_path / "whole", tiny_dataset)
    with killed_in_the_second_epoch():
        train(name, tmp_path / "parts", tiny_dataset)
    resumed, again = train(name, tmp_path / "parts", tiny_dataset)
    assert all(torch.equal(whole[key], resumed[key]) for key in whole) and again["loss"] == curves["loss"]


@pytest.mark.parametrize("name", METHODS)
def test_it_learns(name, tiny_dataset, tmp_path):
    """On held-out cases, within 30 steps of its first training."""
    first = next(iter(load_method(name).trainings))
    ids = {"epoch_length": 15, "learning_rate": 0.002, "ema_momentum": 0.1, "autocast": False}
    train(name, tmp_path, tiny_dataset, **ids, until=first)
    curves = json.loads((tmp_path / first / "metrics.json").read_text())
    before, after = curves.get("val_l1") or curves["val_loss"]
    assert after < before


@pytest.mark.parametrize("name", METHODS)
def test_a_case_is_the_same_in_any_batch_and_follows_its_label(name, trained, tiny_dataset, labels, tmp_path):
    alone = draw(name, trained(name), tiny_dataset, tmp_path / "one", labels, batch_size=1)
    together = draw(name, trained(name), tiny_dataset, tmp_path / "two", labels, batch_size=2)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3)
    assert np.abs(alone[0] - alone[1]).max() > 1e-6 and alone[0].shape == (16, 16, 16)
    for path in labels:
        written, given = nib.load(tmp_path / "one/labelsTr" / path.name), nib.load(path)
        np.testing.assert_array_equal(written.get_fdata(), given.get_fdata())
        np.testing.assert_allclose(nib.load(tmp_path / "one/imagesTr" / path.name).affine, given.affine)
    cost = json.loads((tmp_path / "one/cost.json").read_text())
    assert cost["volumes"] == 2 and cost["parameters"] > 100


@pytest.mark.parametrize("name", ["cond_ddpm", "sdm"])
def test_what_a_network_learnt_to_answer_is_what_it_is_drawn_by(name, tiny_dataset, tmp_path):
    """Told once, to the first training: its file hands it on."""
    first, *later = load_method(name).trainings
    train(name, tmp_path, tiny_dataset, until=first, prediction_type="v_prediction")
    for training in later:
        own = {**LENGTH, **LABEL_TO_IMAGE[name][training]}
        config(name, training, tiny_dataset, method_dir=str(tmp_path), **own).get_parsed_content("training")
    parser = config(name, None, tiny_dataset, method_dir=str(tmp_path))
    assert parser.get_parsed_content("noise_scheduler").prediction_type == "v_prediction"


@pytest.mark.parametrize("name", METHODS)
def test_labels_of_other_classes_or_sizes_are_refused_by_name(name, trained, tiny_dataset, labels, tmp_path):
    image = nib.load(labels[0])
    label = np.asanyarray(image.dataobj).copy()
    label[0, 0, 0] = 255
    wrong = {r"values \[255\]": label, "must be a multiple of": np.asanyarray(image.dataobj)[:15]}
    for message, array in wrong.items():
        nib.save(nib.Nifti1Image(array, image.affine), tmp_path / "mine.nii.gz")
        with pytest.raises(RuntimeError) as raised:
            draw(name, trained(name), tiny_dataset, tmp_path / "out", [tmp_path / "mine.nii.gz"])
        assert re.search(f"mine.nii.gz: .*{message}", str(cause(raised.value)))


@pytest.mark.parametrize("name", METHODS)
def test_classes_and_sizes_that_cannot_be_learnt_are_refused_before_training(name, tiny_dataset, tmp_path):
    wrong = {"no training case has lesion": {"class_names": [*CLASS_NAMES, "lesion"]}}
    wrong["voxels; give that roi_size"] = {"roi_size": [16, 16, 1], "class_names": CLASS_NAMES}
    for message, ids in wrong.items():
        with pytest.raises(RuntimeError) as raised:
            train(name, tmp_path, tiny_dataset, **ids)
        assert message in str(cause(raised.value))
    assert not list(tmp_path.rglob("model.pt"))


@pytest.mark.parametrize("config_name", KINDS)
@pytest.mark.parametrize("name", [name for name in LABEL_TO_IMAGE if load_method(name).bundle.endswith(name)])
def test_monai_s_property_check_passes(name, config_name, trained, tiny_dataset, labels, tmp_path):
    shutil.copytree(tiny_dataset, tmp_path / "dataset")
    method = load_method(name)
    folder = bundle_path(method.bundle) / "configs"
    training = next(iter(method.trainings)) if config_name == "train" else None
    ids = config(name, training, tmp_path / "dataset", method_dir=str(trained(name)), output_dir=str(tmp_path)).get()
    own = {"label_paths": [str(labels[0])], "bundle_root": str(folder.parent), **LABEL_TO_IMAGE[name].get(training, {})}
    flow = ConfigWorkflow(
        config_file=str(folder / f"{config_name}.yaml"),
        meta_file=str(folder / "metadata.json"),
        logging_file=False,
        workflow_type=KINDS[config_name],
        **{
            key: ids[key]
            for key in ("dataset_dir", "method_dir", "output_dir", "class_names", "roi_size")
            if key in ids
        },
        **{key: value for key, value in own.items() if key in ids},
    )
    flow.initialize()
    assert flow.check_properties() == []
