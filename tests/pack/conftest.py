"""A work directory in which every stage has weights, without a training."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from monai.bundle import ConfigParser

from lldm3d.bundle import bundle_path
from lldm3d.codec.codec import save_codec
from lldm3d.codec.latents import encode
from lldm3d.files import save_checkpoint
from lldm3d.training.checkpoints import save_network

CLASS_NAMES = ["background", "liver", "portal vein"]
STAGES = {
    "autoencoder_image": ("autoencoder", {"channels": [8, 8, 8], "latent_channels": 2}),
    "autoencoder_label": ("autoencoder", {"channels": [8, 8, 8], "latent_channels": 2}),
    "label_ldm": ("label_ldm", {"channels": [32], "attention_levels": [False], "latent_channels": 2}),
    "image_ldm": ("image_ldm", {"channels": [32], "attention_levels": [False], "latent_channels": 2}),
    "controlnet": (
        "controlnet",
        {
            "channels": [32],
            "attention_levels": [False],
            "latent_channels": 2,
            "conditioning_channels": [4, 8, 16],
            "learning_rate": 1e-05,
        },
    ),
}
METHOD = "methods/lldm/seed_0"  # where the generative trainings lie
SEGMENTERS = {  # narrow; VNet, whose width is fixed, has 180 MB of weights and is packed without them alone
    "seg_dynunet": {"network_def#filters": [4, 8, 8, 8, 8]},
    "seg_resunet": {"network_def#channels": [4, 8, 8, 8]},
    "seg_swinunetr": {"network_def#feature_size": 12},
    "seg_unet": {"network_def#channels": [4, 8, 8, 8]},
    "seg_wideresunet": {"network_def#channels": [4, 8, 8, 8]},
}
FIRST = next(iter(SEGMENTERS))


@pytest.fixture(scope="session")
def tiny_chain(tiny_dataset, tmp_path_factory) -> Path:
    """Weights as each stage would save them, drawn at random, beside its `overrides.yaml`."""
    torch.manual_seed(0)
    work = tmp_path_factory.mktemp("chain")
    shutil.copytree(tiny_dataset, work / "dataset")
    (work / "run.yaml").write_text(yaml.safe_dump({"settings": {"methods": {"lldm": {stage: {} for stage in STAGES}}}}))
    folder = work / METHOD
    for stage, (bundle, settings) in STAGES.items():
        settings = {**settings, "class_names": CLASS_NAMES, "output_dir": str(folder / stage)}
        save_stage(work, folder, stage, parsed(folder, stage, bundle, settings))
    for network in SEGMENTERS:
        save_segmentation(work, f"segment/steps/{network}/multi/R/real/seed_0", network)
    save_segmentation(work, f"segment/steps/{FIRST}/multi/0.5R+2S/lldm/seed_0", FIRST)
    return work


def parsed(work: Path, stage: str, bundle: str, settings: dict) -> ConfigParser:
    """train.yaml of the stage with its settings, which are left in `overrides.yaml`."""
    parser = ConfigParser()
    files = ["train.yaml", *(["label.yaml"] if stage == "autoencoder_label" else [])]
    parser.read_config([str(bundle_path(bundle) / "configs" / file) for file in files])
    parser.update(settings)
    (work / stage).mkdir(parents=True)
    (work / stage / "overrides.yaml").write_text(yaml.safe_dump(settings))
    return parser


def save_stage(work: Path, folder: Path, stage: str, parser: ConfigParser) -> None:
    architecture, network = (parser.get_parsed_content(name) for name in ("architecture", "network_def"))
    if stage.startswith("autoencoder"):
        volumes = [torch.randint(0, 2, (1, 1, 16, 16, 16)).float()]
        kind = stage.removeprefix("autoencoder_")
        save_codec(str(folder / stage / "codec.pt"), network, architecture, kind, CLASS_NAMES, volumes, "cpu")
        return
    latents = folder / "latents/encoded"
    if not latents.is_dir():
        image, label = (str(folder / f"autoencoder_{kind}/codec.pt") for kind in ("image", "label"))
        encode(str(work / "dataset"), image, str(latents), label)
    further = {"noise_scheduler": "rectified_flow", **({"condition": "label"} if stage == "controlnet" else {})}
    save_network(str(folder / stage / "model.pt"), network, architecture, str(latents), **further)


def save_segmentation(work: Path, stage: str, bundle: str) -> None:
    settings = {"class_names": CLASS_NAMES, "roi_size": [16, 16, 16], "dataset_dir": str(work / stage)}
    settings |= SEGMENTERS[bundle]
    parser = parsed(work, stage, bundle, settings)
    save_checkpoint(work / stage / "model.pt", parser.get_parsed_content("network_def").state_dict())
