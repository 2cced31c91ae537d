"""What the tables of methods say of results."""

from statistics import stdev

import pytest

from lldm3d.errors import UserError
from lldm3d.methods.registry import load_method
from lldm3d.report.comparison import (
    Measure,
    Result,
    comparison_latex,
    comparison_markdown,
    comparison_notes,
    leads,
    over_seeds,
    read_results,
)

FID, RECALL = Measure("fid", "FID", "", "lower"), Measure("recall", "recall", "", "higher")
DICE = Measure("alignment_dice_ratio", "Dice ratio", "", "higher", "vessel")
PSNR = Measure("paired_psnr", "PSNR", "dB", "higher")


def results(measure: Measure, source: str = "drawn", **values: list[tuple[float, float, float]]) -> list[Result]:
    """Results of methods: (value, low, high) of each seed."""
    return [
        Result(name, source, seed, measure, value, (low, high), floor=0.5, n=12)
        for name, items in values.items()
        for seed, (value, low, high) in enumerate(items)
    ]


RESULTS = [
    *results(FID, lldm=[(2, 1.5, 2.5), (3, 2.6, 3.4)], ddpm=[(6, 5, 7), (7, 6, 8)], ha_gan=[(2, 1, 3), (9, 8, 10)]),
    *results(RECALL, lldm=[(0.5, 0.4, 0.6), (0.5, 0.4, 0.6)], ddpm=[(0.9, 0.8, 1), (0.9, 0.8, 1)]),
    *results(DICE, lldm=[(0.9, 0.8, 1.0)]),
    *results(PSNR, "test", lldm=[(21, 20, 22)]),
]
METHODS = {name: load_method(name) for name in ("lldm", "ddpm", "ha_gan")}


def lines_of(text: str) -> dict[str, list[str]]:
    """{heading: the cells of real and each method} of a table."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "]
    return {head: cells for head, *cells in rows}


def test_a_figure_is_the_mean_of_the_seeds_with_the_widest_interval():
    figure = over_seeds(RESULTS)[FID]["lldm"]
    assert figure.mean == 2.5 and figure.std == pytest.approx(stdev([2, 3])) and figure.interval == (1.5, 3.4)


def test_to_lead_is_to_be_better_in_every_seed_s_interval():
    by, recall = over_seeds(RESULTS)[FID], over_seeds(RESULTS)[RECALL]
    assert leads(FID, by["lldm"], by["ddpm"]) and not leads(FID, by["ddpm"], by["lldm"])
    assert not leads(FID, by["lldm"], by["ha_gan"])  # one of its seeds is as good
    assert leads(RECALL, recall["ddpm"], recall["lldm"])


def test_the_table_marks_who_leads_and_has_a_dash_for_what_cannot_be_had():
    drawn, test = (lines_of(part) for part in comparison_markdown(RESULTS, METHODS, 4).split("\n## ")[1:])
    real, ours, ddpm, ha_gan = drawn["FID ↓"]
    assert real == "0.500" and ours == "2.50 ± 0.707 [1.50, 3.40]"
    assert ddpm.endswith("*") and drawn["recall ↑"][2].endswith("°")
    assert ha_gan.endswith("]") and drawn["recall ↑"][3] == "–"
    assert drawn["Dice ratio, vessel ↑"][1:] == ["0.900 [0.800, 1]", "–", "–"]
    assert test["PSNR (dB) ↑"] == ["0.500", "21 [20, 22]"]  # the others take no labels


def test_the_notes_tell_the_budget_the_seeds_and_the_number_of_cases():
    words = " ".join(comparison_notes(RESULTS, 4))
    assert "4 minutes" in words and "seeds 0, 1" in words and "12 cases" in words and "A star" in words
    alone = " ".join(comparison_notes([result for result in RESULTS if result.method == "lldm"], None))
    assert "A star" not in alone and "not for an equal time" in alone


def test_latex_escapes_what_it_must():
    text = comparison_latex(RESULTS, METHODS, 4)
    assert "↓" not in text and "95 \\%" in text and "$\\downarrow$" in text
    assert text.count("\\begin{table}") == 2 and text.count("\\\\") == 6


def test_a_method_that_was_not_evaluated_is_named(tmp_path):
    with pytest.raises(UserError, match="evaluation/ddpm/drawn/seed_0: has no metrics.json; run the stage"):
        read_results(tmp_path, ["ddpm"], ["drawn"], [0])
