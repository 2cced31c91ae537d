"""The stock recipe of each generative stage, for benchmarks/train.py: what MONAI's Model Zoo trains with.

Networks, batches and learning rate are those of our stage. The rest is that of the zoo's bundle
brats_mri_generative_diffusion: volumes cached in memory, Adam, float32 on a CPU and MONAI's float16 `amp` on a GPU
(which the zoo's trainer of the autoencoder does not use); a diffusion stage encodes its batch in every step
(`LatentDiffusionInferer`, scale factor from the first batch, DDPM); the autoencoder's discriminator learns five times a
step from the first one on. Its handlers, which print and log every step, are left out.
"""

from pathlib import Path

import torch
from monai.bundle import ConfigParser
from monai.data import CacheDataset, DataLoader
from monai.engines import SupervisedTrainer
from monai.inferers import ControlNetLatentDiffusionInferer, LatentDiffusionInferer
from monai.losses import PatchAdversarialLoss
from monai.networks.nets import ControlNet
from monai.networks.schedulers import DDPMScheduler
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, ToTensord
from monai.utils import CommonKeys, first

from lldm3d.codec.codec import load_codec
from lldm3d.data.dataset import load_cases
from lldm3d.data.labels import one_hot

DISCRIMINATOR_STEPS = 5
KEYS = ("image", "label")


def stock_trainer(stage: str, parser: ConfigParser, steps: int) -> SupervisedTrainer:
    """The stock trainer beside our stage's `parser`; one epoch is `steps` iterations."""
    if stage == "autoencoder_image":
        loader, parts = parser.get_parsed_content("train#dataloader"), autoencoder(parser)
    else:
        loader = volumes(parser["dataset_dir"], parser.get_parsed_content("batch_size"), steps)
        parts = diffusion(stage, parser, loader)
    device = parser.get_parsed_content("device")
    network = parts["network"].to(device)
    optimizer = torch.optim.Adam((w for w in network.parameters() if w.requires_grad), parser["learning_rate"])
    common = {"device": device, "max_epochs": 1, "epoch_length": steps, "train_data_loader": loader}
    common |= {"optimizer": optimizer, "loss_function": torch.nn.MSELoss(), "decollate": False}
    return SupervisedTrainer(**common, **parts, amp=device.type == "cuda")


def volumes(dataset_dir: str, batch_size: int, steps: int) -> DataLoader:
    """Whole training cases from memory, in random order."""
    read = [LoadImaged(KEYS), EnsureChannelFirstd(KEYS, channel_dim="no_channel"), ToTensord(KEYS, track_meta=False)]
    dataset = CacheDataset(
        [case.as_dict() for case in load_cases(dataset_dir, "training")], Compose(read), progress=False
    )
    order = torch.utils.data.RandomSampler(dataset, num_samples=steps * batch_size)
    return DataLoader(dataset, batch_size=batch_size, sampler=order, num_workers=0)


def diffusion(stage: str, parser: ConfigParser, loader: DataLoader) -> dict:
    """The latent diffusion of the zoo: network, and what is drawn, encoded and answered in a step."""
    kind, device = "label" if stage == "label_ldm" else "image", parser.get_parsed_content("device")
    codec = load_codec(Path(parser["method_dir"]) / f"autoencoder_{kind}/codec.pt", kind).to(device)
    classes, scheduler = len(codec.class_names), DDPMScheduler(schedule="scaled_linear_beta")

    def encoder_input(batch: dict) -> torch.Tensor:
        return one_hot(batch["label"].to(device), classes) if kind == "label" else batch["image"].to(device)

    def prepare_batch(batch: dict, device=None, non_blocking: bool = False, **_) -> tuple:
        inputs = encoder_input(batch)
        noise = torch.randn(len(inputs), *latent, device=device)
        timesteps = torch.randint(0, scheduler.num_train_timesteps, (len(inputs),), device=device).long()
        further = {"cn_cond": one_hot(batch["label"].to(device), classes)} if stage == "controlnet" else {}
        return inputs, noise, (), {"noise": noise, "timesteps": timesteps, **further}

    with torch.no_grad():
        code = codec.autoencoder.encode_stage_2_inputs(encoder_input(first(loader)))
    latent, scale = code.shape[1:], 1 / code.std().item()
    if stage == "controlnet":
        inferer, network = ControlNetLatentDiffusionInferer(scheduler, scale), controlnet(parser)
        diffusion_model = parser.get_parsed_content("diffusion_def").to(device).requires_grad_(False)

        def infer(inputs, network, **keywords) -> torch.Tensor:
            return inferer(inputs, codec.autoencoder, diffusion_model, network, **keywords)
    else:
        inferer, network = LatentDiffusionInferer(scheduler, scale), parser.get_parsed_content("network_def")

        def infer(inputs, network, **keywords) -> torch.Tensor:
            return inferer(inputs, codec.autoencoder, network, **keywords)

    return {"network": network, "prepare_batch": prepare_batch, "inferer": infer}


def controlnet(parser: ConfigParser) -> ControlNet:
    """As ours, but for an embedding that does not halve: the stock inferer shrinks the label to the latent's size."""
    architecture = parser.get_parsed_content("architecture")
    channels = architecture.keywords["conditioning_embedding_num_channels"][-1:]
    return architecture(conditioning_embedding_num_channels=channels)


def autoencoder(parser: ConfigParser) -> dict:
    """The step of the zoo's trainer of an autoencoder against a discriminator."""
    discriminator = parser.get_parsed_content("discriminator")
    optimizer = torch.optim.Adam(discriminator.parameters(), parser["learning_rate"])
    loss_function, adversarial = parser.get_parsed_content("loss"), PatchAdversarialLoss(criterion="least_squares")

    def score(volume: torch.Tensor, is_real: bool, for_discriminator: bool) -> torch.Tensor:
        return adversarial(discriminator(volume.contiguous())[-1], is_real, for_discriminator)

    def update(engine: SupervisedTrainer, batch: dict) -> dict:
        image = batch["image"].to(engine.state.device)
        engine.network.train()
        output = engine.network(image)
        for _ in range(DISCRIMINATOR_STEPS):
            optimizer.zero_grad()
            loss = 0.1 * 0.5 * (score(output[0].detach(), False, True) + score(image, True, True))
            loss.backward()
            optimizer.step()
        engine.optimizer.zero_grad()
        loss = loss_function(output, image) + 0.1 * score(output[0], True, False)
        loss.backward()
        engine.optimizer.step()
        return {CommonKeys.LOSS: loss.item()}

    return {"network": parser.get_parsed_content("network_def"), "iteration_update": update}
