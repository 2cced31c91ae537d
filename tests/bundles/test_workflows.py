"""Every bundle trains and infers on tiny data, passes MONAI's property check and the conformance check."""

import json
import logging
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from monai.bundle import ConfigWorkflow

from lldm3d.bundle import bundle_names, bundle_path
from lldm3d.codec.latents import encode

from .small import BASELINES, SEGMENTATION

ROOT = Path(__file__).parents[2]
KINDS = {"train": "train", "inference": "infer"}  # config, and what MONAI calls the workflow
AUTOENCODER = {"channels": [8, 8, 8], "latent_channels": 2, "roi_size": [16, 16, 16]}
# one level: at two, the lower one is 2 voxels long, where the bfloat16 conv3d of torch 2.13 has NaN gradients on a CPU
DIFFUSION = {"channels": [32], "attention_levels": [False], "latent_channels": 2}
CONTROLNET = {**DIFFUSION, "conditioning_channels": [4, 8, 16]}
DIFFUSIONS = ("label_ldm", "image_ldm", "controlnet")
SMALL = {"autoencoder": AUTOENCODER, "label_ldm": DIFFUSION, "image_ldm": DIFFUSION, "controlnet": CONTROLNET}


def settings(bundle: str, config: str, work: Path, output_dir: Path) -> dict:
    """The ids of a config that make its workflow one of seconds in the work directory `work`."""
    path = bundle_path(bundle) / "configs" / f"{config}.yaml"
    content = yaml.safe_load(path.read_text())
    wanted = {
        "bundle_root": str(path.parents[1]),
        "work_dir": str(work),
        "output_dir": str(output_dir),
        "device": "$torch.device('cpu')",
        "class_names": ["background", "liver", "portal vein"],
        "tubular": ["portal vein"],
        "epochs": 1,
        "epoch_length": 2,
        "val_interval": 1,
        "batch_size": 2 if bundle == "seg_vnet" else 1,  # its batch norm needs two voxels at the bottom
        "num_cases": 1,
        "num_inference_steps": 2,
        "label_dir": str(work / "dataset"),
        "image_ldm_path": str(work / "image_ldm/model.pt"),
        **SMALL.get(bundle, {"roi_size": [16, 16, 16]}),
        **SEGMENTATION.get(bundle, {}),
        **of_method(bundle, config, work),
    }
    if "work_dir" in content:  # the paths follow from it
        del wanted["image_ldm_path"]
    else:
        wanted["dataset_dir"] = str(work / Path(content["dataset_dir"]).name)
    if bundle.startswith("seg_") and config == "inference":
        wanted["ckpt_path"] = str(work / bundle / "model.pt")
    return {key: value for key, value in wanted.items() if key.split("#")[0] in content}


def of_method(bundle: str, config: str, work: Path) -> dict:
    """The ids of a baseline's config: those of its training, and the folder of all of them."""
    if bundle not in BASELINES:
        return {}
    trained = {path.removeprefix("configs/").removesuffix(".yaml"): name for name, path in trainings(bundle).items()}
    folder = {"method_dir": str(work / bundle), "roi_size": [16, 16, 16]}
    return folder | BASELINES[bundle].get(trained.get(config), {})


def trainings(bundle: str) -> dict[str, str]:
    """Training and config file of a baseline, in order."""
    content = yaml.safe_load((bundle_path(bundle) / "configs/method.yaml").read_text())["trainings"]
    return {name: entry["config"] for name, entry in content.items()}


def workflow(
    bundle: str, config: str, work: Path, output_dir: Path, overlays: tuple[str, ...] = (), **overrides
) -> ConfigWorkflow:
    configs = bundle_path(bundle) / "configs"
    flow = ConfigWorkflow(
        config_file=[str(configs / f"{name}.yaml") for name in (config, *overlays)],
        meta_file=str(configs / "metadata.json"),
        logging_file=False,
        workflow_type=KINDS.get(config, "train"),
        **{**settings(bundle, config, work, output_dir), **overrides},
    )
    flow.initialize()
    return flow


@pytest.fixture(scope="module")
def tiny_work(tiny_dataset, tmp_path_factory) -> Path:
    """A work directory in which every bundle was trained for two steps."""
    work = tmp_path_factory.mktemp("work")
    shutil.copytree(tiny_dataset, work / "dataset")
    workflow("autoencoder", "train", work, work / "autoencoder_image").run()
    workflow("autoencoder", "train", work, work / "autoencoder_label", ("label",)).run()
    codecs = [str(work / f"autoencoder_{kind}/codec.pt") for kind in ("image", "label")]
    encode(str(tiny_dataset), *codecs, str(work / "latents"))
    for name in ("label_ldm", "image_ldm", "controlnet", *(n for n in bundle_names() if n.startswith("seg_"))):
        workflow(name, "train", work, work / name).run()
    for name in BASELINES:
        for training, config in trainings(name).items():
            workflow(name, Path(config).stem, work, work / name / training).run()
    return work


@pytest.mark.parametrize("config", KINDS)
@pytest.mark.parametrize("bundle", bundle_names())
def test_monai_s_property_check_passes(bundle, config, tiny_work, tmp_path):
    flow = workflow(bundle, config, tiny_work, tmp_path)
    assert flow.check_properties() == []
    assert (flow.trainer if config == "train" else flow.evaluator) is not None


@pytest.mark.parametrize("bundle", bundle_names())
def test_inference_writes_volumes(bundle, tiny_work, tmp_path):
    workflow(bundle, "inference", tiny_work, tmp_path).run()
    assert list(tmp_path.rglob("*.nii.gz"))


@pytest.mark.parametrize("bundle", bundle_names())
def test_the_independent_conformance_check_passes(bundle, tiny_work, tmp_path, monkeypatch):
    """The check is a script beside the checkout; no weights come with the bundles, so it is not asked about them."""
    script = ROOT.parent / "shared" / "bundle_conformance.py"
    if not script.is_file():
        pytest.skip("../shared/bundle_conformance.py does not exist")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(logging, "disable", lambda *_: None)
    overrides = {kind: settings(bundle, config, tiny_work, tmp_path) for config, kind in KINDS.items()}
    further = [path.stem for path in bundle_path(bundle).glob("configs/train_*.yaml")]
    overrides |= {config: settings(bundle, config, tiny_work, tmp_path) for config in further}
    (tmp_path / "overrides.json").write_text(
        json.dumps({Path(bundle).name: {**overrides, "__exclude__": ["file:models/model.pt"]}})
    )
    options = {"schema_dir": str(Path(__file__).parent), "overrides": str(tmp_path / "overrides.json")}
    options |= {"pna": [1, 1, 1], "no_dynamic": False, "no_export": True}
    rows = runpy.run_path(str(script))["check_one"](str(bundle_path(bundle)), SimpleNamespace(**options))
    assert len(rows) > 30
    assert [row for row in rows if row[0] == "FAIL"] == []


# Trainings that can be compared: noise and times follow from the case, whatever batch or process it is in; the
# autoencoder's code has no noise to speak of, and its optimizer does not blow up rounding where a gradient is 0
SGD = {"_target_": "torch.optim.SGD", "params": "$@network_def.parameters()", "lr": 0.01}
BY_CASE = {
    "autoencoder": {"initial_log_variance": -60, "optimizer": SGD},
    **dict.fromkeys(DIFFUSIONS, {"train#prepare_batch#seed": 0}),
}
# the same of the baselines, by bundle and config; a VAE's codes without noise, and with a scale that no batch tells
UNMOVED = {"train#augment#prob": 0}
BY_INDEX = {**UNMOVED, "prepare_batch#seed": 0}
NO_NOISE = "$(lambda net: (torch.nn.init.constant_(net.quant_conv_log_sigma.conv.bias, -60), net)[1])(@architecture())"
BASELINES_BY_CASE = {
    ("baselines/ddpm", "train"): BY_INDEX,
    ("baselines/ldm_vqvae", "train"): BY_INDEX,
    ("baselines/ldm_vae", "train"): {
        **BY_INDEX,
        "encode": "$lambda image: @autoencoder.encode(image)[0]",
        "scale_factor": 1.0,
    },
    ("baselines/ldm_vqvae", "train_autoencoder"): {**UNMOVED, "optimizer": SGD},
    ("baselines/ldm_vae", "train_autoencoder"): {**UNMOVED, "optimizer": SGD, "network_def": NO_NOISE},
}


def train_in_two_processes(bundle: str, config: str, work: Path, output_dir: Path, exact: dict) -> None:
    """torchrun and gloo, from the bundle's folder, by MONAI's own command line."""
    output_dir.mkdir()
    overrides = {**settings(bundle, config, work, output_dir), "bundle_root": ".", **exact}
    (output_dir / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    overlay = config.replace("train", "multi_gpu")
    files = [f"configs/{config}.yaml", f"configs/{overlay}.yaml", str(output_dir / "overrides.yaml")]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
    command += ["monai.bundle", "run", "training", "--config_file", str(files)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=bundle_path(bundle), env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    "bundle, config, exact",
    [
        *((bundle, "train", exact) for bundle, exact in BY_CASE.items()),
        *((*k, v) for k, v in BASELINES_BY_CASE.items()),
    ],
)
def test_two_processes_train_the_model_that_one_trains_with_twice_the_batch(bundle, config, exact, tiny_work, tmp_path):
    exact = {**exact, "autocast": False}
    alone, two = tmp_path / "alone", tmp_path / "two"
    workflow(bundle, config, tiny_work, alone, batch_size=2, **exact).run()
    train_in_two_processes(bundle, config, tiny_work, two, exact)
    file, key = ("codec.pt", "autoencoder") if bundle == "autoencoder" else ("model.pt", "model")
    expected, found = (torch.load(folder / file, weights_only=True)[key] for folder in (alone, two))
    for name, value in expected.items():
        torch.testing.assert_close(value, found[name], rtol=1e-3, atol=1e-5, msg=lambda text, name=name: name + text)
    losses = [json.loads((folder / "metrics.json").read_text())["loss"] for folder in (alone, two)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4) and len(losses[1]) == 1


def test_ha_gan_trains_in_two_processes(tiny_work, tmp_path):
    train_in_two_processes("baselines/ha_gan", "train", tiny_work, tmp_path / "two", {})
    assert (tmp_path / "two/model.pt").is_file()
    assert len(json.loads((tmp_path / "two/metrics.json").read_text())["loss"]) == 1
