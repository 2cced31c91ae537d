import numpy as np
import pytest
import torch

from lldm3d.errors import UserError
from lldm3d.files import load_checkpoint, load_nifti, read_json, save_checkpoint, save_nifti, sha256, whole, write_json


def test_a_file_that_fails_midway_leaves_the_old_one(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), whole(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and [item.name for item in tmp_path.iterdir()] == ["file.txt"]


def test_the_hash_of_a_checkpoint_depends_on_its_content_alone(tmp_path):
    content = {"model": {"weight": torch.ones(3)}, "names": ["liver"]}
    for name in ("first.pt", "second.pt"):
        save_checkpoint(tmp_path / name, content)
    assert sha256(tmp_path / "first.pt") == sha256(tmp_path / "second.pt")
    assert load_checkpoint(tmp_path / "first.pt", "test")["names"] == ["liver"]


def test_errors_name_the_file_and_the_stage(tmp_path):
    with pytest.raises(UserError, match=r"codec\.pt.*'autoencoder_image'"):
        load_checkpoint(tmp_path / "codec.pt", "autoencoder_image")
    (tmp_path / "broken.pt").write_text("no checkpoint")
    with pytest.raises(UserError, match=r"broken\.pt.*not a readable checkpoint"):
        load_checkpoint(tmp_path / "broken.pt", "label_ldm")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(UserError, match=r"broken\.json.*not valid JSON"):
        read_json(tmp_path / "broken.json")
    with pytest.raises(UserError, match=r"none\.nii"):
        load_nifti(tmp_path / "none.nii")


def test_nan_is_no_json(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "metrics.json", {"fid": float("nan")})
    assert not (tmp_path / "metrics.json").exists()


def test_a_volume_keeps_type_and_affine(tmp_path):
    volume, affine = np.arange(24, dtype=np.uint8).reshape(2, 3, 4), np.diag([1, 2, 3, 1.0])
    save_nifti(tmp_path / "label.nii.gz", volume, affine)
    array, found = load_nifti(tmp_path / "label.nii.gz")
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(array, volume)
    np.testing.assert_allclose(found, affine)
