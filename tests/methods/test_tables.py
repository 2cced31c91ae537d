"""What the table of methods says of results."""

from statistics import stdev

import pytest

from lldm3d.methods.registry import Method, load_method
from lldm3d.report.comparison import Measure, Result, caption, cells, latex, leads, markdown

FID, RECALL = Measure("FID", "", "lower"), Measure("recall", "", "higher")


def results(measure: Measure, **values: list[tuple[float, float, float]]) -> list[Result]:
    """Results of methods: (value, low, high) of each seed."""
    return [
        Result(name, seed, measure, value, (low, high), floor=0.5, n=12)
        for name, items in values.items()
        for seed, (value, low, high) in enumerate(items)
    ]


RESULTS = [
    *results(FID, lldm=[(2, 1.5, 2.5), (3, 2.6, 3.4)], worse=[(6, 5, 7), (7, 6, 8)], alike=[(2, 1, 3), (9, 8, 10)]),
    *results(RECALL, lldm=[(0.5, 0.4, 0.6), (0.5, 0.4, 0.6)], worse=[(0.9, 0.8, 1), (0.9, 0.8, 1)]),
]
METHODS = {
    "lldm": load_method("lldm"),
    **{
        name: Method(name, "", name.title(), "a paper, 50 % of it", ("image",), ("image",), {}, {})
        for name in ("worse", "alike")
    },
}


def test_a_cell_is_the_mean_of_the_seeds_with_the_widest_interval():
    cell = cells(RESULTS)[FID]["lldm"]
    assert cell.mean == 2.5 and cell.std == pytest.approx(stdev([2, 3])) and cell.interval == (1.5, 3.4)


def test_to_lead_is_to_be_better_in_every_seed_s_interval():
    by, recall = cells(RESULTS)[FID], cells(RESULTS)[RECALL]
    assert leads(FID, by["lldm"], by["worse"]) and not leads(FID, by["worse"], by["lldm"])
    assert not leads(FID, by["lldm"], by["alike"])  # one of its seeds is as good
    assert leads(RECALL, recall["worse"], recall["lldm"])


def test_the_table_marks_who_leads_and_leaves_out_what_was_not_measured():
    rows = [line for line in markdown(RESULTS, METHODS, 4).splitlines() if line.startswith("| ")]
    head, _, real, ours, worse, alike = ([cell.strip() for cell in row.strip("|").split("|")] for row in rows)
    assert head[1:] == ["FID ↓", "recall ↑"] and real[1:] == ["0.500", "0.500"]
    assert ours[1] == "2.50 ± 0.707 [1.50, 3.40]"
    assert worse[1].endswith("*") and worse[2].endswith("°")
    assert alike[1].endswith("]") and alike[2] == "–"


def test_the_caption_tells_the_budget_the_seeds_and_the_number_of_cases():
    words = " ".join(caption(RESULTS, 4))
    assert "4 minutes" in words and "seeds 0, 1" in words and "12 cases" in words


def test_latex_escapes_what_it_must():
    text = latex(RESULTS, METHODS, 4)
    assert "↓" not in text and "95 \\%" in text and "$\\downarrow$" in text and text.count("\\\\") == 3
