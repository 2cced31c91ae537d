import gzip
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import LoadImage

from lldm3d.errors import UserError
from lldm3d.files import (
    MARKER,
    atomic_write,
    load_checkpoint,
    load_nifti,
    output_folder,
    passing_folder,
    read_json,
    save_checkpoint,
    save_nifti,
    sha256,
    write_json,
)


def test_a_file_that_fails_midway_leaves_the_old_one(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path) as temporary:
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


@pytest.mark.parametrize("kind", ["noise", "label"])
def test_a_written_volume_is_what_other_tools_read(tmp_path, kind):
    rng, affine = np.random.default_rng(0), np.diag([1.5, 1.5, 3, 1])
    volume = rng.random((40, 50, 60), np.float32) if kind == "noise" else np.zeros((40, 50, 60), np.uint8)
    volume[10:20, 10:30, 5:9] = 1
    save_nifti(tmp_path / "ours.nii.gz", volume, affine)
    image = nib.Nifti1Image(volume, affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, tmp_path / "theirs.nii.gz")
    ours, theirs = (gzip.decompress((tmp_path / name).read_bytes()) for name in ("ours.nii.gz", "theirs.nii.gz"))
    assert ours == theirs
    assert np.array_equal(LoadImage(image_only=True)(tmp_path / "ours.nii.gz"), volume)
    assert (tmp_path / "ours.nii.gz").stat().st_size < 1.25 * (tmp_path / "theirs.nii.gz").stat().st_size


@pytest.mark.parametrize("image", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("members", [1, 3])
def test_every_gzip_of_a_nifti_is_read_whole(tmp_path, image, members):
    """Blockwise compression writes several gzips in a row, of which libdeflate would unpack the first alone."""
    volume, path = np.random.default_rng(0).integers(0, 99, (6, 7, 8)).astype(np.int16), tmp_path / "scan.nii.gz"
    content = image(volume, np.eye(4)).to_bytes()
    step = -(-len(content) // members)
    path.write_bytes(b"".join(gzip.compress(content[at : at + step]) for at in range(0, len(content), step)))
    assert np.array_equal(load_nifti(path)[0], volume)


def test_a_file_that_was_cut_off_is_told(tmp_path):
    path = tmp_path / "scan.nii.gz"
    for volume in (np.random.default_rng(0).random((20, 20, 20)), np.zeros((90, 90, 90), np.uint8)):
        save_nifti(path, volume, np.eye(4))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(UserError, match="scan.nii.gz: cannot be read as NIfTI"):
            load_nifti(path)


def test_a_volume_keeps_type_and_affine(tmp_path):
    volume, affine = np.arange(24, dtype=np.uint8).reshape(2, 3, 4), np.diag([1, 2, 3, 1.0])
    save_nifti(tmp_path / "label.nii.gz", volume, affine)
    array, found = load_nifti(tmp_path / "label.nii.gz")
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(array, volume)
    np.testing.assert_allclose(found, affine)


@pytest.mark.parametrize("damage", ["voxels", "end"])
def test_a_gzip_whose_checksum_is_wrong_is_refused(tmp_path, damage):
    path = tmp_path / "scan.nii.gz"
    content = bytearray(gzip.compress(nib.Nifti1Image(np.ones((20, 20, 20)), np.eye(4)).to_bytes(), 0))
    path.write_bytes(content[:-8] if damage == "end" else content[:9000] + bytes(300) + content[9300:])
    with pytest.raises(UserError, match="scan.nii.gz: cannot be read as NIfTI"):
        load_nifti(path)


def test_files_written_by_threads_heed_the_umask(tmp_path):
    before = os.umask(0o077)
    try:
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda number: write_json(tmp_path / f"{number}.json", {}), range(200)))
    finally:
        left = os.umask(before)
    assert left == 0o077 and not any(path.stat().st_mode & 0o077 for path in tmp_path.iterdir())


def test_an_output_folder_replaces_what_it_wrote_and_nothing_else(tmp_path):
    out, source = tmp_path / "out", tmp_path / "out/source"
    for name in ("first", "second"):
        with output_folder(out, overwrite=True) as folder:
            (folder / "deep").mkdir()
            (folder / f"deep/{name}.txt").write_text(name)
    assert [path.name for path in (out / "deep").iterdir()] == ["second.txt"]
    with pytest.raises(UserError, match="give --overwrite"), output_folder(out, overwrite=False):
        pass
    with pytest.raises(UserError, match="would replace the input"), output_folder(out, True, [source / "scan.nii.gz"]):
        pass
    marker = (out / MARKER).read_text()
    for strange in ("[]", '{"files": null}', '{"files": [["deep"]]}'):
        (out / MARKER).write_text(strange)
        with (
            pytest.raises(UserError, match="holds deep/second.txt, which this command did not"),
            output_folder(out, True),
        ):
            pass
    (out / MARKER).write_text(marker)
    (out / ".git").mkdir()
    (out / ".git/HEAD").write_text("mine")
    with pytest.raises(UserError, match="holds .git/HEAD, which this command did not write"), output_folder(out, True):
        pass
    assert (out / ".git/HEAD").read_text() == "mine" and sorted(os.listdir(tmp_path)) == ["out"]


KILLED = """
import os, sys, time
from pathlib import Path
from lldm3d.children import raise_on_sigterm
from lldm3d.files import passing_folder
raise_on_sigterm()
with passing_folder(Path(sys.argv[1])) as folder:
    (folder / "half.txt").touch()
    print(flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_folder_on_the_way_goes_with_its_process_or_with_the_next_one(tmp_path, number):
    heed = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    killed, alive = (subprocess.Popen(command, stdout=subprocess.PIPE, **heed) for _ in range(2))
    (tmp_path / ".partial-of-another-program").mkdir()
    try:
        assert killed.stdout.readline() and alive.stdout.readline() and len(list(tmp_path.rglob("half.txt"))) == 2
        killed.send_signal(number)
        killed.wait(timeout=10)
        assert len(list(tmp_path.rglob("half.txt"))) == (2 if number == signal.SIGKILL else 1)
        with passing_folder(tmp_path):
            assert len(list(tmp_path.rglob("half.txt"))) == 1 and len(list(tmp_path.iterdir())) == 3
    finally:
        alive.terminate()
        alive.wait(timeout=10)
    assert [path.name for path in tmp_path.iterdir()] == [".partial-of-another-program"]


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.nii.gz")
    with pytest.raises(UserError, match="a.nii.gz: cannot be read as NIfTI .it is a folder, a pipe or a device"):
        load_nifti(tmp_path / "a.nii.gz")
