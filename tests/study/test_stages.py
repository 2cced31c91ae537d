"""Names, folders and trainings of a study's segmentations."""

import subprocess
import sys
from pathlib import Path

import pytest

from lldm3d.errors import UserError
from lldm3d.study.stages import SegmentStage, pairs_slug, pairs_slugs, segment_grid, trainings

STAGE = SegmentStage("convergence", "seg_unet", "multi", "2S>0.1R", "lldm-training", 3)
FOLDER = "segment/convergence/seg_unet/multi/2S_then_0.1R/lldm-training/seed_3"


def test_a_stage_is_found_by_its_folder():
    assert STAGE.path == FOLDER
    assert SegmentStage.parse(FOLDER) == SegmentStage.parse(Path("/work") / FOLDER) == STAGE


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("segment/seg_unet/multi/R/seed_0", "is no segmentation; its folder is segment/<until>"),
        (FOLDER.replace("convergence", "ever"), "steps or convergence"),
        (FOLDER.replace("seed_3", "3"), "is no segmentation"),
        (FOLDER.replace("0.1R", "2R"), "no regime '2S>2R'"),
    ],
)
def test_another_folder_is_refused(path, message):
    with pytest.raises(UserError, match=message):
        SegmentStage.parse(path)


def test_stages_are_listed_without_torch():
    """Snakemake does so in each of its jobs."""
    code = "import sys, lldm3d.study.stages; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_regime_without_synthetic_pairs_is_trained_once_whatever_the_pairs():
    stages = segment_grid(["steps"], ["seg_unet"], ["multi"], ["R", "R+S"], ["lldm", "other"], [0, 1])
    assert [stage.path.removeprefix("segment/steps/seg_unet/multi/") for stage in stages] == [
        *("R/real/seed_0", "R/real/seed_1"),
        *("R+S/lldm/seed_0", "R+S/lldm/seed_1", "R+S/other/seed_0", "R+S/other/seed_1"),
    ]


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        *[("lldm", "lldm"), ("lldm/drawn", "lldm"), ("lldm/training", "lldm-training")],
        *[("other/folder", "folder"), ("/data/My pairs (2)/", "My_pairs_2_")],
        ("/elsewhere/pairs/ddpm/training/seed_1", "ddpm-training-seed_1"),
        *[("/work/tenth/pairs/lldm/drawn", "tenth-lldm"), ("/work/tenth/pairs/lldm/training", "tenth-lldm-training")],
    ],
)
def test_pairs_have_a_short_name_in_paths(name, slug):
    assert pairs_slug(name, ["lldm", "ddpm"]) == slug


@pytest.mark.parametrize("names", [["a/pairs", "b/pairs"], ["real"], ["lldm", "elsewhere/lldm"]])
def test_pairs_that_would_share_a_folder_are_refused(names):
    with pytest.raises(UserError, match="rename the folder of pairs"):
        pairs_slugs(names, ["lldm"])


def test_two_trainings_take_the_steps_of_one_and_the_second_goes_on_from_the_first(tmp_path):
    first, second = trainings(tmp_path, SegmentStage("steps", "seg_unet", "multi", "S>R", "lldm", 0), 50, 10)
    assert (first.folder, first.epochs, first.init_path) == (tmp_path / "first", 20, None)
    assert (second.folder, second.epochs, second.init_path) == (tmp_path, 30, str(tmp_path / "first/model.pt"))
    assert [training.epochs for training in trainings(tmp_path, STAGE, 50, 10)] == [120, 130]  # the cap, for both
    assert len(trainings(tmp_path, SegmentStage("steps", "seg_unet", "multi", "R+S", "lldm", 0), 50, 10)) == 1


def test_trainings_too_short_for_a_validation_are_refused(tmp_path):
    with pytest.raises(UserError, match="15 epochs are too few for two trainings.*give 20 or more"):
        trainings(tmp_path, SegmentStage("steps", "seg_unet", "multi", "S>R", "lldm", 0), 15, 10)
