"""Volumes mapped from shared files: the same as MONAI's, noticed when they change, safe between processes."""

import importlib
import multiprocessing
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import CacheDataset
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, RandSpatialCropd, ScaleIntensityd

from lldm3d.data.cache import MappedDataset
from lldm3d.errors import UserError

KEYS = ["image", "label"]
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def cases(tmp_path) -> list[dict]:
    return [write(tmp_path, number) for number in range(3)]


def write(folder: Path, number: int, seed: int = 0) -> dict:
    """An image of noise and a label."""
    rng = np.random.default_rng([seed, number])
    case = {key: str(folder / f"{key}_{number}.nii.gz") for key in KEYS} | {"patient": f"p{number}"}
    nib.save(nib.Nifti1Image(rng.random((8, 9, 10), np.float32), np.eye(4)), case["image"])
    nib.save(nib.Nifti1Image(rng.integers(0, 3, (8, 9, 10), np.uint8), np.eye(4)), case["label"])
    return case


def transforms(maxv: float = 1.0, size: int = 4) -> Compose:
    return Compose(
        [
            LoadImaged(KEYS),
            EnsureChannelFirstd(KEYS, channel_dim="no_channel"),
            ScaleIntensityd("image", maxv=maxv),
            RandSpatialCropd(KEYS, [size] * 3, random_size=False),
        ]
    )


def files(cache: Path) -> dict[Path, int]:
    """The files of the cache and when they were written."""
    return {path: path.stat().st_mtime_ns for path in cache.rglob("*.pt")}


def same(a: list[dict], b: list[dict]) -> bool:
    pairs = [(x[key], y[key]) for x, y in zip(a, b, strict=True) for key in KEYS]
    return all(torch.equal(torch.as_tensor(x), torch.as_tensor(y)) for x, y in pairs)


def drawn(dataset) -> list[dict]:
    dataset.transform.set_random_state(3)
    return [dataset[index] for index in (0, 1, 2, 1)]


def test_the_crops_are_those_of_cache_dataset(cases, tmp_path):
    ours = MappedDataset(cases, transforms(), tmp_path / "cache")
    theirs = CacheDataset(cases, transforms(), progress=False)
    again = MappedDataset(cases, transforms(), tmp_path / "cache")
    assert same(drawn(ours), drawn(theirs)) and same(drawn(again), drawn(theirs))
    assert [(item["patient"], item["index"]) for item in drawn(ours)] == [("p0", 0), ("p1", 1), ("p2", 2), ("p1", 1)]


def test_a_second_data_set_writes_nothing(cases, tmp_path):
    MappedDataset(cases, transforms(), tmp_path / "cache")
    before = files(tmp_path / "cache")
    MappedDataset(cases, transforms(size=3), tmp_path / "cache")  # what is drawn is not cached
    assert len(before) == 3 and files(tmp_path / "cache") == before


def test_only_a_file_that_changed_is_read_again(cases, tmp_path):
    MappedDataset(cases, transforms(), tmp_path / "cache")
    before = files(tmp_path / "cache")
    write(tmp_path, 1, seed=1)
    changed = MappedDataset(cases, transforms(), tmp_path / "cache")
    assert same(drawn(changed), drawn(CacheDataset(cases, transforms(), progress=False)))
    after = files(tmp_path / "cache")
    assert len(after) == 3 and len(before.items() & after.items()) == 2  # the old file is gone


def test_transforms_that_change_are_done_again(cases, tmp_path):
    MappedDataset(cases, transforms(), tmp_path / "cache")
    doubled = MappedDataset(cases, transforms(maxv=2.0), tmp_path / "cache")
    assert same(drawn(doubled), drawn(CacheDataset(cases, transforms(maxv=2.0), progress=False)))


def test_a_reader_whose_code_changes_reads_again(cases, tmp_path, monkeypatch):
    code = tmp_path / "reader_of_a_user.py"
    code.write_text("from monai.data import NibabelReader\n\nclass Reader(NibabelReader):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    transform = Compose([LoadImaged(KEYS, reader=importlib.import_module("reader_of_a_user").Reader)])
    MappedDataset(cases, transform, tmp_path / "cache")
    before = files(tmp_path / "cache")
    code.write_text(code.read_text() + "# changed\n")
    MappedDataset(cases, transform, tmp_path / "cache")
    assert len(before) == 3 and len(files(tmp_path / "cache")) == 6


def test_a_file_that_was_cut_off_is_made_again(cases, tmp_path):
    MappedDataset(cases, transforms(), tmp_path / "cache")
    victim = next(iter(files(tmp_path / "cache")))
    victim.write_bytes(victim.read_bytes()[:-100])
    mended = MappedDataset(cases, transforms(), tmp_path / "cache")
    assert same(drawn(mended), drawn(CacheDataset(cases, transforms(), progress=False)))


def test_two_processes_at_once_see_the_same(cases, tmp_path):
    """Each sends what it drew; neither leaves half a file."""
    queue = FORK.Queue()

    def draw() -> None:
        found = drawn(MappedDataset(cases, transforms(), tmp_path / "cache"))
        queue.put([{key: item[key].numpy() for key in KEYS} for item in found])

    processes = [FORK.Process(target=draw) for _ in range(2)]
    for process in processes:
        process.start()
    a, b = queue.get(timeout=60), queue.get(timeout=60)
    for process in processes:
        process.join()
    assert same(a, b) and same(a, drawn(CacheDataset(cases, transforms(), progress=False)))
    assert len([path for path in (tmp_path / "cache").rglob("*") if path.is_file()]) == 3


def test_what_is_drawn_later_does_not_depend_on_the_files(cases, tmp_path):
    """A training begins with the same weights whether or not the volumes had to be read."""
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)
        MappedDataset(cases, transforms(), tmp_path / "cache")
        found.append((torch.rand(1).item(), np.random.rand()))
    assert found[0] == found[1]


def test_writing_into_an_item_does_not_reach_the_file(cases, tmp_path):
    MappedDataset(cases, transforms(), tmp_path / "cache")[0]["image"].zero_()
    again = MappedDataset(cases, transforms(), tmp_path / "cache")
    assert all(item["image"].max() > 0 for item in drawn(again))


def test_a_folder_that_cannot_be_written_is_named(cases, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file/cache.*cannot be written.*cache_dir"):
        MappedDataset(cases, transforms(), tmp_path / "file" / "cache")
