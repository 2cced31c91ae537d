"""Checkpoints of monai-generative and of the Model Zoo's networks: the real packages, random weights."""

import contextlib
import importlib
import io
import json
from pathlib import Path

import pytest
import torch
import yaml
from monai.bundle import ConfigParser

from lldm3d import cli
from lldm3d.bundle import bundle_path, undefined
from lldm3d.errors import UserError
from lldm3d.files import load_checkpoint
from lldm3d.methods import conversion
from lldm3d.methods.conversion import KINDS, convert
from lldm3d.training.checkpoints import initialise_from

GENERATIVE, MAISI = "generative.networks.nets", "monai.apps.generation.maisi.networks"
LEVELS = {"spatial_dims": 3, "num_channels": [8, 16], "num_res_blocks": 1, "norm_num_groups": 8}
NETWORK = LEVELS | {"in_channels": 2, "attention_levels": [False, True], "num_head_channels": 8}
UNET = NETWORK | {"out_channels": 2}
CONTROLNET = NETWORK | {"conditioning_embedding_in_channels": 3, "conditioning_embedding_num_channels": [4, 8]}
AUTOENCODER = LEVELS | {"attention_levels": [False, True], "latent_channels": 2}
CROSS = {"with_conditioning": True, "cross_attention_dim": 5}
VQVAE = {"spatial_dims": 3, "in_channels": 1, "out_channels": 1, "num_channels": [8, 8], "num_res_channels": [8, 8]}
VQVAE |= {"num_res_layers": 1, "num_embeddings": 16, "embedding_dim": 4}
VQVAE |= {"downsample_parameters": [[2, 4, 1, 1]] * 2, "upsample_parameters": [[2, 4, 1, 1, 0]] * 2}
MAISI_AUTOENCODER = {**AUTOENCODER, "in_channels": 1, "out_channels": 1, "num_res_blocks": [1, 1]}
MAISI_AUTOENCODER |= {"norm_float16": True, "num_splits": 2, "dim_split": 1}
MAISI_UNET = {**UNET, "include_spacing_input": True, "num_class_embeds": 5, "resblock_updown": True}


@pytest.fixture(scope="module", autouse=True)
def generative():
    pytest.importorskip("generative", reason="monai-generative is of the extra [generative]")


def write_original(folder: Path, target: str, settings: dict, std: float = 0.1) -> dict[str, str]:
    """A checkpoint of a network with random weights, and its config: arguments of `convert`."""
    module, _, name = target.rpartition(".")
    torch.manual_seed(0)
    built = {**settings, "use_flash_attention": False} if "use_flash_attention" in settings else settings
    network = getattr(importlib.import_module(module), name)(**built)
    for parameter in network.parameters():  # some begin as zeros, which hide a mistake
        torch.nn.init.normal_(parameter, std=std)
    torch.save(network.state_dict(), folder / "theirs.pt")
    (folder / "theirs.json").write_text(json.dumps({"_target_": target, **settings}))
    return {"checkpoint": str(folder / "theirs.pt"), "config": str(folder / "theirs.json")}


ORIGINALS = {
    "unet": (f"{GENERATIVE}.DiffusionModelUNet", UNET, {}),
    "unet, flash attention": (f"{GENERATIVE}.DiffusionModelUNet", UNET | {"use_flash_attention": True}, {}),
    "unet, attention everywhere": (
        f"{GENERATIVE}.DiffusionModelUNet",
        UNET | {"attention_levels": [True, True], "num_head_channels": [4, 16], "num_res_blocks": [1, 2]},
        {},
    ),
    "unet, residual halvings": (f"{GENERATIVE}.DiffusionModelUNet", UNET | {"resblock_updown": True}, {}),
    "unet, context": (f"{GENERATIVE}.DiffusionModelUNet", UNET | CROSS | {"upcast_attention": True}, {}),
    "unet, classes": (f"{GENERATIVE}.DiffusionModelUNet", UNET | {"num_class_embeds": 3}, {"class_label": 2}),
    "unet, in a plane": (f"{GENERATIVE}.DiffusionModelUNet", UNET | {"spatial_dims": 2}, {}),
    "controlnet": (f"{GENERATIVE}.ControlNet", CONTROLNET, {}),
    "controlnet, context": (f"{GENERATIVE}.ControlNet", CONTROLNET | CROSS, {}),
    "autoencoder": (f"{GENERATIVE}.AutoencoderKL", AUTOENCODER | {"use_checkpointing": True}, {}),
    "vqvae": (f"{GENERATIVE}.VQVAE", VQVAE, {}),
    "maisi autoencoder": (f"{MAISI}.autoencoderkl_maisi.AutoencoderKlMaisi", MAISI_AUTOENCODER, {}),
    "maisi unet": (
        f"{MAISI}.diffusion_model_unet_maisi.DiffusionModelUNetMaisi",
        MAISI_UNET,
        {"class_label": 1, "spacing": (1.5, 1.5, 2.0)},
    ),
    "maisi unet, one projection": (
        f"{MAISI}.diffusion_model_unet_maisi.DiffusionModelUNetMaisi",
        UNET | {"use_combined_linear": True, "include_fc": True},
        {},
    ),
    "maisi controlnet": (
        f"{MAISI}.controlnet_maisi.ControlNetMaisi",
        CONTROLNET | {"num_class_embeds": 5, "resblock_updown": True},
        {"class_label": 1},
    ),
    "monai": ("monai.networks.nets.VQVAE", {**VQVAE, "channels": [8, 8]}, {}),
}


@pytest.mark.parametrize("name", ORIGINALS)
def test_a_network_gives_the_outputs_of_its_original(name, tmp_path, capsys):
    target, settings, given = ORIGINALS[name]
    if name == "monai":
        settings = {key: value for key, value in settings.items() if key != "num_channels"}
    convert(**write_original(tmp_path, target, settings), output_dir=str(tmp_path / "ours"), **given)
    said = capsys.readouterr().out.splitlines()[0]
    assert float(said.split("original's by ")[1].split()[0]) < 2e-6, said
    kind = KINDS[conversion.kind_name({"_target_": target})]
    path = tmp_path / "ours" / kind.file
    content = load_checkpoint(path, "convert")
    network = kind.architecture(**content["network"])
    initialise_from(network, str(path))
    assert all(torch.equal(content[kind.weights][name], value) for name, value in network.state_dict().items())


def test_the_section_that_is_printed_makes_the_bundle_s_network_fit(tmp_path, capsys):
    target, settings, given = ORIGINALS["maisi unet"]
    convert(**write_original(tmp_path, target, settings), output_dir=str(tmp_path / "ours"), **given)
    section = yaml.safe_load(capsys.readouterr().out.split("\n", 1)[1])
    parser = ConfigParser()
    parser.read_config(str(bundle_path("image_ldm") / "configs/train.yaml"))
    assert not undefined("image_ldm", section, "image_ldm", ["configs/train.yaml"]), "a profile takes them"
    parser.update(section)
    network = parser.get_parsed_content("network_def")
    initialise_from(network, parser["init_path"])
    assert network.num_head_channels[1] == 8


def test_weights_of_a_class_that_upsamples_otherwise_are_refused(tmp_path):
    target, settings, _ = ORIGINALS["maisi autoencoder"]
    convert(**write_original(tmp_path, target, settings), output_dir=str(tmp_path / "ours"))
    path = str(tmp_path / "ours/codec.pt")
    with pytest.raises(UserError, match="is of a TrilinearAutoencoder, and this network is a AutoencoderKL"):
        initialise_from(KINDS["AutoencoderKL"].architecture(**load_checkpoint(path, "convert")["network"]), path)


def test_a_config_of_the_model_zoo_is_read_and_nothing_in_it_is_run(tmp_path, capsys):
    """As in brats_mri_generative_diffusion: two networks, references, and expressions elsewhere."""
    given = write_original(tmp_path, f"{GENERATIVE}.DiffusionModelUNet", UNET)
    unet = {"_target_": f"{GENERATIVE}.DiffusionModelUNet", **UNET}
    unet |= {"spatial_dims": "@spatial_dims", "in_channels": "@latent_channels"}
    other = {"_target_": f"{GENERATIVE}.AutoencoderKL", **AUTOENCODER}
    content = {"imports": ["$open('run', 'w')"], "device": "$open('run', 'w')", "spatial_dims": 3}
    content |= {"latent_channels": 2, "autoencoder_def": other, "network_def": unet}
    Path(given["config"]).write_text(json.dumps(content))
    with pytest.raises(UserError, match="has autoencoder_def, network_def; choose one with --network"):
        convert(**given, output_dir=str(tmp_path / "ours"))
    convert(**given, output_dir=str(tmp_path / "ours"), network="network_def")
    assert not Path("run").exists() and (tmp_path / "ours/model.pt").is_file()


def with_config_of_monai(given: dict[str, str], name: str, settings: dict) -> dict[str, str]:
    """The same weights, and a config that names MONAI's class, as the Model Zoo's BraTS bundles have since 1.1."""
    content = {"_target_": f"monai.networks.nets.{name.lower()}.{name}", **as_monai(settings), "include_fc": False}
    Path(given["config"]).write_text(json.dumps(content))
    return given


@pytest.mark.parametrize(("name", "settings"), [("DiffusionModelUNet", UNET), ("AutoencoderKL", AUTOENCODER)])
def test_weights_of_monai_generative_fit_a_config_of_monai(name, settings, tmp_path, capsys):
    given = with_config_of_monai(write_original(tmp_path, f"{GENERATIVE}.{name}", settings), name, settings)
    convert(**given, output_dir=str(tmp_path / "ours"))
    assert "outputs differ from the original's by" in capsys.readouterr().out
    source = load_checkpoint(tmp_path / "ours" / KINDS[name].file, "convert")["converted"]
    assert source["class"].startswith("generative.")


def test_where_monai_generative_is_missing_the_remedy_is_told(tmp_path, monkeypatch):
    given = with_config_of_monai(
        write_original(tmp_path, f"{GENERATIVE}.AutoencoderKL", AUTOENCODER), "AutoencoderKL", AUTOENCODER
    )
    monkeypatch.setattr(conversion, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"is not the network of .*pip install 'lldm3d\[generative\]'"):
        convert(**given, output_dir=str(tmp_path / "ours"))


@pytest.mark.parametrize(
    ("target", "settings", "options", "fault"),
    [
        ("DiffusionModelUNet", {"num_channels": [8, 8]}, {}, r"is not the network of .*: .* is \[16.* there and \[8"),
        ("DiffusionModelUNet", {"resblock_updown": True}, {}, "is not the network of"),
        ("DiffusionModelUNet", {"num_channels": [8, 12]}, {}, "cannot be built with these settings"),
        ("DiffusionModelUNet", {"num_channels": "$[8, 16]"}, {}, r"'\$\[8, 16\]' is an expression, which is not run"),
        ("ControlNet", {}, {}, "cannot be built with these settings|is not the network of"),
        ("UNet", {}, {}, "has none of AutoencoderKL, .*DiffusionModelUNet, ControlNet, VQVAE"),
        ("DiffusionModelUNet", {}, {"network": "net"}, "--network net: .* has "),
        ("DiffusionModelUNet", {}, {"key": "ema"}, "--key ema: .* holds "),
        ("DiffusionModelUNet", {}, {"spacing": (1.0, 1.0, 1.0)}, "--spacing: the network takes none"),
        ("DiffusionModelUNet", {"num_class_embeds": 3}, {}, "class_embedding.weight is absent there"),
    ],
)  # fmt: skip
def test_another_architecture_is_refused_and_nothing_is_written(target, settings, options, fault, tmp_path):
    given = write_original(tmp_path, f"{GENERATIVE}.DiffusionModelUNet", UNET)
    Path(given["config"]).write_text(json.dumps({"_target_": f"{GENERATIVE}.{target}", **UNET, **settings}))
    with pytest.raises(UserError, match=fault):
        convert(**given, output_dir=str(tmp_path / "ours"), **options)
    assert not (tmp_path / "ours").exists()


def test_the_command_refuses_another_architecture_in_one_line(tmp_path, monkeypatch, capsys):
    given = write_original(tmp_path, f"{GENERATIVE}.AutoencoderKL", AUTOENCODER)
    Path(given["config"]).write_text(
        json.dumps({"_target_": "monai.networks.nets.DiffusionModelUNet", **as_monai(UNET)})
    )
    options = ["--checkpoint", given["checkpoint"], "--config", given["config"], "--output_dir", tmp_path / "ours"]
    monkeypatch.setattr("sys.argv", ["lldm3d", "convert", *map(str, options)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    [line] = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and line.startswith("lldm3d: error: ") and "is not the network of" in line
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[1]", "holds a list, but a mapping"),
        (json.dumps({"_target_": "DiffusionModelUNet", **UNET, "norm_num_groups": 0}), "cannot be built with these"),
    ],
)
def test_a_config_that_makes_no_network_is_told(text, fault, tmp_path):
    (tmp_path / "config.json").write_text(text)
    torch.save({"weight": torch.zeros(1)}, tmp_path / "model.pt")
    with pytest.raises(UserError, match=fault):
        convert(str(tmp_path / "model.pt"), str(tmp_path / "config.json"), str(tmp_path / "ours"))


def test_transposed_convolutions_of_another_size_are_refused(tmp_path):
    given = write_original(tmp_path, f"{GENERATIVE}.AutoencoderKL", AUTOENCODER | {"use_convtranspose": True})
    with pytest.raises(UserError, match="use_convtranspose: .* kernels of 3 voxels"):
        convert(**given, output_dir=str(tmp_path / "ours"))
    assert not (tmp_path / "ours").exists()


def test_outputs_that_differ_are_refused_with_the_difference(tmp_path, monkeypatch):
    given = write_original(tmp_path, f"{GENERATIVE}.DiffusionModelUNet", UNET)

    def wrong(*arguments) -> dict:
        found = renamed(*arguments)
        found["conv_in.conv.bias"] = found["conv_in.conv.bias"] + 0.01
        return found

    renamed = conversion.renamed
    monkeypatch.setattr(conversion, "renamed", wrong)
    with pytest.raises(UserError, match=r"outputs of the converted network differ by 0\.\d+, nothing is written"):
        convert(**given, output_dir=str(tmp_path / "ours"))
    assert not (tmp_path / "ours").exists()


def test_a_file_that_holds_code_is_not_loaded(tmp_path):
    given = write_original(tmp_path, f"{GENERATIVE}.VQVAE", VQVAE)
    torch.save({"model": Path("x"), "call": print}, given["checkpoint"])
    with pytest.raises(UserError, match="is no file of plain tensors"):
        convert(**given, output_dir=str(tmp_path / "ours"))
    with pytest.raises(UserError, match="none.pt: there is no such file"):
        convert(str(tmp_path / "none.pt"), given["config"], str(tmp_path / "ours"))


SLICES = {"spatial_dims": 2, "in_channels": 1, "out_channels": 1}
VOLUMES = SLICES | {"spatial_dims": 3}
CODEC = {"num_channels": [64, 128, 256], "num_res_blocks": 2, "attention_levels": [False] * 3, "norm_eps": 1e-6}
NO_ATTENTION = {"with_encoder_nonlocal_attn": False, "with_decoder_nonlocal_attn": False}
MAISI_LEVELS = {"spatial_dims": 3, "in_channels": 4, "num_channels": [64, 128, 256, 512], "num_res_blocks": 2}
MAISI_LEVELS |= {"attention_levels": [False, False, True, True], "num_head_channels": [0, 0, 32, 32]}
MAISI_LEVELS |= {"use_flash_attention": True, "num_class_embeds": 128, "resblock_updown": True, "include_fc": True}
ZOO = {  # as in the bundles' configs/inference.json: class of the weights, settings, options
    "brats_mri_generative_diffusion 1.1.2, autoencoder_def": (
        "AutoencoderKL",
        VOLUMES | CODEC | NO_ATTENTION | {"latent_channels": 8, "norm_num_groups": 32},
        {},
    ),
    "brats_mri_generative_diffusion 1.1.2, network_def": (
        "DiffusionModelUNet",
        {"spatial_dims": 3, "in_channels": 8, "out_channels": 8, "num_channels": [256, 256, 512], "num_res_blocks": 2}
        | {"attention_levels": [False, True, True], "num_head_channels": [0, 64, 64]},
        {},
    ),
    "brats_mri_axial_slices_generative_diffusion 1.1.2, autoencoder_def": (
        "AutoencoderKL",
        SLICES | CODEC | {"latent_channels": 1, "norm_num_groups": 32},
        {},
    ),
    "brats_mri_axial_slices_generative_diffusion 1.1.2, network_def": (
        "DiffusionModelUNet",
        SLICES
        | {"num_channels": [32, 64, 128, 256], "attention_levels": [False, True, True, True], "num_res_blocks": 2}
        | {"num_head_channels": [0, 32, 32, 32]},
        {},
    ),
    "maisi_ct_generative, autoencoder_def": (
        f"{MAISI}.autoencoderkl_maisi.AutoencoderKlMaisi",
        VOLUMES
        | CODEC
        | NO_ATTENTION
        | {"latent_channels": 4, "num_res_blocks": [2] * 3, "norm_float16": True, "num_splits": 2, "dim_split": 1},
        {},
    ),
    "maisi_ct_generative, diffusion_unet_def": (
        f"{MAISI}.diffusion_model_unet_maisi.DiffusionModelUNetMaisi",
        MAISI_LEVELS | {"out_channels": 4, "include_spacing_input": True},
        {"class_label": 1, "spacing": (1.5, 1.5, 1.5), "key": "unet_state_dict"},
    ),
    "maisi_ct_generative, controlnet_def": (
        f"{MAISI}.controlnet_maisi.ControlNetMaisi",
        MAISI_LEVELS | {"conditioning_embedding_in_channels": 8, "conditioning_embedding_num_channels": [8, 32, 64]},
        {"class_label": 1, "key": "controlnet_state_dict"},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_a_network_of_the_model_zoo_at_its_full_size(name, tmp_path, capsys):
    target, settings, options = ZOO[name]
    given = write_original(tmp_path, target if "." in target else f"{GENERATIVE}.{target}", settings, std=0.03)
    if "." not in target:
        with_config_of_monai(given, target, settings)
    if key := options.get("key"):  # as MAISI's trainings save them
        weights = torch.load(given["checkpoint"], weights_only=True)
        torch.save({"epoch": 1, "scale_factor": torch.tensor(1.0), key: weights}, given["checkpoint"])
    convert(**given, output_dir=str(tmp_path / "ours"), **options)
    said = capsys.readouterr().out
    kind = KINDS[conversion.kind_name(json.loads(Path(given["config"]).read_text()))]
    content = load_checkpoint(tmp_path / "ours" / kind.file, "convert")
    initialise_from(kind.architecture(**content["network"]), str(tmp_path / "ours" / kind.file))
    difference = float(said.split("original's by ")[1].split()[0])
    print(f"{name}: {sum(x.numel() for x in content[kind.weights].values()) / 1e6:.1f} M weights, {difference}")
    assert difference <= conversion.TOLERANCE


WRONG = {  # what docs/reference/training.md says of MONAI 1.6.1's load_old_state_dict; None: it raises
    "self-attention": ("DiffusionModelUNet", UNET, {}, False),
    "no level with attention": ("DiffusionModelUNet", UNET | {"attention_levels": [False, False]}, {}, False),
    "include_fc: false": ("DiffusionModelUNet", UNET, {"include_fc": False}, True),
    "context": ("DiffusionModelUNet", UNET | CROSS, {}, True),
    "context, include_fc: false": ("DiffusionModelUNet", UNET | CROSS, {"include_fc": False}, False),
    "use_combined_linear": ("DiffusionModelUNet", UNET, {"include_fc": False, "use_combined_linear": True}, False),
    "autoencoder": ("AutoencoderKL", AUTOENCODER, {}, False),
    "autoencoder, include_fc: false": ("AutoencoderKL", AUTOENCODER, {"include_fc": False}, True),
    "use_convtranspose": ("AutoencoderKL", AUTOENCODER | {"use_convtranspose": True}, {"include_fc": False}, False),
    "controlnet": ("ControlNet", CONTROLNET, {}, None),
    "controlnet, include_fc: false": ("ControlNet", CONTROLNET, {"include_fc": False}, False),
    "controlnet, context": ("ControlNet", CONTROLNET | CROSS, {}, True),
}


@pytest.mark.parametrize("name", WRONG)
def test_where_monai_s_own_loader_gives_other_outputs(name, tmp_path):
    architecture, settings, further, right = WRONG[name]
    given = write_original(tmp_path, f"{GENERATIVE}.{architecture}", settings)
    settings_of_monai = {"_target_": f"monai.{architecture}", **as_monai(settings), **further}
    _, original, ours = conversion.build_original("", settings_of_monai)
    theirs = getattr(importlib.import_module(GENERATIVE), architecture)(**settings)
    weights = torch.load(given["checkpoint"], weights_only=True)
    theirs.load_state_dict(weights)
    with contextlib.redirect_stdout(io.StringIO()):
        if right is None:
            with pytest.raises(KeyError):
                original.load_old_state_dict(weights)
            return
        original.load_old_state_dict(weights)
    difference = conversion.largest_difference(KINDS[architecture], ours, theirs, original, {})
    assert (difference < 1e-9) == right, difference


def as_monai(settings: dict) -> dict:
    return {"channels" if key == "num_channels" else key: value for key, value in settings.items()}
