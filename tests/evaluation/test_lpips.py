"""LPIPS with random weights, beside the formula of Zhang et al. 2018 step by step.

(`lpips` itself would be the counterpart; it needs torchvision, whose wheels do not load beside a CPU build of torch.)
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.evaluation.toys import write_dataset
from torch.nn import functional as f

from lldm3d.errors import UserError
from lldm3d.evaluation import figures
from lldm3d.evaluation.evaluate import evaluate
from lldm3d.evaluation.metrics import Metric, read_metrics
from lldm3d.evaluation.perceptual import alexnet, load_lpips, vgg16
from lldm3d.files import sha256

BUILT = {"AlexNet": alexnet, "VGG16": vgg16}
CHANNELS = {"AlexNet": (64, 192, 384, 256, 256), "VGG16": (64, 128, 256, 512, 512)}
# of each convolution its number, stride and padding; whether a pool (size, stride) is before it, and what is compared
ALEX = [(0, 4, 2, None, True), (3, 1, 2, (3, 2), True), (6, 1, 1, (3, 2), True), (8, 1, 1, None, True)]
ALEX += [(10, 1, 1, None, True)]
LAST = (2, 7, 14, 21, 28)  # convolution of each block of VGG16
VGG = [(n, 1, 1, (2, 2) if n in (5, 10, 17, 24) else None, n in LAST)
       for n in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)]  # fmt: skip
LAYERS = {"AlexNet": ALEX, "VGG16": VGG}


@pytest.fixture(scope="module", params=BUILT)
def files(request, tmp_path_factory) -> tuple[str, Path, Path]:
    """Name of a trunk, and its weights and heads in the published forms."""
    folder, name = tmp_path_factory.mktemp("lpips"), request.param
    torch.manual_seed(0)
    state = {f"features.{key}": value for key, value in BUILT[name]().state_dict().items()}
    torch.save({**state, "classifier.6.bias": torch.zeros(1000)}, folder / "trunk.pth")
    heads = {f"lin{n}.model.1.weight": torch.rand(1, size, 1, 1) for n, size in enumerate(CHANNELS[name])}
    torch.save(heads, folder / "heads.pth")
    return name, folder / "trunk.pth", folder / "heads.pth"


def by_hand(name: str, trunk: Path, heads: Path, image: np.ndarray, other: np.ndarray) -> float:
    """The mean over axial slices of two images [X, Y, Z]."""
    state, linear = torch.load(trunk), [*torch.load(heads).values()]
    found = []
    for z in range(image.shape[2]):
        outputs = []
        for volume in (image, other):
            x = torch.as_tensor(2 * volume[..., z] - 1, dtype=torch.float32).expand(1, 3, -1, -1)
            x = x - torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
            x, compared = x / torch.tensor([0.458, 0.448, 0.450])[:, None, None], []
            for number, stride, padding, pool, taken in LAYERS[name]:
                x = x if pool is None else f.max_pool2d(x, *pool)
                weight, bias = (state[f"features.{number}.{kind}"] for kind in ("weight", "bias"))
                x = f.relu(f.conv2d(x, weight, bias, stride, padding))
                if taken:
                    compared.append(x[0] / (x[0].square().sum(0).sqrt() + 1e-10))
            outputs.append(compared)
        steps = zip(*outputs, linear, strict=True)
        found.append(sum(((a - b).square() * head[0]).sum(0).mean().item() for a, b, head in steps))
    return float(np.mean(found))


def volumes(*size: int) -> list[np.ndarray]:
    return [*np.random.default_rng(0).random((2, *size))]


def measured(files: tuple, *images: np.ndarray) -> float:
    return load_lpips(*files[1:])(*(torch.as_tensor(image, dtype=torch.float32)[None, None] for image in images))


def test_it_is_that_of_the_paper(files):
    """Of more slices than are compared at once."""
    least = load_lpips(*files[1:]).least
    image, other = volumes(least + 2, least + 5, 9)
    assert measured(files, image, other) == pytest.approx(by_hand(*files, image, other), rel=1e-4) != 0
    assert measured(files, image, image) == 0
    assert measured(files, image + 9, other) == pytest.approx(measured(files, image * 0 + 1, other)), "cut at 1"


def test_slices_of_the_size_that_it_names_are_enough(files):
    least = load_lpips(*files[1:]).least
    assert np.isfinite(measured(files, *volumes(least, least, 1)))
    with pytest.raises(RuntimeError):
        measured(files, *volumes(least - 1, least, 1))


def test_files_that_hold_something_else_are_told_from_each_other(files, tmp_path):
    name, trunk, heads = files
    with pytest.raises(UserError, match="--lpips: .*none.pth: no such checkpoint; give alexnet-owt"):
        load_lpips(tmp_path / "none.pth", heads)
    with pytest.raises(UserError, match=r"heads.pth holds no AlexNet \(.*give alexnet-owt-7be5be79.pth or vgg16"):
        load_lpips(heads, trunk)
    content = torch.load(heads)
    torch.save(content | {"lin3.model.1.weight": torch.rand(1, 99, 1, 1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=f"other.pth holds no heads of {name} .*99.*give alex.pth or vgg.pth"):
        load_lpips(trunk, tmp_path / "other.pth")
    torch.save(torch.load(trunk) | {"features.0.weight": torch.zeros(64, 3, 3, 5)}, tmp_path / "odd.pth")
    with pytest.raises(UserError, match=f"odd.pth holds no {name}"):
        load_lpips(tmp_path / "odd.pth", heads)


def test_an_evaluation_has_it_with_the_hash_of_its_weights_or_says_why_not(files, tmp_path, monkeypatch):
    """Slices of 24x24 voxels are enough for VGG16 alone."""
    monkeypatch.setattr(figures, "write_figures", lambda *_: None)
    name, trunk, heads = files
    real = write_dataset(tmp_path / "real", {"training": [0, 1, 2, 3], "validation": [], "test": [4, 5]})
    pairs = write_dataset(tmp_path / "pairs", {"training": [4, 5]}, lambda image, label, _: (0.9 * image, label))
    again = write_dataset(tmp_path / "again", {"training": [4, 5]})
    options = {"again": again, "lpips": (trunk, heads)}
    with pytest.raises(UserError, match="trunk.pth holds no heads"):
        evaluate(real, pairs, tmp_path / "out", lpips=(trunk, trunk))
    assert not (tmp_path / "out").exists(), "before any case is read"
    evaluate(real, pairs, tmp_path / "out", **options)
    rows = read_metrics(tmp_path / "out/metrics.json")["rows"]
    paired, flat = ([row for row in rows if row["key"] == Metric.PAIRED_LPIPS] + [None])[:2]
    (twice,) = (row for row in rows if row["key"] == Metric.DRAW_LPIPS)
    if name == "AlexNet":
        assert paired["value"] is twice["value"] is flat is None
        assert paired["note"] == twice["note"] == "AlexNet needs slices of 31 voxels, the scans have [24, 24]"
        return
    assert 0 < paired["value"] < paired["floor"] and paired["n"] == 2 and paired["direction"] == "lower"
    assert flat["variant"] == "class means" and 0 < twice["value"]
    for row in (paired, flat, twice):
        assert (row["network"], row["weights"]) == ("LPIPS 0.1, VGG16", f"{sha256(trunk)}, {sha256(heads)}")
    evaluate(real, pairs, tmp_path / "out", again=again, overwrite=True)
    rows = read_metrics(tmp_path / "out/metrics.json")["rows"]
    without = [row for row in rows if row["key"] in (Metric.PAIRED_LPIPS, Metric.DRAW_LPIPS)]
    assert [(row["value"], row["note"]) for row in without] == [(None, "needs weights: give --lpips")] * 2
