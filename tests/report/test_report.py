import csv
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from lldm3d.bundle import bundle_path
from lldm3d.errors import UserError
from lldm3d.evaluation.evaluate import evaluate
from lldm3d.evaluation.metrics import number
from lldm3d.files import write_json
from lldm3d.report.write import report
from lldm3d.study.scores import HEADER
from lldm3d.study.stages import REAL, SegmentStage

from ..evaluation.toys import write_dataset, write_segmenter

SEGMENTER = SegmentStage("steps", "seg_unet", "multi", "R", REAL, 0).path
CASES = {"training": [0, 1, 2, 3], "validation": [10, 11], "test": [20, 21]}


class Checker(HTMLParser):
    """Collects what a page asks for, and fails on tags that do not match."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.sources = [], []
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.sources += [value for key, value in attrs if key in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A work directory as a run leaves it, with a little of everything."""
    work = tmp_path_factory.mktemp("work")
    write_dataset(work / "dataset", CASES)
    write_dataset(work / "synthetic", {"training": [30, 31, 32]})
    write_segmenter(work / SEGMENTER)
    for regime, dice in (("R", 0.7), ("R+S", 0.8)):
        stage = SegmentStage("steps", "seg_unet", "multi", regime, "lldm" if "S" in regime else REAL, 0)
        path = work / stage.path / "metrics.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [f"{case},{case},{name},{dice},3,,,," for case in "abc" for name in ("liver", "vessel", "tumour")]
        path.write_text("\n".join([",".join(HEADER), *rows]) + "\n")
    write_json(work / "autoencoder_image/metrics.json", {"psnr": 27.125, "ssim": 0.875, "n": 2, "loss": [1.0, 0.5]})
    write_json(work / "image_ldm/metrics.json", {"loss": [1.0, 0.5, 0.25], "val_loss": [0.75]})
    command = f"$ cd {bundle_path('image_ldm')} && {sys.executable} -m monai.bundle run training --x {work}/o.yaml"
    (work / "image_ldm/log.txt").write_text(command + "\nepoch 1\n")
    run = {"profile": "demo", "data": None, "settings": {"gates": {"image_psnr": 20, "label_dice": 0.7}}}
    (work / "run.yaml").write_text(yaml.safe_dump(run))
    evaluate(work / "dataset", work / "synthetic", work / "evaluation", work / SEGMENTER)
    report(work)
    return work


@pytest.fixture(scope="module")
def html(work) -> str:
    return (work / "report/report.html").read_text()


def test_the_report_is_one_whole_file(html):
    sources = Checker(html).sources
    assert len(sources) == 11 and all(source.startswith("data:image/") for source in sources)
    assert "<script" not in html and "url(" not in html and "://" not in html
    assert len(html) < 6e6


def test_the_report_holds_the_numbers_of_the_tables(work, html):
    with open(work / "report/tables.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["section"] for row in rows} == {
        "utility",
        "fidelity",
        "diversity",
        "labels",
        "alignment",
        "copies",
        "gate",
    }
    text = re.sub(r"data:image[^\"]+", "", html)
    for row in rows:
        if row["value"]:
            assert number(float(row["value"])).lstrip("+−") in text, row


def test_what_was_run_is_told(html):
    for words in (
        "Toy livers",
        "demo",
        "simulated phantom",
        "python -m monai.bundle run training",
        "27.1 dB",
        "passed",
    ):
        assert words in html
    assert "+0.100" in html and "+14.3 %" in html  # 0.8 over 0.7


def test_a_report_can_be_mailed_without_telling_where_it_was_made(work, html):
    assert "cd bundles/image_ldm" in html and "--x W/o.yaml" in html
    assert str(work) not in html and sys.prefix not in html and str(bundle_path("image_ldm")) not in html


def test_what_is_missing_is_told(html, tmp_path):
    assert "the figures of the stage label_ldm: label_ldm/metrics.json" in html
    report(tmp_path)
    empty = (tmp_path / "report/report.html").read_text()
    Checker(empty)
    for words in (
        "the synthetic pairs (stage generate)",
        "Not evaluated yet",
        "No segmentation network",
        "Not measured",
    ):
        assert words in empty


def test_no_work_directory_and_no_overwriting(work, tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        report(tmp_path / "nowhere")
    with pytest.raises(UserError, match="exists already"):
        report(work, overwrite=False)
