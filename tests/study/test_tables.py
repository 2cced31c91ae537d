"""The tables say what the statistics say, for reading and for LaTeX."""

import re
import shutil
import subprocess
from dataclasses import replace

import pytest

from lldm3d.files import write_json
from lldm3d.study.figure import study_figure
from lldm3d.study.scores import read_mixed
from lldm3d.study.stages import REAL, Arm, SegmentStage
from lldm3d.study.statistics import ArmResult, Gain, Line
from lldm3d.study.tables import gain_table, markdown_table, study_latex, study_markdown, study_notes

SPACING = (1.0, 1.0, 2.5)
R, TENTH = Arm("R", REAL), Arm("0.1R", REAL)
MIXED, TENTH_MIXED, THEN = Arm("R+S", "lldm"), Arm("0.1R+S", "lldm"), Arm("S>R", "cond_ldm-training")


@pytest.fixture
def found() -> list[Line]:
    real = ArmResult(0.7334, 0.01, {0: 0.7234, 1: 0.7434}, 144)
    mixed = ArmResult(0.8152, None, {0: 0.8152}, 144)
    clear = Gain(R, 0.0818, (0.07, 0.09), 11.17, 1e-9, 144, {0: 0.09, 1: 0.07}, 1e-7)
    unclear = Gain(TENTH, -0.002, None, None, 0.4, 1, {0: -0.002}, 0.8)
    harm = Gain(R, -0.05, (-0.06, -0.04), -6.8, 1e-9, 144, {0: -0.04, 1: -0.06}, 1e-7)
    cells = {R: real, MIXED: mixed, THEN: mixed, TENTH: real, TENTH_MIXED: mixed}
    place = ("hcc", "HCC")
    return [
        Line("dice", "steps", "seg_unet", *place, cells, {MIXED: clear, TENTH_MIXED: unclear, THEN: harm}),
        Line("dice", "steps", "seg_vnet", *place, {R: real}, {}),
        Line("dice", "convergence", "seg_unet", *place, {R: real, MIXED: mixed}, {MIXED: unclear}),
        Line("hd95", "steps", "seg_unet", *place, {R: ArmResult(12.345, 1.0, {0: 12.3}, 100), MIXED: mixed},
             {MIXED: replace(clear, absolute=3.2, interval=(1.0, 4.0))}),
    ]  # fmt: skip


def test_markdown_holds_values_gains_and_stars(found):
    text = study_markdown(found, study_notes(found, SPACING))
    head, _, row = [line for line in text.splitlines() if line.startswith("|")][:3]
    assert head.count("|") == row.count("|")
    assert "| seg_unet R+S (lldm) |" in head and "| seg_vnet R |" in head
    assert "0.733 ± 0.010" in row and "0.815<br>+0.082 [+0.070, +0.090], +11.2 %*" in row
    assert "<br>−0.002 |" in row
    assert "tolerance of 2.5 mm" in text and "12.35 ± 1.00" in text


def test_a_harm_is_printed_as_harm(found):
    """Of the Dice and of a distance, for which more is worse, in all tables."""
    text = study_markdown(found, study_notes(found, SPACING))
    assert (
        "0.815<br>−0.050 [−0.060, −0.040], −6.8 %* (harm)" in text and "+3.20 [+1.00, +4.00], +11.2 %* (harm)" in text
    )
    assert study_latex(found, study_notes(found, SPACING)).count("* (harm)") == 2
    table = gain_table(found).query("metric == 'dice' and until == 'steps'").set_index("regime")
    assert table.loc["S>R", ["gain", "verdict"]].tolist() == [-0.05, "worse"]
    assert table.loc["R+S", "verdict"] == "better" and table.loc["0.1R+S", "verdict"] == "unclear"


def test_how_long_networks_were_trained_is_said_and_stands_in_tables_of_its_own(found):
    text = study_markdown(found, study_notes(found, SPACING))
    titles = [line for line in text.splitlines() if line.startswith("## ")]
    assert [title.rsplit("; ")[1] for title in titles] == [
        *("trained for equal steps", "trained to convergence", "trained for equal steps"),
    ]
    assert "S>R takes about half of them on S" in text and "until the loss of the real validation cases" in text
    assert "convergence" not in study_markdown(found[:2], study_notes(found[:2], SPACING))


ALL = {"label_fraction": 1.0, "labelled_only": False, "labelled_patients": 504, "unlabelled_patients": 0}
FEW = {"label_fraction": 0.1, "labelled_only": False, "seed": 0, "labelled_patients": 50, "unlabelled_patients": 454}


def saw(regime: str, pairs: str, limits: dict | None, seed: int = 0) -> tuple[SegmentStage, dict | None]:
    return SegmentStage("steps", "seg_unet", "hcc", regime, pairs, seed), limits


def test_the_notes_say_of_each_pairs_what_their_generator_saw(found):
    stages = [
        *(saw(regime, "lldm", ALL) for regime in ("0.1R+S", "R+S")),
        *(saw("0.1R+S", "tenth-lldm", FEW | {"seed": seed}, seed) for seed in (0, 1)),
        saw("S>0.1R", "alone-lldm", FEW | {"labelled_only": True, "unlabelled_patients": 0}),
        saw("R+S", "other", None),
    ]
    notes = study_markdown(found, study_notes(found, SPACING, saw=stages))
    assert "\n\nlldm: the generator saw the labels of all 504 training patients.\n" in notes
    few = "the generator saw the labels of 50 training patients (0.1R) and"
    assert notes.count(f"tenth-lldm: {few} the images of 454 others without labels.") == 1
    assert f"alone-lldm: {few} nothing of any others." in notes
    assert "other: the pairs do not say which real patients their generator saw." in notes
    assert notes.count("another site") == 1 and "\n\nlldm: in 0.1R+S the generator saw labels of patients" in notes
    assert "tenth-lldm" in study_latex(found, study_notes(found, SPACING, saw=stages))


@pytest.mark.parametrize(
    ("regime", "limits", "seed", "more"),
    [
        *[("0.1R+S", ALL, 0, True), ("S>0.1R", ALL, 0, True), ("R+S", ALL, 0, False), ("S", ALL, 0, False)],
        *[("0.1R+S", FEW, 0, False), ("0.25R+S", FEW, 0, False), ("0.05R+S", FEW, 0, True)],
        ("0.1R+S", FEW, 1, True),  # the tenth of another seed has other patients
    ],
)
def test_a_generator_that_saw_other_labels_than_the_network_is_told_as_such(found, regime, limits, seed, more):
    assert (
        "another site" in study_markdown(found, study_notes(found, SPACING, saw=[saw(regime, "lldm", limits, seed)]))
    ) == more


def test_seeds_that_were_trained_with_other_settings_are_named(found, tmp_path):
    for seed, settings in enumerate(("a", "a", "b")):
        for regime, noted in (("R", "a"), ("0.1R", settings)):
            stage = tmp_path / f"segment/steps/seg_unet/multi/{regime}/real/seed_{seed}"
            stage.mkdir(parents=True)
            (stage / "metrics.csv").touch()
            record = tmp_path / f".done/{stage.relative_to(tmp_path)}.json"
            write_json(record, {"settings": noted, "inputs": {"dataset/dataset.json": "c"}})
    assert (mixed := read_mixed(tmp_path)) == ["steps/seg_unet/multi/0.1R/real"]
    assert "seeds of steps/seg_unet/multi/0.1R/real were trained with" in study_notes(found, SPACING, mixed=mixed)[-1]


def test_a_table_for_programs_has_a_row_for_each_arm(found):
    table = gain_table(found)
    assert len(table) == 10 and table["gain"].notna().sum() == 5
    row = table[(table["regime"] == "S>R")].iloc[0]
    assert (row["until"], row["pairs"], row["reference"], row["gain_patients"]) == (
        *("steps", "cond_ldm-training", "R", 144),
    )


def test_latex_has_as_many_cells_as_columns_and_no_bare_signs(found):
    text = study_latex(found, study_notes(found, SPACING))
    for table in text.split("\\begin{table}")[1:]:
        columns = len(re.search(r"\\begin{tabular}{(l+r+)}", table)[1])
        rows = re.findall(r"^(?:hcc|Task| ?) ?&.*&.*\\\\$", table, re.MULTILINE)
        assert len(rows) == 4 and all(row.count("&") == columns - 1 for row in rows)
    assert not re.search(r"(?<!\\)[_#±−–]", text) and "seg\\_unet" in text and "cond\\_ldm-training" in text
    assert "+11.2\\,\\%" in text


@pytest.mark.skipif(
    not shutil.which("pdflatex") or subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True).returncode,
    reason="no LaTeX with booktabs (Debian: texlive-latex-base, texlive-latex-recommended)",
)
def test_latex_compiles(found, tmp_path):
    odd = [replace(line, class_name="T2 ^ 50 % {a_b} ~ #1 & $x \\\\ y", task="<5 mm") for line in found]
    text = study_latex([*found, *odd], study_notes([*found, *odd], SPACING))
    document = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n" + text + "\\end{document}\n"
    (tmp_path / "table.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]


def test_the_figure_has_a_column_for_each_task_and_length_and_names_each_arm(found):
    dice, converged, gains, _ = study_figure(found).axes
    assert (dice.get_title(), converged.get_title()) == ("hcc, equal steps", "hcc, to convergence")
    assert [label.get_text() for label in gains.get_xticklabels()] == ["lldm", "cond_ldm-training", "lldm"]
    assert [text.get_text() for text in gains.texts] == ["R+S", "S>R", "0.1R+S"]
    assert [text.get_text() for text in dice.texts] == ["R", "R+S", "S>R", "0.1R", "0.1R+S"]


def test_a_class_named_like_a_tag_is_no_tag_in_markdown():
    assert markdown_table([["<img src=x onerror=alert(1)>|", "0.5<br>+0.1"]]) == (
        "| &lt;img src=x onerror=alert(1)>\\| | 0.5<br>+0.1 |"
    )
