"""What all tests share: one thread each, the state of the libraries, tiny data, what is made once for all workers."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# networks of these tests are so small that threads cost more than they bring, and the workers share the cores
os.environ.setdefault("OMP_NUM_THREADS", "1")

import nibabel as nib
import numpy as np
import pytest
import torch
from filelock import FileLock

ROOT = Path(__file__).parents[1]
SIZE = 16  # voxels along each axis
SPACING = (1.0, 1.0, 2.0)  # mm
CLASS_NAMES = ("background", "liver", "portal vein")
SPLITS = {"training": 4, "validation": 2, "test": 2}


# what a worker is given last the others wait for, and a file of tests that begins late ends minutes after all else
LONGEST = ("tests/pipeline/test_workflow.py", "tests/methods/test_contract.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests first, the longest of all at the head; the others in their order."""
    rank = {ROOT / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(LONGEST)))


@contextmanager
def restored() -> Iterator[None]:
    """Leave torch as it was: MONAI's `set_determinism`, which every training calls, is for good."""
    deterministic, state = torch.are_deterministic_algorithms_enabled(), torch.get_rng_state()
    threads, default = torch.get_num_threads(), torch.get_default_dtype()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic)
        torch.set_rng_state(state)
        torch.set_num_threads(threads)
        torch.set_default_dtype(default)


@pytest.fixture(autouse=True)
def libraries_as_they_were():
    with restored():
        yield


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """`made_once(name, make)` is a folder that `make(folder)` fills once, whatever the number of workers."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def call(name: str, make: Callable[[Path], None]) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        with FileLock(shared / f"{name}.lock"):
            if not done.exists():
                assert not folder.exists(), f"another worker failed to make {folder}: see its error"
                folder.mkdir()
                with restored():
                    make(folder)
                done.touch()
        return folder

    return call


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory) -> Path:
    """A prepared data set of 8 cases (do not write into it): an ellipsoid `liver` with a tube `portal vein` in it."""
    folder = tmp_path_factory.mktemp("tiny_dataset")
    write_dataset(folder, SPLITS)
    return folder


@pytest.fixture(scope="session")
def tiny_synthetic(tmp_path_factory) -> Path:
    """Three further pairs in the layout of `lldm3d generate`: all in "training"."""
    folder = tmp_path_factory.mktemp("tiny_synthetic")
    write_dataset(folder, {"training": 3, "validation": 0, "test": 0}, prefix="synthetic", seed=100)
    return folder


@pytest.fixture
def real_data():
    """`real_data(name)` is the folder of a real data set; the test is skipped where it is absent."""

    def find(name: str) -> Path:
        roots = [Path(os.environ["LLDM3D_DATA"])] if "LLDM3D_DATA" in os.environ else []
        for root in [*roots, ROOT.parent / "shared" / "data"]:
            if (root / name).is_dir():
                return root / name
        pytest.skip(f"no real data: neither $LLDM3D_DATA/{name} nor ../shared/data/{name} exists")

    return find


def write_dataset(folder: Path, splits: dict[str, int], prefix: str = "case", seed: int = 0) -> None:
    """Write `splits` cases of each split in the prepared layout."""
    names = iter(f"{prefix}_{number:02d}" for number in range(sum(splits.values())))
    listed = {split: [write_case(folder, next(names), seed + i) for i in range(n)] for split, n in splits.items()}
    content = {
        "name": "tiny",
        "description": "ellipsoids with tubes",
        "modality": {"0": "MRI"},
        "tensorImageSize": "3D",
        "labels": {str(value): name for value, name in enumerate(CLASS_NAMES)},
        "numTraining": splits["training"],
        "numTest": splits["test"],
        **listed,
        "roi_size": [SIZE] * 3,
        "spacing": list(SPACING),
        "intensity": "min_max",
        "tubular": ["portal vein"],
        "lesions": [],
        "inside": {"portal vein": "liver"},
    }
    (folder / "dataset.json").write_text(json.dumps(content))


def write_case(folder: Path, name: str, seed: int) -> dict:
    """Draw one case, write its image and label, and return its entry of dataset.json."""
    rng = np.random.default_rng(sum(map(ord, name)) + seed)
    grid = np.stack(np.meshgrid(*[np.arange(SIZE)] * 3, indexing="ij"), axis=-1)
    centre, radii = SIZE / 2 + rng.uniform(-1, 1, 3), rng.uniform(5, 7, 3)
    liver = (((grid - centre) / radii) ** 2).sum(-1) < 1
    vein = liver & (((grid - centre)[..., :2] ** 2).sum(-1) < 4)
    label = (liver.astype(np.uint8) + vein).astype(np.uint8)
    image = np.array([0.1, 0.5, 0.9])[label] + rng.normal(0, 0.03, label.shape)
    entry = {"patient": name}
    for key, array in (("image", image.clip(0, 1).astype(np.float32)), ("label", label)):
        path = folder / f"{key}sTr" / f"{name}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(array, np.diag([*SPACING, 1.0])), path)
        entry[key] = f"./{key}sTr/{name}.nii.gz"
    return entry
