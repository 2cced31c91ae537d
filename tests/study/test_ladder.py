"""The ladder: what networks reach that learnt from real pairs, and from less and less real ones."""

import pandas as pd
import pytest
import torch
from tests.study.test_statistics import write

from lldm3d.study.ladder import ladder_figure, ladder_markdown, ladders, write_ladder
from lldm3d.study.scores import read_ends, read_scores
from lldm3d.study.stages import REAL, SegmentStage
from lldm3d.study.tables import cap_note

DICE = {REAL: 0.9, "lldm-reconstructed": 0.85, "lldm-unwarped": 0.8, "lldm-training": 0.82, "lldm": 0.7}


def climb(work, names=tuple(DICE), until="steps", network="seg_unet"):
    """Two seeds and patients of each rung; the harder patient loses twice as much from rung to rung as the other."""
    for pairs in names:
        lost = 0.9 - DICE[pairs]
        for seed in (0, 1):
            rows = [{"case": "a", "dice": 0.9 - lost * 2 / 3}, {"case": "b", "dice": 0.9 - lost * 4 / 3}]
            regime = "R" if pairs == REAL else "S"
            write(work, regime, seed, *rows, network=network, pairs=pairs, until=until)


def test_each_rung_is_compared_with_the_one_above_it_by_patient(tmp_path):
    climb(tmp_path)
    (found,) = ladders(read_scores(tmp_path))
    assert (found.method, found.until, found.network, found.class_name) == ("lldm", "steps", "seg_unet", "liver")
    assert [rung.source for rung in found.rungs] == ["real", "reconstructed", "unwarped", "training", "drawn"]
    assert [rung.cell.mean for rung in found.rungs] == pytest.approx(list(DICE.values()))
    steps = [rung.step.absolute for rung in found.rungs[1:]]
    assert steps == pytest.approx([-0.05, -0.05, 0.02, -0.12])
    assert found.rungs[4].step.interval == pytest.approx((-0.16, -0.08)) and found.rungs[4].step.patients == 2


def test_a_rung_that_was_not_trained_is_left_out_and_the_next_step_says_all_that_it_adds(tmp_path):
    climb(tmp_path, [REAL, "lldm-training", "lldm"])
    found = ladders(read_scores(tmp_path))
    assert [rung.above for rung in found[0].rungs] == [None, "real", "training"]
    text = ladder_markdown(found, read_ends(tmp_path))
    row = next(line for line in text.splitlines() if line.startswith("| training |"))
    assert "| image codec + image generator + warp | 0.820 ± 0.000<br>−0.080 [" in row
    assert "through the codec" not in text


def test_networks_and_lengths_of_training_have_columns_and_tables_of_their_own(tmp_path):
    climb(tmp_path)
    climb(tmp_path, [REAL, "lldm"], network="seg_vnet")
    climb(tmp_path, until="convergence")
    found = ladders(read_scores(tmp_path))
    text = ladder_markdown(found, read_ends(tmp_path))
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## lldm, multi, trained for equal steps",
        "## lldm, multi, trained to convergence",
    ]
    head, _, real, coded, *_ = [line for line in text.splitlines() if line.startswith("|")]
    assert head == "| rung | S | added | seg_unet | seg_vnet |" and real.count("0.900") == 2
    assert coded.endswith("| – |"), "of a rung that this network lacks"
    steps, convergence = ladder_figure(found).axes
    assert len(steps.lines) == 2 and len(convergence.lines) == 1
    assert [label.get_text() for label in steps.get_xticklabels()][0] == "real (R)"


def test_each_method_climbs_its_own_ladder_from_the_same_real_pairs(tmp_path):
    climb(tmp_path)
    rows = [{"case": "a", "dice": 0.5}, {"case": "b", "dice": 0.5}]
    write(tmp_path, "S", 0, *rows, pairs="cond_ldm-unwarped")
    write(tmp_path, "S", 0, *rows, pairs="a_folder")
    found = ladders(read_scores(tmp_path))
    assert [one.method for one in found] == ["lldm", "cond_ldm"]
    assert found[1].rungs[1].step.absolute == pytest.approx(-0.4) and set(found[1].rungs[1].step.seeds) == {0}


def test_the_files_hold_every_class(tmp_path):
    climb(tmp_path)
    write_ladder(tmp_path)
    table = pd.read_csv(tmp_path / "study/ladder.csv").set_index("rung")
    assert table.loc["drawn", ["above", "seeds", "class"]].tolist() == ["training", 2, "liver"]
    assert table.loc["drawn", ["dice", "difference", "low", "high"]].tolist() == pytest.approx(
        [0.7, -0.12, -0.16, -0.08]
    )
    assert (tmp_path / "study/ladder.png").stat().st_size > 5000 and (tmp_path / "study/ladder.md").is_file()


def test_without_rungs_there_is_no_ladder(tmp_path):
    climb(tmp_path, [REAL])
    assert ladders(read_scores(tmp_path)) == []
    write_ladder(tmp_path)
    assert not (tmp_path / "study").exists()


def end(work, regime, pairs, seed, stopped, first=False):
    """The last state of a training to convergence, beside its scores."""
    folder = work / SegmentStage("convergence", "seg_unet", "multi", regime, pairs, seed).path
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.csv").touch()
    path = folder / "first/state.pt" if first else folder / "state.pt"
    path.parent.mkdir(exist_ok=True)
    torch.save({"network": {"weight": torch.zeros(3)}, "epoch": 5, "stopped": stopped}, path)


def test_trainings_that_ended_at_the_cap_are_counted_and_named(tmp_path):
    for seed, stopped in enumerate((True, False, False)):
        end(tmp_path, "R", REAL, seed, stopped)
        end(tmp_path, "S", "lldm", seed, True)
    end(tmp_path, "S>R", "lldm", 0, False, first=True)
    end(tmp_path, "S>R", "lldm", 0, True)
    words = "3 of 8 trainings to convergence ended at 5 times the equal steps instead of by patience"
    assert cap_note(read_ends(tmp_path)) == f"{words}: seg_unet R 2 of 3, seg_unet S>R (lldm) 1 of 2."
    assert cap_note(read_ends(tmp_path / "none")) == ""


def test_the_note_on_the_cap_stands_under_the_table_of_convergence_and_counts_its_rungs_alone(tmp_path):
    climb(tmp_path)
    climb(tmp_path, until="convergence")
    end(tmp_path, "R", REAL, 0, True)
    end(tmp_path, "S", "lldm", 0, False)
    end(tmp_path, "S", "cond_ldm", 0, False)
    ends = read_ends(tmp_path)
    (tmp_path / SegmentStage("convergence", "seg_unet", "multi", "S", "cond_ldm", 0).path / "metrics.csv").unlink()
    steps, convergence = ladder_markdown(ladders(read_scores(tmp_path)), ends).split("## ")[1:]
    assert convergence.rstrip().endswith("1 of 2 trainings to convergence ended at 5 times the equal steps instead of "
                                         "by patience: seg_unet S (lldm) 1 of 1.")  # fmt: skip
    assert "by patience" not in steps
