"""Settings that make each network one of seconds, on volumes of 16x16x16 voxels, and the workflows of the bundles.

A workflow is MONAI's own, in this process: what a process of its own adds is tested once for each kind of bundle.
"""

from pathlib import Path

import yaml
from monai.bundle import ConfigWorkflow

from lldm3d.bundle import bundle_path
from lldm3d.codec.latents import encode
from lldm3d.files import save_checkpoint

KINDS = {"train": "train", "inference": "infer"}  # config, and what MONAI calls the workflow
CLASS_NAMES = ["background", "liver", "portal vein"]

U_NET = {"network_def#channels": [4, 8], "network_def#strides": [2]}
SEGMENTATION = {
    "seg_unet": U_NET,
    "seg_resunet": U_NET,
    "seg_wideresunet": U_NET,
    "seg_dynunet": {"network_def#filters": [4, 8, 8, 8, 8]},
    "seg_vnet": {},  # no width to set
    "seg_swinunetr": {"network_def#feature_size": 12},
}

# MONAI's U-Net attends in its middle whatever `attention_levels` say: with 16x16x16 tokens a step takes seconds. On a
# CPU the bfloat16 gradients of torch 2.13 are random where a convolution has 2 voxels, so no level is that small.
UNET = {"channels": [4, 8, 32], "attention_levels": [False] * 3, "num_res_blocks": 1, "norm_num_groups": 4}
LATENT_UNET = {"channels": [32], "attention_levels": [False], "num_res_blocks": 1, "latent_channels": 2}
DISCRIMINATOR = {"crop_size": [16, 16, 16], "discriminator_channels": 4, "discriminator_layers": 1}
GAN = {"channels": 16, "groups": 4, "latent_size": 8, "slab": 8}
VQ = {"channels": [8], "num_res_layers": 1, "latent_channels": 2, "num_embeddings": 16}
VAE = {"channels": [8, 8], "num_res_blocks": 1, "norm_num_groups": 4, "latent_channels": 2}
# bundle: training: ids of its config
BASELINES = {
    "baselines/ha_gan": {"gan": {**GAN, "discriminator_channels": {"high": [4, 8], "low": [4]}}},
    "baselines/ddpm": {"diffusion": UNET},
    "baselines/ldm_vqvae": {"autoencoder": {**DISCRIMINATOR, **VQ}, "diffusion": LATENT_UNET},
    "baselines/ldm_vae": {"autoencoder": {**DISCRIMINATOR, **VAE}, "diffusion": LATENT_UNET},
}

SPADE = {"channels": 4, "hidden_channels": 4, "discriminator_channels": 4}
# methods that draw an image for a label: training: ids of its config; each draws slices, or volumes as a variant
LABEL_TO_IMAGE = {
    "pix2pix": {"gan": {"channels": 4, "discriminator_channels": 4}},
    "spade": {"gan": SPADE},
    "oasis": {"gan": {**SPADE, "noise_channels": 4}},
}
LABEL_TO_IMAGE |= {f"{name}3d": LABEL_TO_IMAGE[name] for name in ("pix2pix", "spade")}
DENOISER = {"channels": [8, 16], "attention_levels": [False, True], "num_res_blocks": 1, "num_head_channels": 8}
DENOISER |= {"norm_num_groups": 4}
DENOISERS = ("cond_ddpm", "mask_guided_ddpm", "edge_guided_ddpm", "med_ddpm")
LABEL_TO_IMAGE |= {name: {"diffusion": DENOISER} for name in DENOISERS}
LABEL_TO_IMAGE["sdm"] = dict.fromkeys(("diffusion", "null_labels"), {**DENOISER, "hidden_channels": 4})
SMALL_CROPS = DENOISER | {"crop_size": [16, 16, 8]}
# with fewer steps all drawn shapes are refused
SHAPES = {"sides": 16, "num_head_channels": 8, "epoch_length": 150, "batch_size": 2, "learning_rate": 0.003}
# methods that edit scans; the lesions of tests are all short
LESIONS = {
    "lefusion": {"texture": SMALL_CROPS},
    "lngen": {
        "shape_autoencoder": {"channels": [8, 8, 8], "latent_channels": 2, "norm_num_groups": 4, **SHAPES},
        "shape_diffusion": {"channels": [16], "attention_levels": [False], "norm_num_groups": 4, **SHAPES},
        "adapter": {"channels": [4, 8], **SHAPES},
        "shapes": {"sides": 16, "num_shapes": 3, "num_inference_steps": 5},
        "texture": SMALL_CROPS,
    },
    "haar_inpaint": {"diffusion": {"channels": [32], "attention_levels": [False]}},
    "difftumor": {"early": SMALL_CROPS, "late": SMALL_CROPS | {"lengths": [0, 1000]}},
}
SLICES = DENOISER | {"window": 8}  # windows of slices, of which a volume here has two
# methods that draw volumes from slices
SLICE_VOLUMES = {name: {"slices": SLICES, "depth": {}} for name in ("make_a_volume", "gem3d")}
SLICE_VOLUMES["gem3d"] |= {"start": DENOISER}

# after fewer steps a codebook has not come to life, and all cases decode alike
LONGER = {"epochs": 2, "epoch_length": 3, "batch_size": 2, "learning_rate": 0.002}

AUTOENCODER = {"channels": [8, 8, 8], "latent_channels": 2, "roi_size": [16, 16, 16]}
SLICE_VOLUMES["gem3d_autoencoder"] = SLICE_VOLUMES["gem3d"] | {"autoencoder_image": AUTOENCODER}
DIFFUSION = {"channels": [32], "attention_levels": [False], "latent_channels": 2}
CONTROLNET = {**DIFFUSION, "conditioning_channels": [4, 8, 16]}
DIFFUSIONS = ("label_ldm", "image_ldm", "controlnet")
GENERATIVE = {"autoencoder": AUTOENCODER, "label_ldm": DIFFUSION, "image_ldm": DIFFUSION, "controlnet": CONTROLNET}
TRAINED = sorted([*GENERATIVE, *SEGMENTATION, *BASELINES])  # further methods: tests/methods


def trainings(bundle: str) -> dict[str, str]:
    """Training and config of a baseline, in order."""
    content = yaml.safe_load((bundle_path(bundle) / "configs/method.yaml").read_text())["trainings"]
    return {name: Path(entry.get("configs", ["train.yaml"])[0]).stem for name, entry in content.items()}


def settings(bundle: str, config: str, work: Path, output_dir: Path) -> dict:
    """The ids of a config that make its workflow one of seconds in `work`: `dataset` and a folder of each training."""
    path = bundle_path(bundle) / "configs" / f"{config}.yaml"
    wanted = {
        "bundle_root": str(path.parents[1]),
        "method_dir": str(work),
        "dataset_dir": str(work / "dataset"),
        "output_dir": str(output_dir),
        "device": "$torch.device('cpu')",
        "class_names": CLASS_NAMES,
        "tubular": ["portal vein"],
        "epochs": 1,
        "epoch_length": 2,
        "val_interval": 1,
        "batch_size": 2 if bundle == "seg_vnet" else 1,  # its batch norm needs two voxels at the bottom
        "num_cases": 1,
        "num_inference_steps": 2,
        "label_dir": str(work / "dataset"),
        **GENERATIVE.get(bundle, {"roi_size": [16, 16, 16]}),
        **SEGMENTATION.get(bundle, {}),
        **of_method(bundle, config, work),
    }
    if bundle.startswith("seg_") and config == "inference":
        wanted["ckpt_path"] = str(work / bundle / "model.pt")
    content = yaml.safe_load(path.read_text())
    return {key: value for key, value in wanted.items() if key.split("#")[0] in content}


def of_method(bundle: str, config: str, work: Path) -> dict:
    """The ids of a baseline's config: those of its training, and the folder of all of them."""
    if bundle not in BASELINES:
        return {}
    trained = {config: name for name, config in trainings(bundle).items()}
    folder = {"method_dir": str(work / bundle), "roi_size": [16, 16, 16]}
    return folder | BASELINES[bundle].get(trained.get(config), {})


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


def train_all(work: Path) -> None:
    """Train every bundle for some steps on `work/dataset`; of the segmentations one, the others stay random."""
    workflow("autoencoder", "train", work, work / "autoencoder_image").run()
    workflow("autoencoder", "train", work, work / "autoencoder_label", ("label",)).run()
    codecs = [str(work / f"autoencoder_{kind}/codec.pt") for kind in ("image", "label")]
    encode(str(work / "dataset"), codecs[0], str(work / "latents/encoded"), codecs[1])
    for name in (*DIFFUSIONS, "seg_unet"):
        workflow(name, "train", work, work / name).run()
    for name in SEGMENTATION.keys() - {"seg_unet"}:
        network = workflow(name, "train", work, work / name).parser.get_parsed_content("network_def")
        save_checkpoint(work / name / "model.pt", network.state_dict())
    for name in BASELINES:
        for training, config in trainings(name).items():
            workflow(name, config, work, work / name / training, **LONGER).run()
