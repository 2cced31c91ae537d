"""Lesions one by one: found by two rules, by length, and false ones."""

import numpy as np
import pandas as pd
import pytest

from lldm3d.study.lesions import HEADER, RULES, lesion_rows, write_detection

COLUMN = "sensitivity, {}".format
FALSE = "false positives a scan"
FALSE_VOLUME = "false ml a scan without lesions"


def test_each_lesion_has_its_length_and_share_and_a_false_one_no_share():
    truth, pred = np.zeros((2, 20, 20, 20), bool)
    truth[2:6, 2:6, 2:6] = truth[10:12, 10:12, 10:12] = True
    pred[2:6, 2:6, 2:3] = pred[16:18, 2:4, 2:4] = True
    found = lesion_rows(pred, truth, (2.0, 2.0, 2.0))
    assert [row.get("covered") for row in found] == [0.25, 0.0, None]
    assert [row["volume"] for row in found] == pytest.approx([0.512, 0.064, 0.064])
    assert found[0]["long_axis"] > 3 * found[1]["long_axis"] / 2 and found[1]["long_axis"] == found[2]["long_axis"]


def test_the_table_has_both_rules_by_length_over_all_seeds(tmp_path):
    rows = [("c1", "p1", "HCC", 5.0, 0.2, 1), ("c1", "p1", "HCC", 30.0, 0.9, 10), ("c2", "p2", "HCC", 15.0, None, 2)]
    for seed, first in ((0, 0.2), (1, 0.0)):
        folder = tmp_path / f"segment/steps/seg_unet/multi/R/real/seed_{seed}"
        folder.mkdir(parents=True)
        table = pd.DataFrame(rows, columns=HEADER)
        table.loc[0, "covered"] = first
        table.to_csv(folder / "lesions.csv", index=False)
        cases = {"case": ["c1", "c2", "c3", "c4"], "patient": ["p1", "p2", "p3", "p4"]}
        pd.DataFrame(cases).to_csv(folder / "metrics.csv", index=False)
    write_detection([tmp_path], tmp_path / "study")
    table = pd.read_csv(tmp_path / "study/lesions.csv").set_index("size")
    assert list(table["lesions"]) == [2, 1, 0, 1] and set(RULES) == {"one voxel", "half"}
    assert table.loc["all", COLUMN("one voxel")] == pytest.approx(0.75)
    assert table.loc["< 10 mm", COLUMN("one voxel")] == 0.5 and table.loc["< 10 mm", COLUMN("half")] == 0
    assert table.loc["> 20 mm", COLUMN("half")] == 1 and np.isnan(table.loc["10-20 mm", COLUMN("half")])
    assert list(table[FALSE]) == [0.25, 0, 0.25, 0]
    assert table.loc["all", "voxel recall"] == pytest.approx((0.1 + 9) / 11)  # 0.2 ml by one seed, none by the other
    assert list(table[FALSE_VOLUME]) == pytest.approx([2 / 3, 0, 2 / 3, 0])  # of three scans without lesions
    shown = ["0.750 [0.750, 0.750]", "0.500 [0.500, 0.500]", "0.827 [0.827, 0.827]", "0.250 [0.000, 0.750]"]
    assert f"| HCC | R | real | all | 2 | {' | '.join(shown)} | 0.667" in (tmp_path / "study/lesions.md").read_text()


def test_a_gain_is_counted_from_the_same_patients_without_pairs(tmp_path):
    for regime, pairs, covered in (("R", "real", (0.0, 0.3, 0.0, 0.7)), ("R+S", "lefusion", (0.6, 0.3, 0.0, 0.7))):
        folder = tmp_path / f"segment/steps/seg_unet/hcc/{regime}/{pairs}/seed_0"
        folder.mkdir(parents=True)
        rows = [(f"c{n}", f"p{n}", "HCC", 8.0, share) for n, share in enumerate(covered)]  # as 0.21 wrote them
        pd.DataFrame(rows, columns=HEADER[:5]).to_csv(folder / "lesions.csv", index=False)
        pd.DataFrame({name: [row[n] for row in rows] for n, name in enumerate(HEADER[:2])}).to_csv(
            folder / "metrics.csv"
        )
    write_detection([tmp_path], tmp_path / "study")
    table = pd.read_csv(tmp_path / "study/lesions.csv").set_index(["regime", "size"])
    name, row = COLUMN("one voxel"), table.loc[("R+S", "all")]
    assert row[name] == 0.75 and row[f"{name}, gain"] == 0.25 and np.isnan(table.loc[("R", "all"), f"{name}, gain"])
    assert row[f"{name}, gain low"] == 0 and 0.5 <= row[f"{name}, gain high"] <= 0.75
    assert "0.750 [0.250, 1.000]<br>+0.250 [+0.000, +0.750]" in (tmp_path / "study/lesions.md").read_text()
    assert table["voxel recall"].isna().all()  # not a number made up


def test_a_study_without_lesions_has_no_such_table(tmp_path):
    write_detection([tmp_path], tmp_path / "study")
    assert not list(tmp_path.iterdir())
