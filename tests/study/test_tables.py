"""The tables say what the statistics say, for reading and for LaTeX."""

import re
import shutil
import subprocess
from dataclasses import replace

import pytest

from lldm3d.study.figure import figure
from lldm3d.study.statistics import Cell, Gain, Line
from lldm3d.study.tables import latex, markdown

SPACING = (1.0, 1.0, 2.5)


@pytest.fixture
def found() -> list[Line]:
    real = Cell(0.7334, 0.01, {0: 0.7234, 1: 0.7434}, 144)
    mixed = Cell(0.8152, None, {0: 0.8152}, 144)
    clear = Gain("R", 0.0818, (0.07, 0.09), 11.17, 1e-9, 144, {0: 0.09, 1: 0.07}, 1e-7)
    unclear = Gain("0.1R", -0.002, None, None, 0.4, 1, {0: -0.002}, 0.8)
    cells = {"R": real, "R+S": mixed, "0.1R": real, "0.1R+S": mixed}
    return [
        Line("dice", "seg_unet", "hcc", "HCC", cells, {"R+S": clear, "0.1R+S": unclear}),
        Line("dice", "seg_vnet", "hcc", "HCC", {"R": real}, {}),
        Line("hd95", "seg_unet", "hcc", "HCC", {"R": Cell(12.345, 1.0, {0: 12.3}, 100)}, {}),
    ]


def test_markdown_holds_values_gains_and_stars(found):
    text = markdown(found, SPACING)
    head, _, row = [line for line in text.splitlines() if line.startswith("|")][:3]
    assert head.count("|") == row.count("|")
    assert "seg_unet R+S" in head and "seg_vnet R" in head
    assert "0.733 ± 0.010" in row and "0.815<br>+0.082 [+0.070, +0.090], +11.2 %*" in row
    assert "<br>−0.002 |" in row
    assert "tolerance of 2.5 mm" in text and "12.35 ± 1.00" in text


def test_the_caption_tells_what_scarcity_means_only_where_there_is_such_a_regime(found):
    assert "another site" in markdown(found, SPACING)
    assert "another site" not in markdown(found[1:], SPACING)


def test_latex_has_as_many_cells_as_columns_and_no_bare_signs(found):
    text = latex(found, SPACING)
    for table in text.split("\\begin{table}")[1:]:
        columns = len(re.search(r"\\begin{tabular}{(l+r+)}", table)[1])
        rows = re.findall(r"^(?:hcc| &).*&.*\\\\", table, re.MULTILINE)
        bodies = [row for row in rows if "multicolumn" not in row]
        assert bodies and all(row.count("&") == columns - 1 for row in bodies)
    assert not re.search(r"(?<!\\)[_#±−–]", text) and "seg\\_unet" in text
    assert "+11.2\\,\\%" in text


@pytest.mark.skipif(
    not shutil.which("pdflatex") or subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True).returncode,
    reason="no LaTeX with booktabs (Debian: texlive-latex-base, texlive-latex-recommended)",
)
def test_latex_compiles(found, tmp_path):
    odd = [replace(line, class_name="T2 ^ 50 % {a_b} ~ #1 & $x \\\\ y", task="<5 mm") for line in found]
    text = latex([*found, *odd], SPACING)
    document = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n" + text + "\\end{document}\n"
    (tmp_path / "table.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]


def test_the_figure_has_a_column_for_each_task_and_a_mark_for_each_gain(found):
    dice, gains = figure(found).axes
    assert dice.get_title() == "hcc"
    assert [label.get_text() for label in gains.get_xticklabels()] == ["R+S", "0.1R+S"]
    assert [label.get_text() for label in dice.get_xticklabels()] == ["R", "R+S", "0.1R", "0.1R+S"]
