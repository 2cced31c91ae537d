"""Which pairs a study lacks, which of them it can make, and which rungs of a ladder it leaves out."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from lldm3d.errors import UserError
from lldm3d.files import write_json, write_yaml
from lldm3d.methods.registry import load_method
from lldm3d.pipeline.axes import pairs_at_hand, pairs_to_make
from lldm3d.pipeline.plan import Plan, check_pairs
from lldm3d.pipeline.run import leave_out_missing, planned, require_data, study

from .conftest import DRAWN, plan_of

PAIRS, TRAINED = "pairs/lldm/drawn/seed_0/dataset.json", "methods/lldm/seed_0/{}/finished.json"


def hold(work: Path, *files: str) -> None:
    """Put lists of nothing into a work directory, in which they stand for what stages leave."""
    for name in ("dataset/dataset.json", *files):
        write_json(work / name, {"training": [], "labels": {}})


def to_make(work: Path, plan: Plan) -> list[str]:
    return [job.name for job in pairs_to_make(work, plan)]


def test_what_a_trained_method_lacks_is_made_and_what_is_there_is_not(tmp_path):
    plan = plan_of(tmp_path, ladder=True)
    hold(tmp_path, PAIRS, *(TRAINED.format(name) for name in load_method("lldm").trainings))
    pairs = [f"pairs/lldm/{source}/seed_0" for source in ("reconstructed", "unwarped", "training")]
    assert to_make(tmp_path, plan) == ["labels/training/seed_0", *pairs]
    assert pairs_at_hand(tmp_path, plan) == list(plan.pairs)
    assert to_make(tmp_path, plan_of(tmp_path, sources=["drawn", "test"])) == [], "nothing that no segmentation reads"
    both = plan_of(tmp_path, grid={"pairs": ["lldm/both"]})
    assert to_make(tmp_path, both) == ["labels/training/seed_0", "pairs/lldm/training/seed_0", "pairs/lldm/both/seed_0"]


def test_a_study_warps_real_scans_where_it_shall_tell_what_warping_alone_brings(tmp_path):
    plan = plan_of(tmp_path, grid={"pairs": ["lldm", "warped"]})
    hold(tmp_path, PAIRS)
    assert to_make(tmp_path, plan) == ["labels/training/seed_0"] and pairs_at_hand(tmp_path, plan) == ["lldm", "warped"]


def test_pairs_that_are_too_few_for_a_regime_are_made_anew(tiny_dataset, tmp_path):
    """Four training cases, and as many pairs: R+S is content with them, 2xR+2S is not."""
    hold(tmp_path, *(TRAINED.format(name) for name in load_method("lldm").trainings))
    shutil.rmtree(tmp_path / "dataset")
    (tmp_path / "dataset").symlink_to(tiny_dataset)
    write_json(tmp_path / PAIRS, {"training": [{"image": f"{number}.nii.gz"} for number in range(4)]})
    assert to_make(tmp_path, plan_of(tmp_path, grid={"pairs": ["lldm"], "regimes": ["R", "R+S"]})) == []
    more = plan_of(tmp_path, grid={"pairs": ["lldm"], "regimes": ["R", "2xR+2S"]})
    assert to_make(tmp_path, more) == ["pairs/lldm/drawn/seed_0"]
    more.settings["methods"]["n"] = 6
    with pytest.raises(UserError, match="methods#n is 6, but the regimes take more pairs: {'2xR.2S': 8}"):
        to_make(tmp_path, more)


def test_the_rungs_that_cannot_be_had_are_left_out_and_named(tmp_path, capsys):
    hold(tmp_path, TRAINED.format("autoencoder_image"))
    content = planned(tmp_path, "demo", {"data": str(tmp_path)}, **DRAWN, ladder=True)
    leave_out_missing(tmp_path, content)
    assert list(Plan.of(content).pairs) == content["grid"]["pairs"] == ["lldm/reconstructed"]
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(":")[1] for line in printed] == [
        f" without {name}" for name in ("lldm/unwarped", "lldm/training", "lldm")
    ]


def test_of_a_given_data_set_the_rungs_are_the_folders_that_lie_there(tmp_path):
    hold(tmp_path, "pairs/lldm/unwarped/seed_0/dataset.json", *map(TRAINED.format, load_method("lldm").trainings))
    plan = replace(plan_of(tmp_path, ladder=True), given=True)
    assert pairs_at_hand(tmp_path, plan) == ["lldm/unwarped"] and to_make(tmp_path, plan) == []


def test_a_given_data_set_is_studied_without_the_controls_that_a_run_makes(tmp_path):
    plan = plan_of(tmp_path, "small", grid={"regimes": ["R"]})
    assert list(plan.pairs) == ["lldm", "warped"]
    assert list(replace(plan, given=True).pairs) == ["lldm"]


def test_a_study_never_draws_test_labels_to_learn_from(tiny_dataset, tmp_path):
    (tmp_path / "dataset").symlink_to(tiny_dataset)
    plan = plan_of(tmp_path, grid={"pairs": ["lldm/test"]})
    with pytest.raises(UserError, match="lldm/test shows the labels of test cases"):
        require_data(tmp_path, plan, making=set())


def test_pairs_of_a_folder_of_labels_bear_its_whole_path(tmp_path):
    (tmp_path / "mine").mkdir()
    plan = plan_of(tmp_path, grid={"pairs": [f"lldm/{tmp_path}/mine"]})
    with pytest.raises(UserError, match=r"pairs of the labels in a folder are called lldm/\w+_mine$"):
        check_pairs(plan)


def test_a_study_of_pairs_that_nothing_trained_can_make_says_which_command_makes_them(tiny_dataset, tmp_path):
    (tmp_path / "dataset").symlink_to(tiny_dataset)
    plan = plan_of(tmp_path, grid={"pairs": ["ddpm/pseudo_labelled"], "regimes": ["R", "R+S"]})
    with pytest.raises(UserError) as error:
        require_data(tmp_path, plan, making=set())
    assert str(error.value) == (
        f"{tmp_path}/pairs/ddpm/pseudo_labelled/seed_0: holds no pairs, which some regimes take; `lldm3d run --workdir "
        f"{tmp_path} --methods lldm,ddpm --sources drawn --until pairs` makes them"
    )


@pytest.mark.parametrize(
    ("pairs", "given", "message"),
    [
        ("ddpm/training", False, "ddpm has no pairs of the source 'training'; it has drawn, pseudo_labelled"),
        ("lldm/pseudo_labelled", False, "lldm has no pairs of the source 'pseudo_labelled'; it has drawn, training"),
        ("warped", True, "--pairs warped: real scans that `lldm3d run` warps, but no run made this data set"),
    ],
)
def test_pairs_that_no_command_can_make_are_refused(tiny_dataset, tmp_path, pairs, given, message):
    (tmp_path / "dataset").symlink_to(tiny_dataset)
    plan = replace(plan_of(tmp_path, grid={"pairs": [pairs], "regimes": ["R", "R+S"]}), given=given)
    with pytest.raises(UserError, match=message):
        require_data(tmp_path, plan, making=set())


def test_a_study_takes_no_vote_of_one_network(tiny_dataset, tmp_path):
    (tmp_path / "dataset").symlink_to(tiny_dataset)
    write_yaml(tmp_path / "run.yaml", planned(tmp_path, "demo", {"data": str(tmp_path)}, methods=["ddpm"]))
    (tmp_path / "pairs/ddpm/drawn/seed_0").mkdir(parents=True)
    shutil.copy(tiny_dataset / "dataset.json", tmp_path / "pairs/ddpm/drawn/seed_0")
    with pytest.raises(UserError, match="--sources pseudo_labelled: 2 segmentations in regime R or more have to vote"):
        study(str(tmp_path), pairs="ddpm/pseudo_labelled", regimes="R,R+S", seeds="0", dry_run=True)
