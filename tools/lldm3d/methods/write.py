"""Write the comparison of methods of a work directory."""

from pathlib import Path

from lldm3d.evaluation import pictures
from lldm3d.files import whole
from lldm3d.methods.figure import quality, samples
from lldm3d.methods.results import Result, methods_of, read_results
from lldm3d.methods.tables import latex, markdown
from lldm3d.study.write import write_rows

COLUMNS = ("method", "seed", "metric", "unit", "direction", "value", "low", "high", "floor", "n")


def write(work: Path, names: list[str], seeds: list[int], minutes: float) -> None:
    """Write W/comparison: `comparison.csv` (every figure), `table.md`, `table.tex`, `quality.png`, `figure.png`.

    Raises UserError where what a method's stages leave is missing or broken.
    """
    methods, folder = methods_of(names), work / "comparison"
    results = read_results(work, names, seeds)
    for name, text in (("table.md", markdown), ("table.tex", latex)):
        with whole(folder / name) as temporary:
            temporary.write_text(text(results, methods, minutes))
    pictures.save(quality(results, methods), folder / "quality.png")
    pictures.save(samples(work, methods, seeds[0]), folder / "figure.png")
    write_rows(folder / "comparison.csv", COLUMNS, map(line, results))


def line(result: Result) -> dict:
    """A result as a row of `comparison.csv`."""
    low, high = result.interval or (None, None)
    measure = {"metric": result.measure.title, "unit": result.measure.unit, "direction": result.measure.direction}
    return {**vars(result), **measure, "low": low, "high": high}
