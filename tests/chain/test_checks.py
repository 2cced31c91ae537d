import json
from pathlib import Path

import pytest
import torch

from lldm3d.data.dataset import Schema
from lldm3d.errors import UserError
from lldm3d.files import save_checkpoint, write_json
from lldm3d.pipeline import checks

SCHEMA = Schema("liver", ("background", "liver", "HCC"), (16, 16, 16), (5.0, 5.0, 6.0))
NAMES = list(SCHEMA.class_names)
THRESHOLDS = {"image_psnr": 20, "label_dice": 0.7}


def write_codecs(work: Path, class_names: list[str]) -> None:
    for kind in checks.KINDS:
        content = {"kind": kind, "class_names": class_names, "latent_mean": torch.zeros(4)}
        save_checkpoint(checks.codec_path(work, kind), content)


def write_metrics(work: Path, psnr: float, dice: float) -> None:
    (work / "autoencoder_image").mkdir()
    (work / "autoencoder_label").mkdir()
    (work / "autoencoder_image" / "metrics.json").write_text(json.dumps({"psnr": psnr}))
    write_json(work / "autoencoder_label" / "metrics.json", {"mean_dice": dice})


def test_a_missing_codec_names_file_and_stage(tmp_path):
    with pytest.raises(UserError, match="autoencoder_image/codec.pt.*stage 'autoencoder_image'"):
        checks.codec(tmp_path, "image", SCHEMA)


def test_a_torn_codec_names_file_and_mend(tmp_path):
    write_codecs(tmp_path, NAMES)
    path = checks.codec_path(tmp_path, "label")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="autoencoder_label/codec.pt.*run the stage 'autoencoder_label' again"):
        checks.codec(tmp_path, "label", SCHEMA)


def test_a_codec_of_other_classes_is_refused_with_both_lists(tmp_path):
    write_codecs(tmp_path, ["background", "spleen"])
    with pytest.raises(UserError, match="codec.pt.*spleen.*HCC.*autoencoder_image"):
        checks.codec(tmp_path, "image", SCHEMA)


def test_latents_and_models_of_other_codecs_are_refused(tmp_path):
    write_codecs(tmp_path, NAMES)
    hashes = checks.codec_hashes(tmp_path)
    write_json(tmp_path / "latents" / "latents.json", {"codecs": hashes})
    save_checkpoint(tmp_path / "label_ldm" / "model.pt", {"class_names": NAMES, "codecs": {**hashes, "label": "0"}})
    checks.latents(tmp_path)
    with pytest.raises(UserError, match="label_ldm/model.pt.*autoencoder_label/codec.pt; .*'label_ldm' again"):
        checks.diffusion(tmp_path, "label_ldm", SCHEMA)


def test_the_gate_lets_good_autoencoders_pass(tmp_path):
    write_metrics(tmp_path, psnr=20.0, dice=0.9)
    checks.gate(tmp_path, THRESHOLDS)


def test_the_gate_names_value_threshold_file_and_mend_of_both(tmp_path):
    write_metrics(tmp_path, psnr=float("nan"), dice=0.65)
    with pytest.raises(UserError) as error:
        checks.gate(tmp_path, THRESHOLDS)
    image, label = str(error.value).splitlines()
    assert "autoencoder_image/metrics.json: psnr is nan" in image and "image_psnr: 20" in image
    assert "autoencoder_label/metrics.json: mean_dice is 0.65" in label and "label_dice: 0.7" in label
    assert "autoencoder_label#epochs" in label
