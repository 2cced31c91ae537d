"""The statistics of a study on tables that can be reckoned by hand."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import wilcoxon

from lldm3d.errors import UserError
from lldm3d.evaluation.metrics import write_csv
from lldm3d.study.scores import HEADER, SCORES, read_scores
from lldm3d.study.stages import REAL, Arm, SegmentStage
from lldm3d.study.statistics import Line, lines
from lldm3d.study.tables import write_study

EMPTY = dict.fromkeys(HEADER, "")
R, MIXED = Arm("R", REAL), Arm("R+S", "lldm")


def arm(regime: str) -> Arm:
    return Arm(regime, "lldm" if "S" in regime else REAL)


def write(work: Path, regime: str, seed: int, *rows: dict, network="seg_unet", pairs=None, until="steps") -> None:
    """A stage's table; a row has case, class and its metrics, and the case stands for the patient if none is said."""
    stage = SegmentStage(until, network, "multi", regime, pairs or arm(regime).pairs, seed)
    path = work / stage.path / "metrics.csv"
    path.parent.mkdir(parents=True)
    filled = [{**EMPTY, "patient": row["case"], "class": "liver", **row} for row in rows]
    path.write_text(
        "\n".join([",".join(HEADER), *(",".join(str(row[key]) for key in HEADER) for row in filled)]) + "\n"
    )


def find(work: Path, metric: str = "dice", name: str = "liver", until: str = "steps") -> Line:
    wanted = (metric, name, until)
    return next(item for item in lines(read_scores(work)) if (item.metric, item.class_name, item.until) == wanted)


@pytest.fixture
def work(tmp_path) -> Path:
    tumour = {"case": "a", "class": "tumour"}
    write(tmp_path, "R", 0, {"case": "a", "dice": 0.8, "hd95": 4}, tumour | {"dice": 0.4}, {"case": "b", "dice": 0.6})
    write(tmp_path, "R", 1, {"case": "a", "dice": 0.9}, tumour | {"dice": 0.6, "hd95": 8}, {"case": "b", "dice": 0.7})
    write(tmp_path, "R+S", 0, {"case": "a", "dice": 0.9}, tumour | {"dice": 0.7}, {"case": "b", "dice": 0.8})
    write(tmp_path, "R+S", 1, {"case": "a", "dice": 0.8}, tumour | {"dice": 0.7}, {"case": "b", "dice": 0.8})
    return tmp_path


def test_cells_are_means_over_patients_then_over_seeds(work):
    cell = find(work).cells[R]
    assert cell.mean == pytest.approx(0.75) and cell.seeds == pytest.approx({0: 0.7, 1: 0.8})
    assert cell.std == pytest.approx(np.sqrt(2) * 0.05) and cell.patients == 2


def test_gains_are_paired_by_patient_and_averaged_over_seeds(work):
    gain = find(work).gains[MIXED]
    # a: 0.85 - 0.85, b: 0.8 - 0.65
    assert gain.absolute == pytest.approx(0.075) and gain.relative == pytest.approx(10)
    assert gain.interval == pytest.approx((0, 0.15)) and (gain.patients, gain.reference) == (2, R)
    assert gain.seeds == pytest.approx({0: 0.15, 1: 0.0})


def test_only_seeds_that_both_have_are_compared(work):
    write(work, "R+S", 2, {"case": "a", "dice": 0.1}, {"case": "b", "dice": 0.1})
    assert find(work).gains[MIXED].absolute == pytest.approx(0.075)
    assert set(find(work).cells[MIXED].seeds) == {0, 1, 2}


def test_the_mean_is_over_the_classes_of_each_patient_and_not_of_distances(work):
    assert find(work, name="mean").cells[R].seeds[0] == pytest.approx((0.6 + 0.6) / 2)
    assert ("hd95", "mean") not in {(item.metric, item.class_name) for item in lines(read_scores(work))}
    assert find(work, "hd95", "tumour").cells[R].mean == 8


def test_several_scans_of_a_patient_count_as_one(tmp_path):
    scans = [{"case": f"a{n}", "patient": "a", "dice": 0.9} for n in range(9)]
    write(tmp_path, "R", 0, *scans, {"case": "b", "dice": 0.5})
    cell = find(tmp_path).cells[R]
    assert cell.mean == pytest.approx(0.7) and cell.patients == 2


REFERENCES = [("S", "R"), ("0.1R+S", "0.1R"), ("R+2S", "R"), ("S>R", "R"), ("2S>0.1R", "0.1R")]


@pytest.mark.parametrize(("regime", "reference"), REFERENCES)
def test_each_regime_is_compared_with_the_same_without_synthetic_pairs(work, regime, reference):
    for name in {regime, reference} - {"R"}:
        write(work, name, 0, {"case": "a", "dice": 0.5 if name == reference else 0.6})
    line = find(work)
    assert line.gains[arm(regime)].reference == arm(reference) and arm("0.1R") not in line.gains


def test_several_pairs_are_judged_against_the_same_real_ones(work):
    write(work, "R+S", 0, {"case": "a", "dice": 0.7}, {"case": "b", "dice": 0.5}, pairs="lldm-training")
    line = find(work)
    assert line.gains[Arm("R+S", "lldm-training")].absolute == pytest.approx(-0.1)
    assert line.gains[MIXED].absolute == pytest.approx(0.075)
    assert [str(arm) for arm in line.cells] == ["R", "R+S (lldm)", "R+S (lldm-training)"]


def test_equal_steps_are_never_compared_with_convergence(work):
    write(work, "R+S", 0, {"case": "a", "dice": 0.99}, until="convergence")
    assert find(work, until="convergence").gains == {} and find(work).gains[MIXED].absolute == pytest.approx(0.075)
    write(work, "R", 0, {"case": "a", "dice": 0.9}, until="convergence")
    assert find(work, until="convergence").gains[MIXED].absolute == pytest.approx(0.09)


def two_seeds(work: Path, gains: tuple[float, float]) -> Line:
    """Twelve patients, whose Dice rises by about `gains` in the two seeds."""
    noise = np.random.default_rng(0).uniform(-0.01, 0.01, 12)
    for seed, gain in enumerate(gains):
        write(work, "R", seed, *({"case": f"p{n}", "dice": 0.5} for n in range(12)))
        write(work, "R+S", seed, *({"case": f"p{n}", "dice": 0.5 + gain + noise[n]} for n in range(12)))
    return find(work)


def test_a_gain_is_clear_where_patients_and_seeds_agree(tmp_path):
    line = two_seeds(tmp_path / "same", (0.1, 0.05))
    assert line.gains[MIXED].clear and line.better(MIXED) and line.verdict(MIXED) == "better"
    opposite = two_seeds(tmp_path / "opposite", (0.1, -0.05)).gains[MIXED]
    assert opposite.p_holm < 0.01 and not opposite.clear


def test_a_planted_harm_is_found_and_printed_as_harm(tmp_path, tiny_dataset):
    """In all that a study writes."""
    line = two_seeds(tmp_path, (-0.1, -0.05))
    assert line.verdict(MIXED) == "worse" and line.gains[MIXED].interval[1] < 0
    shutil.copytree(tiny_dataset, tmp_path / "dataset")
    write_study([tmp_path], tmp_path / "study")
    assert all("* (harm)" in (tmp_path / "study" / name).read_text() for name in ("table.md", "table.tex"))
    gains = pd.read_csv(tmp_path / "study/gains.csv").set_index("regime")
    assert gains.loc["R+S", ["until", "pairs", "reference", "verdict"]].tolist() == ["steps", "lldm", "R", "worse"]
    assert gains.loc["R+S", "gain"] == pytest.approx(line.gains[MIXED].absolute)
    values = pd.read_csv(tmp_path / "study/study.csv")
    assert len(values) == 48 and list(values) == [*SCORES, "unit"]
    assert (tmp_path / "study/figure.png").stat().st_size > 5000


def test_the_correction_counts_all_gains_of_a_metric(tmp_path):
    alone = two_seeds(tmp_path, (0.1, 0.05)).gains[MIXED]
    assert alone.p_holm == alone.p == pytest.approx(wilcoxon(np.arange(1, 13)).pvalue)
    for regime, dice in (("R", 0.5), ("R+S", 0.5)):
        write(tmp_path, regime, 0, {"case": "a", "dice": dice}, {"case": "b", "dice": dice}, network="seg_vnet")
    gains = {item.network: item.gains[MIXED] for item in lines(read_scores(tmp_path))}
    assert gains["seg_unet"].p_holm == pytest.approx(2 * alone.p) and gains["seg_vnet"].p_holm == 1


def test_a_lower_distance_is_better(tmp_path):
    for regime, hd95 in (("R", 5), ("R+S", 3)):
        write(tmp_path, regime, 0, {"case": "a", "hd95": hd95})
    assert find(tmp_path, "hd95").better(MIXED)


def test_names_of_cases_and_classes_are_never_taken_for_numbers_or_gaps(tmp_path):
    write(tmp_path, "R", 0, {"case": "007", "class": "NA", "dice": 0.5})
    scores = read_scores(tmp_path)
    assert scores[["case", "patient", "class"]].to_numpy().tolist() == [["007", "007", "NA"]]


def test_no_name_is_a_formula_in_a_spreadsheet_and_all_come_back(tmp_path):
    names = ["=HYPERLINK(1)", "+S", "-cyst", "@sum", "'quoted", "\tx", "plain", "-1.5"]
    path = tmp_path / SegmentStage("steps", "seg_unet", "multi", "R", REAL, 0).path / "metrics.csv"
    rows = [{"case": name, "patient": name, "class": name, "dice": 0.5, "hd95": -1.5} for name in names]
    write_csv(path, HEADER, rows)
    table = pd.read_csv(path, dtype={"case": str})
    assert [cell for cell in table["case"] if cell[0] in "=+-@\t"] == ["-1.5"] and set(table["hd95"]) == {-1.5}
    scores = read_scores(tmp_path)
    assert [scores[column][: len(names)].tolist() for column in ("case", "patient", "class")] == [names] * 3


@pytest.mark.parametrize("text", ["case,dice\na,1\n", "", ",".join(HEADER) + "\na,a,liver,good,,,,,\n"])
def test_another_table_is_refused(work, text):
    path = work / SegmentStage("steps", "seg_unet", "multi", "R", REAL, 0).path / "metrics.csv"
    path.write_text(text)
    with pytest.raises(UserError, match="metrics.csv: (has the columns|is no table)"):
        read_scores(work)


def test_without_any_training_there_is_nothing(tmp_path):
    assert lines(read_scores(tmp_path)) == []
