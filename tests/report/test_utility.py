from pathlib import Path

import numpy as np
import pytest

from lldm3d.errors import UserError
from lldm3d.report.utility import utility_lines

CLASSES = ("background", "liver", "tumour")


def write(work: Path, regime: str, seed: int, rows: str) -> None:
    path = work / "segment" / "seg_unet" / regime / f"seed_{seed}" / "metrics.csv"
    path.parent.mkdir(parents=True)
    path.write_text("case,class,dice,hd95\n" + rows)


@pytest.fixture
def work(tmp_path) -> Path:
    write(tmp_path, "R", 0, "a,liver,0.8,4\na,tumour,0.4,\nb,liver,0.6,6\n")
    write(tmp_path, "R", 1, "a,liver,0.9,2\na,tumour,0.6,8\nb,liver,0.7,6\n")
    write(tmp_path, "R+S", 0, "a,liver,0.9,3\na,tumour,0.7,5\nb,liver,0.8,4\n")
    return tmp_path


def line(work: Path, metric: str, name: str):
    return next(item for item in utility_lines(work, CLASSES) if (item.metric, item.class_name) == (metric, name))


def test_cells_are_means_over_cases_then_over_seeds(work):
    cell = line(work, "dice", "liver").cells["R"]
    assert cell.mean == pytest.approx(0.75)  # seeds: 0.7 and 0.8
    assert cell.std == pytest.approx(np.sqrt(2) * 0.05)
    assert (cell.seeds, cell.cases) == (2, 2)
    single = line(work, "dice", "liver").cells["R+S"]
    assert single.mean == pytest.approx(0.85) and single.std is None


def test_gains_are_paired_by_case(work):
    gain = line(work, "dice", "liver").gains["R+S"]
    # a: 0.9 - 0.85, b: 0.8 - 0.65
    assert gain.absolute == pytest.approx(0.1) and gain.relative == pytest.approx(100 * 0.1 / 0.75)
    assert gain.interval == pytest.approx((0.05, 0.15)) and gain.cases == 2


def test_mean_is_over_the_classes_of_each_case(work):
    cell = line(work, "dice", "mean").cells["R+S"]
    assert cell.mean == pytest.approx((0.8 + 0.8) / 2)


def test_an_undefined_distance_is_left_out(work):
    assert line(work, "hd95", "tumour").cells["R"].mean == pytest.approx(8)


def test_a_missing_regime_is_empty(work):
    item = line(work, "dice", "liver")
    assert item.cells["S"].mean is None and item.gains["S"].absolute is None
    assert utility_lines(work / "segment", CLASSES) == []


def test_another_table_is_refused(work):
    path = work / "segment/seg_unet/R/seed_0/metrics.csv"
    path.write_text("case,dice\na,1\n")
    with pytest.raises(UserError, match="has the columns"):
        utility_lines(work, CLASSES)
