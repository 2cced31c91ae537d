"""Write the study of a work directory."""

import csv
from collections.abc import Iterable
from pathlib import Path

from lldm3d.agreement import METRICS
from lldm3d.data.dataset import load_schema
from lldm3d.errors import UserError
from lldm3d.evaluation import pictures
from lldm3d.files import whole
from lldm3d.study.figure import figure
from lldm3d.study.results import Score, read_scores
from lldm3d.study.statistics import Line, lines
from lldm3d.study.tables import latex, markdown

SCORES = ("network", "task", "regime", "seed", "case", "patient", "class", "metric", "value", "unit")
GAINS = (
    *("metric", "unit", "network", "task", "class", "regime", "seeds", "patients", "mean", "std", "reference"),
    *("gain", "gain_low", "gain_high", "gain_percent", "gain_patients", "gain_seeds", "p", "p_holm", "clear"),
)


def write(work: Path) -> None:
    """Write W/study: `study.csv`, `gains.csv`, `table.md`, `table.tex` and `figure.png`, of all that was trained.

    Raises UserError where no segmentation was tested, or a table of one is broken.
    """
    scores, folder = read_scores(work), work / "study"
    if not scores:
        raise UserError(f"{work}/segment: no segmentation was tested yet; train them with `lldm3d study`")
    found, spacing = lines(scores), load_schema(work / "dataset").spacing
    write_rows(folder / "study.csv", SCORES, score_rows(scores))
    write_rows(folder / "gains.csv", GAINS, gain_rows(found))
    for name, text in (("table.md", markdown(found, spacing)), ("table.tex", latex(found, spacing))):
        with whole(folder / name) as temporary:
            temporary.write_text(text)
    pictures.save(figure(found), folder / "figure.png")


def score_rows(scores: Iterable[Score]) -> Iterable[dict]:
    for score in scores:
        yield {**vars(score), "class": score.class_name, "unit": METRICS[score.metric].unit}


def gain_rows(found: Iterable[Line]) -> Iterable[dict]:
    """One row for each regime of each line, with its gain where it has a reference."""
    for line in found:
        common = {"metric": line.metric, "unit": METRICS[line.metric].unit, "network": line.network, "task": line.task}
        for regime, cell in line.cells.items():
            row = {**common, "class": line.class_name, "regime": regime, "mean": cell.mean, "std": cell.std}
            row |= {"seeds": len(cell.seeds), "patients": cell.patients}
            if gain := line.gains.get(regime):
                low, high = gain.interval or (None, None)
                row |= {"reference": gain.reference, "gain": gain.absolute, "gain_low": low, "gain_high": high}
                row |= {"gain_percent": gain.relative, "gain_patients": gain.patients, "gain_seeds": len(gain.seeds)}
                row |= {"p": gain.p, "p_holm": gain.p_holm, "clear": gain.clear}
            yield row


def write_rows(path: Path, columns: Iterable[str], rows: Iterable[dict]) -> None:
    """Write rows as CSV; what is None or absent stays empty."""
    with whole(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, list(columns), extrasaction="ignore", restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
