"""MONAI's own property check: train and inference of each bundle build on tiny data and define what MONAI asks for."""

from functools import partial

import pytest
import torch
import yaml
from monai.bundle import ConfigWorkflow
from monai.networks.nets import AutoencoderKL, DiffusionModelUNet

from lldm3d.bundle import bundle_names, bundle_path
from lldm3d.codec import save_codec
from lldm3d.latents import encode
from lldm3d.networks import save_network

CLASS_NAMES = ["background", "liver", "portal vein"]
LATENT_CHANNELS = 2
TINY_DIFFUSION = {"channels": [32, 32], "attention_levels": [False, False], "latent_channels": LATENT_CHANNELS}
TINY = {
    "autoencoder": {"channels": [8, 8, 8], "latent_channels": LATENT_CHANNELS, "roi_size": [16, 16, 16]},
    "label_ldm": TINY_DIFFUSION,
    "image_ldm": TINY_DIFFUSION,
    "controlnet": {**TINY_DIFFUSION, "conditioning_channels": [4, 8, 16]},
    "seg_unet": {"channels": [4, 8], "roi_size": [16, 16, 16]},
}


@pytest.fixture(scope="module")
def tiny_work(tiny_dataset, tmp_path_factory):
    """A work directory whose networks are untrained: codecs, latents, both diffusion models."""
    work = tmp_path_factory.mktemp("tiny_work")
    for kind, channels in (("image", 1), ("label", len(CLASS_NAMES))):
        tiny_codec(work / f"autoencoder_{kind}/codec.pt", kind, channels)
    codecs = [str(work / f"autoencoder_{kind}/codec.pt") for kind in ("image", "label")]
    encode(str(tiny_dataset), *codecs, str(work / "latents"))
    for stage in ("label_ldm", "image_ldm"):
        architecture = partial(
            DiffusionModelUNet,
            spatial_dims=3,
            in_channels=LATENT_CHANNELS,
            out_channels=LATENT_CHANNELS,
            channels=[32, 32],
            attention_levels=[False, False],
            num_res_blocks=1,
            num_head_channels=32,
            norm_num_groups=16,
        )
        save_network(str(work / stage / "model.pt"), architecture(), architecture, str(work / "latents"))
    return work


def tiny_codec(path, kind: str, channels: int) -> None:
    architecture = partial(
        AutoencoderKL,
        spatial_dims=3,
        in_channels=channels,
        out_channels=channels,
        channels=[8, 8, 8],
        latent_channels=LATENT_CHANNELS,
        num_res_blocks=1,
        norm_num_groups=8,
        attention_levels=[False] * 3,
        with_encoder_nonlocal_attn=False,
        with_decoder_nonlocal_attn=False,
    )
    volumes = [torch.rand(1, 1, 16, 16, 16).round()]
    save_codec(str(path), architecture(), architecture, kind, CLASS_NAMES, volumes, "cpu")


@pytest.mark.parametrize("config, kind", [("train", "train"), ("inference", "infer")])
@pytest.mark.parametrize("name", bundle_names())
def test_monai_s_property_check_passes(name, config, kind, tiny_dataset, tiny_work, tmp_path):
    bundle = bundle_path(name)
    path = bundle / "configs" / f"{config}.yaml"
    content = yaml.safe_load(path.read_text())
    latents = content["dataset_dir"].endswith("latents")
    settings = {
        "bundle_root": str(bundle),
        "dataset_dir": str(tiny_work / "latents" if latents else tiny_dataset),
        "output_dir": str(tmp_path),
        "device": torch.device("cpu"),
        "class_names": CLASS_NAMES,
        "label_dir": str(tiny_dataset),
        "image_ldm_path": str(tiny_work / "image_ldm/model.pt"),
        "label_ldm_path": str(tiny_work / "label_ldm/model.pt"),
        "image_codec_path": str(tiny_work / "autoencoder_image/codec.pt"),
        "label_codec_path": str(tiny_work / "autoencoder_label/codec.pt"),
        **TINY[name],
    }
    known = {key: value for key, value in settings.items() if key in content}
    flow = ConfigWorkflow(
        config_file=str(path),
        meta_file=str(bundle / "configs/metadata.json"),
        logging_file=False,
        workflow_type=kind,
        **known,
    )
    flow.initialize()
    assert flow.check_properties() == []
    assert flow.bundle_root == str(bundle)
    assert (flow.trainer if kind == "train" else flow.evaluator) is not None
