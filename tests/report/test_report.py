import csv
import re
import shlex
import shutil
import sys
from html.parser import HTMLParser

import pytest
import torch
from matplotlib.figure import Figure

from lldm3d import plots
from lldm3d.bundle import bundle_path
from lldm3d.errors import UserError
from lldm3d.evaluation.metrics import Metric, format_number, read_metrics
from lldm3d.files import read_json, write_json
from lldm3d.report import pictures
from lldm3d.report.comparison_figure import write_comparison
from lldm3d.report.summary import answers, next_step
from lldm3d.report.trainings import commands
from lldm3d.report.write import report, with_code
from lldm3d.study.scores import HEADER
from lldm3d.study.stages import REAL, Arm, SegmentStage
from lldm3d.study.statistics import ArmResult, Gain, Line
from lldm3d.study.tables import markdown_table


class Checker(HTMLParser):
    """Collects what a page asks for, and fails on tags that do not match."""

    VOID = ("meta", "img", "br", "link", "input")

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
def html(work) -> str:
    return (work / "report/report.html").read_text()


def without_scripts(html: str) -> str:
    """The page as it is read; what its scripts ask for is tested in a browser."""
    return re.sub(r"<script.*?</script>|<details><summary>Licences.*?</details>", "", html, flags=re.S)


def test_the_report_is_one_whole_file(html):
    Checker(html)
    page = without_scripts(html)
    images = [source for source in Checker(page).sources if not source.startswith("#")]
    assert len(images) == 13 and all(source.startswith("data:image/") for source in images)
    assert "<script" not in page and "url(" not in page and "://" not in page
    assert len(html) < 12e6


def test_each_answer_leads_to_its_section(html):
    places = re.findall('href="#(.+?)"', html)
    assert len(places) == 4 and all(html.count(f'<section id="{place}">') == 1 for place in places)


def test_a_command_in_a_sentence_is_code_and_names_are_text():
    assert with_code("use `lldm3d study` < 5") == "use <code>lldm3d study</code> &lt; 5"


def test_a_sentence_says_what_to_do_next(html):
    """Two trainings of one seed, on three patients."""
    assert re.search(r"What to do next:</b> it cannot be told from so few test cases: prepare the data with 5", html)


def test_the_report_holds_the_numbers_of_the_tables(work, html):
    with open(work / "report/tables.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["group"] for row in rows} == {
        "utility",
        "fidelity",
        "diversity",
        "labels",
        "alignment",
        "slices",
        "copies",
        "gate",
    }
    text = re.sub(r"data:image[^\"]+", "", without_scripts(html))
    for row in rows:
        if row["value"]:
            assert format_number(float(row["value"])).lstrip("+−") in text, row


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


@pytest.mark.parametrize("place", ["/old/W", "/old/Jane Doe/W"])
def test_nor_where_a_work_directory_was_before_it_was_moved(tmp_path, place):
    (log := tmp_path / "methods/lldm/seed_0/image_ldm/log.txt").parent.mkdir(parents=True)
    lines = [
        f"$ cd {shlex.quote(f'{root}2/bundles/image_ldm')} && {shlex.quote(f'{root}/bin/python3')} -m x "
        f"\"['{root}/methods/lldm/seed_0/image_ldm/o.yaml']\""
        for root in (place, f"{place}/again")
    ]
    log.write_text("\n".join(lines))
    [found] = commands(tmp_path).values()
    assert "old" not in found and "Doe" not in found and "again" not in found
    assert "bundles/image_ldm" in found and "python -m x \"['W/methods/lldm/seed_0/image_ldm/o.yaml']\"" in found


def test_what_is_missing_is_told(html, tmp_path):
    assert "Not in this report" not in html
    with pytest.raises(UserError, match="holds nothing that `lldm3d run`"):
        report(tmp_path)
    assert not (tmp_path / "report").exists()
    (tmp_path / "pairs").mkdir()
    report(tmp_path)
    empty = (tmp_path / "report/report.html").read_text()
    Checker(empty)
    for words in (
        "synthetic pairs: pairs/lldm/drawn/seed_0/dataset.json",
        "Not evaluated yet",
        "No segmentation network",
        "Not measured",
    ):
        assert words in empty


def test_the_ladder_is_shown_where_it_was_climbed(html, tmp_path):
    assert "Where is Dice lost?" not in html
    for regime, pairs, dice in (("R", REAL, 0.9), ("S", "lldm-reconstructed", 0.8), ("S", "lldm", 0.65)):
        path = tmp_path / SegmentStage("convergence", "seg_unet", "multi", regime, pairs, 0).path / "metrics.csv"
        path.parent.mkdir(parents=True)
        path.write_text("\n".join([",".join(HEADER), *(f"{case},{case},liver,{dice},3,,,," for case in "ab")]) + "\n")
        torch.save({"network": {}, "stopped": regime == "R"}, path.with_name("state.pt"))
    report(tmp_path)
    climbed = (tmp_path / "report/report.html").read_text()
    Checker(climbed)
    words = climbed.split("Where is Dice lost?")[1]
    for text in ("image codec", "−0.100 [", "image generator + warp + label generator", "−0.150 ["):
        assert text in words
    assert "2 of 3 trainings to convergence ended at 5 times the equal steps" in words
    with open(tmp_path / "report/tables.csv", newline="") as file:
        steps = [row for row in csv.DictReader(file) if row["group"] == "ladder"]
    assert [row["between"] for row in steps] == ["lldm: reconstructed minus real", "lldm: drawn minus reconstructed"]


def test_the_methods_are_compared_by_all_that_they_have(work, html):
    drawn, test = re.findall(
        r"<caption>Labels (?:that a model drew, or images alone|of the test cases)</caption>.*?</table>", html, re.S
    )
    cells = {row[0]: row[1:] for row in (re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", r) for r in drawn.split("<tr>")[1:])}
    for heading in ("Dice ratio, liver ↑", "KID ↓", "share of near copies ↓"):
        assert heading in cells, cells.keys()
    assert cells["Dice ratio, liver ↑"][2] == "–" and cells["Dice ratio, liver ↑"][1] != "–"  # ddpm has no labels
    assert cells["seconds a volume (s) ↓"][1:] == ["3", "3"] and cells["training (min)"][1:] == ["1.50", "1.50"]
    assert "PSNR (dB)" in test and "SSIM ↑" in test and "PSNR (dB)" not in drawn
    assert {path.name for path in (work / "comparison").iterdir()} == {
        *("comparison.csv", "comparison.json", "table.md", "table.tex", "quality.png", "figure.png")
    }


def test_the_control_answers_nothing_and_stands_beside_the_pairs_that_have_to_beat_it():
    """Real scans, warped, help without any synthetic one."""
    real, cell = Arm("R", REAL), ArmResult(0.8, 0.01, {0: 0.79, 1: 0.81}, 40)
    nothing = Gain(real, 0.0, (-0.01, 0.01), 0.0, 0.9, 40, {0: 0.01, 1: -0.01})
    helps = Gain(real, 0.05, (0.04, 0.06), 6.0, 1e-9, 40, {0: 0.05, 1: 0.05}, 1e-8)
    drawn, control = Arm("4xR+4S", "haar_ldm-training"), Arm("4xR+4S", "warped")
    line = Line("dice", "steps", "seg_unet", "multi", "mean", dict.fromkeys((real, drawn, control), cell),
                {drawn: nothing, control: helps})  # fmt: skip
    found = [item for item in answers([], [line]) if "improve" in item["question"]]
    assert [item["answer"] for item in found] == ["No clear difference"]
    assert "real scans, warped as the labels are, bring +0.05" in found[0]["detail"]
    assert "it cannot be told" in next_step([line])["words"]
    line.gains[drawn] = helps
    assert "copies of patients" in next_step([line], copied=True)["words"]
    assert "copies" not in next_step([line])["words"]


def test_one_method_is_compared_with_real_data_alone(work, tmp_path):
    for name in ("dataset", "pairs", "evaluation", "methods"):
        (tmp_path / name).symlink_to(work / name)
    write_comparison(tmp_path, ["lldm"], ["drawn"], [0], None)
    table = (tmp_path / "comparison/table.md").read_text()
    assert "FID ↓" in table and "*" not in table.split("## ")[1] and "A star" not in table


def test_the_report_stays_whole_when_every_metric_is_reworded(work, html, tmp_path, monkeypatch):
    """Figures are found by their keys: other words change nothing but the words."""
    for name in ("dataset", "pairs", "segment", "methods", "comparison", "run.yaml"):
        (tmp_path / name).symlink_to(work / name)
    monkeypatch.setattr(pictures, "embed_figure", lambda *arguments, **options: "data:image/png;base64,")
    for metric in Metric:
        monkeypatch.setattr(metric, "title", f"metric no. {list(Metric).index(metric)}")
    for path in work.glob("evaluation/*/*/seed_*/metrics.json"):
        folder = tmp_path / path.parent.relative_to(work)
        content = read_metrics(path)
        for row in content["rows"]:
            row["name"], row["between"] = Metric(row["key"]).title, "reworded"
        write_json(folder / "metrics.json", content)
        if (path.parent / "figures").is_dir():
            (folder / "figures").symlink_to(path.parent / "figures")
    report(tmp_path)
    reworded = (tmp_path / "report/report.html").read_text()
    for tag in ("<table", "<tr", "<img", 'class="answer'):
        assert reworded.count(tag) == html.count(tag)
    answers = [re.findall(r'<div class="answer \w+">.*?</b>', text) for text in (html, reworded)]
    assert answers[0] == answers[1] and len(answers[0]) == 4 and "Not measured" not in "".join(answers[0])
    assert "FID ↓" not in reworded


def test_no_work_directory_and_no_overwriting(work, tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        report(tmp_path / "nowhere")
    with pytest.raises(UserError, match="exists already"):
        report(work, overwrite=False)


@pytest.mark.parametrize("name", ["$\\frac$ and $x", "50 % | <b>#1</b>", "@a{b}_c"])
def test_a_class_may_be_named_like_a_formula_or_a_table(tmp_path, name):
    figure = Figure()
    figure.subplots().set_title(name)
    plots.save(figure, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000
    assert len(re.split(r"(?<!\\)\|", markdown_table([["task", name]]))) == 4


def test_a_report_of_many_classes_is_written(work, tmp_path):
    shutil.copytree(work, tmp_path / "many")
    path = tmp_path / "many/dataset/dataset.json"
    labels = {str(number): f"organ {number}" for number in range(4, 12)}
    write_json(path, read_json(path) | {"labels": read_json(path)["labels"] | labels})
    report(tmp_path / "many", overwrite=True)
    html = (tmp_path / "many/report/report.html").read_text()
    assert "organ 11" in html and 'id="canvas-real"' in html
