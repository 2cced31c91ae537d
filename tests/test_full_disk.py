"""A full disk, a quota, a place that is not the user's: one line that names the file, and nothing half-written."""

import resource
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from monai.transforms import Compose, ToTensord
from tests.data.raw import write_decathlon
from tests.in_process import do_stages, write_run

from lldm3d import cli, plots
from lldm3d.children import run_logged
from lldm3d.data.cache import MappedDataset
from lldm3d.data.prepare import prepare
from lldm3d.errors import ChildError, UserError
from lldm3d.files import atomic_write, files_in, save_checkpoint, save_nifti, write_json

ROOM = 2000  # bytes


@contextmanager
def little_room():
    """No file of this process and its children takes more than `ROOM`, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


NOISE = np.random.default_rng(0).random((16, 16, 16)).astype(np.float32)
WRITERS = {
    "scan.nii.gz": lambda path: save_nifti(path, NOISE, np.eye(4)),
    "scan.nii": lambda path: save_nifti(path, NOISE, np.eye(4)),
    "model.pt": lambda path: save_checkpoint(path, {"weight": torch.as_tensor(NOISE)}),
    "metrics.json": lambda path: write_json(path, NOISE.ravel().tolist()),
    "figure.png": lambda path: plots.save(Figure(), path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_what_finds_no_room_is_named_and_leaves_the_old_file(tmp_path, name):
    (tmp_path / name).write_text("old")
    with little_room(), pytest.raises(UserError, match=f"{tmp_path}/{name}: cannot be written .*make room"):
        WRITERS[name](tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == "old"


def test_a_place_that_takes_no_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match="file/folder/a.txt: cannot be written"),
        atomic_write(tmp_path / "file/folder/a.txt"),
    ):
        pass


@pytest.mark.parametrize("command", ["prepare --data {raw}", "phantom --num_cases 8 --size 16,16,16 --spacing 9,9,9"])
@pytest.mark.parametrize("place", ["file/out", "out"])
def test_a_command_ends_with_status_2_and_without_a_folder(tmp_path, monkeypatch, capsys, command, place):
    raw = write_decathlon(tmp_path / "raw", 3)
    (tmp_path / "file").write_text("")
    words = [*command.format(raw=raw).split(), "--output_dir", str(tmp_path / place)]
    monkeypatch.setattr(sys, "argv", ["lldm3d", *words])
    with little_room(), pytest.raises(SystemExit) as end:
        cli.main()
    said = capsys.readouterr().err
    assert end.value.code == 2 and "cannot be written" in said and str(tmp_path) in said and "Traceback" not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "raw"]


def test_a_data_set_that_cannot_be_replaced_stays(tmp_path):
    raw = write_decathlon(tmp_path / "raw", 3)
    prepare(tmp_path / "out", data=raw)
    before = {name: (tmp_path / "out" / name).read_bytes() for name in files_in(tmp_path / "out")}
    with little_room(), pytest.raises(UserError, match="cannot be written"):
        prepare(tmp_path / "out", data=raw, seed=1, overwrite=True)
    assert before == {name: (tmp_path / "out" / name).read_bytes() for name in files_in(tmp_path / "out")}


def test_a_cache_without_room_is_named(tmp_path):
    with little_room(), pytest.raises(UserError, match="cache/.*: cannot be written"):
        MappedDataset([{"image": NOISE}], Compose([ToTensord("image")]), tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.pt"))


def test_a_training_without_room_goes_on_once_there_is_some(tmp_path, tiny_dataset):
    shutil.copytree(tiny_dataset, tmp_path / "dataset")
    write_run(tmp_path, ["lldm"])
    training = "methods/lldm/seed_0/autoencoder_image"
    with little_room(), pytest.raises((UserError, ChildError), match="cannot be written"):
        do_stages(tmp_path, training)
    assert not list(Path(tmp_path / training).glob("*.pt")) and not list(tmp_path.rglob(".partial-*"))
    do_stages(tmp_path, training)
    assert (tmp_path / training / "codec.pt").is_file() and (tmp_path / f".done/{training}.json").is_file()


def test_a_log_without_room_is_named(tmp_path):
    with little_room(), pytest.raises(UserError, match=f"{tmp_path}/log.txt: cannot be written"):
        run_logged([sys.executable, "-c", "print('x' * 5000)"], tmp_path, tmp_path / "log.txt", {})
