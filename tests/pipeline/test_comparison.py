"""Methods beside each other at equal minutes, one of them a folder of three files: all stages in this process."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from tests.in_process import do_stages, write_run
from tests.methods.conftest import GUEST, bundles_with_guest, with_guest  # noqa: F401 fixtures

from lldm3d.errors import UserError
from lldm3d.files import read_json
from lldm3d.methods.registry import load_method
from lldm3d.pipeline.plan import Plan
from lldm3d.pipeline.stage import read_plan
from lldm3d.pipeline.stages import all_jobs
from lldm3d.report.comparison import read_results

pytestmark = pytest.mark.usefixtures("with_guest")
MINUTES = 0.01


@pytest.fixture
def compared(tiny_dataset, made_once, with_guest) -> Path:  # noqa: F811
    """A work directory in which DDPM and the further method were compared, and a study made of the latter's pairs."""

    def make(work: Path) -> None:
        shutil.copytree(tiny_dataset, work / "dataset")
        write_run(work, ["ddpm", GUEST], ["training"], methods={"minutes": MINUTES, "seeds": [3], "n": 4})
        plan = Plan.of(read_plan(work))
        do_stages(work, *(job.name for job in all_jobs(plan) if job.stage != "prepare"))

    return made_once("compared", make)


def test_the_table_has_each_method(compared):
    table = pd.read_csv(compared / "comparison/comparison.csv")
    assert set(table["method"]) >= {"ddpm", GUEST} and set(table["seed"].dropna()) == {3}
    text = (compared / "comparison/table.md").read_text()
    assert "| 3D-DDPM |" in text and "| Cut-out" in text and "| real |" in text
    assert (compared / "comparison/figure.png").stat().st_size > 10_000


def test_each_training_had_the_steps_of_its_share_of_the_minutes(compared):
    folder = compared / "methods/ddpm/seed_3/diffusion"
    pace = read_json(folder / "pace.json")
    assert pace["minutes"] == pytest.approx(MINUTES * load_method("ddpm").trainings["diffusion"].share)
    steps = round(60 * pace["minutes"] / pace["step_seconds"])  # of one epoch
    assert pace["epoch_length"] == max(1, steps)
    assert read_json(folder / "metrics.json")["epoch"] == [1] and not (folder / "pilot").exists()


def test_a_segmentation_learns_from_the_pairs_of_the_further_method(compared):
    table = pd.read_csv(compared / "study/study.csv")
    assert set(table["pairs"].dropna()) >= {f"{GUEST}-training"}
    page = (compared / "report/report.html").read_text()
    assert "Cut-out" in page and f"{GUEST}-training" in page


def test_the_dice_that_the_pairs_bring_stands_beside_the_distances(compared):
    gains = pd.read_csv(compared / "study/gains.csv")
    gains = gains[(gains["metric"] == "dice") & (gains["class"] == "mean") & gains["gain"].notna()]
    table = pd.read_csv(compared / "comparison/comparison.csv")
    table = table[table["key"] == "gain"]
    assert list(table["method"]) == [GUEST] * len(gains) and not gains.empty, "the other has images without labels"
    assert list(table["metric"]) == [f"Dice, {row.regime} less {row.reference}" for row in gains.itertuples()]
    assert table["value"].tolist() == pytest.approx(gains["gain"].tolist())
    assert table["low"].tolist() == pytest.approx(gains["gain_low"].tolist())
    assert "| Dice, R+0.5S less R ↑ | 0 | " in (compared / "comparison/table.md").read_text()


def test_a_table_of_gains_that_somebody_broke_is_named(compared):
    path = compared / "study/gains.csv"
    whole = path.read_text()
    for broken in ("a;b\n1;2\n", whole.replace(",R,", ",R,x")):
        path.write_text(broken)
        with pytest.raises(UserError, match="gains.csv: is not as a study writes it"):
            read_results(compared, [GUEST], ["training"], [3])
    path.write_text(whole)
