"""Each metric on scans that are spoilt step by step, as `benchmarks/degradation.py` does with real ones."""

import pytest
import torch
from benchmarks import degradation
from monai.inferers import SimpleInferer
from torch import nn

from lldm3d.evaluation.features import Layers, Segmenter

from .toys import LEVELS, quicken, write_dataset


class GreyLevels(nn.Module):
    """Segments by grey level, and has a random encoder for the features."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Conv3d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv3d(8, 16, 3, 2, 1))
        self.levels = torch.tensor(LEVELS, dtype=torch.float32).view(1, -1, 1, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.encoder(x)
        return -((x - self.levels) ** 2)


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> dict:
    seeds = {"training": list(range(12)), "validation": list(range(100, 103)), "test": list(range(200, 206))}
    folder = tmp_path_factory.mktemp("degradation")
    write_dataset(folder / "dataset", seeds)
    layers = Layers("encoder.0", "encoder.2")
    network = Segmenter("grey levels", "0" * 64, GreyLevels().eval(), SimpleInferer(), torch.device("cpu"), layers)
    steps = {"blur": (0, 3), "noise": (0, 0.4), "exchanged labels": (0, 1), "repetition": (1, 4)}
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch)
        patch.setattr(degradation, "load_segmenter", lambda *arguments: network)
        patch.setattr(degradation, "STEPS", {**steps, "training cases": (0, 0.5)})
        return degradation.degrade(folder, "stage")


HEADLINES = [  # what the report's first lines are made of, and what tells a collapse
    ("blur", "fid"),
    ("blur", "kid"),
    ("blur", "fid, texture"),
    ("noise", "fid, texture"),
    ("noise", "fid"),
    ("noise", "kid"),
    ("noise", "alignment_dice"),
    ("exchanged labels", "alignment_dice"),
    ("repetition", "fid"),
    ("repetition", "recall"),
    ("repetition", "pairwise_ssim"),
    ("training cases", "near_copies_share"),
]


@pytest.mark.parametrize("kind, metric", HEADLINES)
def test_a_headline_worsens_with_each_step(result, kind, metric):
    assert result[kind]["worsens"][metric], result[kind]["values"][metric]


def test_the_training_cases_among_them_are_called_copies(result):
    assert result["training cases"]["values"]["near_copies_share"] == [0, 0.5]


def test_the_figure_shows_every_kind(result):
    assert [axes.get_title() for axes in degradation.draw(result).axes] == list(degradation.STEPS)
