"""The statistics of a study on tables that can be reckoned by hand."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import wilcoxon

from lldm3d.errors import UserError
from lldm3d.study.scores import HEADER, read_scores
from lldm3d.study.statistics import Line, lines

EMPTY = dict.fromkeys(HEADER, "")


def write(work: Path, regime: str, seed: int, *rows: dict, network: str = "seg_unet", task: str = "multi") -> None:
    """A stage's table; a row has case, class and its metrics, and the case stands for the patient if none is said."""
    path = work / "segment" / network / task / regime / f"seed_{seed}" / "metrics.csv"
    path.parent.mkdir(parents=True)
    filled = [{**EMPTY, "patient": row["case"], "class": "liver", **row} for row in rows]
    path.write_text(
        "\n".join([",".join(HEADER), *(",".join(str(row[key]) for key in HEADER) for row in filled)]) + "\n"
    )


def find(work: Path, metric: str = "dice", name: str = "liver") -> Line:
    return next(item for item in lines(read_scores(work)) if (item.metric, item.class_name) == (metric, name))


@pytest.fixture
def work(tmp_path) -> Path:
    tumour = {"case": "a", "class": "tumour"}
    write(tmp_path, "R", 0, {"case": "a", "dice": 0.8, "hd95": 4}, tumour | {"dice": 0.4}, {"case": "b", "dice": 0.6})
    write(tmp_path, "R", 1, {"case": "a", "dice": 0.9}, tumour | {"dice": 0.6, "hd95": 8}, {"case": "b", "dice": 0.7})
    write(tmp_path, "R+S", 0, {"case": "a", "dice": 0.9}, tumour | {"dice": 0.7}, {"case": "b", "dice": 0.8})
    write(tmp_path, "R+S", 1, {"case": "a", "dice": 0.8}, tumour | {"dice": 0.7}, {"case": "b", "dice": 0.8})
    return tmp_path


def test_cells_are_means_over_patients_then_over_seeds(work):
    cell = find(work).cells["R"]
    assert cell.mean == pytest.approx(0.75) and cell.seeds == pytest.approx({0: 0.7, 1: 0.8})
    assert cell.std == pytest.approx(np.sqrt(2) * 0.05) and cell.patients == 2


def test_gains_are_paired_by_patient_and_averaged_over_seeds(work):
    gain = find(work).gains["R+S"]
    # a: 0.85 - 0.85, b: 0.8 - 0.65
    assert gain.absolute == pytest.approx(0.075) and gain.relative == pytest.approx(10)
    assert gain.interval == pytest.approx((0, 0.15)) and (gain.patients, gain.reference) == (2, "R")
    assert gain.seeds == pytest.approx({0: 0.15, 1: 0.0})


def test_only_seeds_that_both_have_are_compared(work):
    write(work, "R+S", 2, {"case": "a", "dice": 0.1}, {"case": "b", "dice": 0.1})
    assert find(work).gains["R+S"].absolute == pytest.approx(0.075)
    assert set(find(work).cells["R+S"].seeds) == {0, 1, 2}


def test_the_mean_is_over_the_classes_of_each_patient_and_not_of_distances(work):
    assert find(work, name="mean").cells["R"].seeds[0] == pytest.approx((0.6 + 0.6) / 2)
    assert ("hd95", "mean") not in {(item.metric, item.class_name) for item in lines(read_scores(work))}
    assert find(work, "hd95", "tumour").cells["R"].mean == 8


def test_several_scans_of_a_patient_count_as_one(tmp_path):
    scans = [{"case": f"a{n}", "patient": "a", "dice": 0.9} for n in range(9)]
    write(tmp_path, "R", 0, *scans, {"case": "b", "dice": 0.5})
    cell = find(tmp_path).cells["R"]
    assert cell.mean == pytest.approx(0.7) and cell.patients == 2


@pytest.mark.parametrize(("regime", "reference"), [("S", "R"), ("0.1R+S", "0.1R"), ("R+2S", "R")])
def test_each_regime_is_compared_with_the_same_without_synthetic_pairs(work, regime, reference):
    for name in {regime, reference} - {"R"}:
        write(work, name, 0, {"case": "a", "dice": 0.5 if name == reference else 0.6})
    assert find(work).gains[regime].reference == reference
    assert "0.1R" not in find(work).gains


def two_seeds(work: Path, gains: tuple[float, float]) -> Line:
    """Twelve patients, whose Dice rises by about `gains` in the two seeds."""
    noise = np.random.default_rng(0).uniform(-0.01, 0.01, 12)
    for seed, gain in enumerate(gains):
        write(work, "R", seed, *({"case": f"p{n}", "dice": 0.5} for n in range(12)))
        write(work, "R+S", seed, *({"case": f"p{n}", "dice": 0.5 + gain + noise[n]} for n in range(12)))
    return find(work)


def test_a_gain_is_clear_where_patients_and_seeds_agree(tmp_path):
    line = two_seeds(tmp_path / "same", (0.1, 0.05))
    assert line.gains["R+S"].clear and line.better("R+S")
    opposite = two_seeds(tmp_path / "opposite", (0.1, -0.05)).gains["R+S"]
    assert opposite.p_holm < 0.01 and not opposite.clear


def test_the_correction_counts_all_gains_of_a_metric(tmp_path):
    alone = two_seeds(tmp_path, (0.1, 0.05)).gains["R+S"]
    assert alone.p_holm == alone.p == pytest.approx(wilcoxon(np.arange(1, 13)).pvalue)
    for regime, dice in (("R", 0.5), ("R+S", 0.5)):
        write(tmp_path, regime, 0, {"case": "a", "dice": dice}, {"case": "b", "dice": dice}, network="seg_vnet")
    gains = {item.network: item.gains["R+S"] for item in lines(read_scores(tmp_path))}
    assert gains["seg_unet"].p_holm == pytest.approx(2 * alone.p) and gains["seg_vnet"].p_holm == 1


def test_a_lower_distance_is_better(tmp_path):
    for regime, hd95 in (("R", 5), ("R+S", 3)):
        write(tmp_path, regime, 0, {"case": "a", "hd95": hd95})
    assert find(tmp_path, "hd95").better("R+S")


def test_another_table_is_refused(work):
    path = work / "segment/seg_unet/multi/R/seed_0/metrics.csv"
    path.write_text("case,dice\na,1\n")
    with pytest.raises(UserError, match="has the columns"):
        read_scores(work)
