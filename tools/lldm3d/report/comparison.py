"""The table of methods, from what their stages left: Markdown for reading, LaTeX for a manuscript."""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from lldm3d.errors import UserError
from lldm3d.evaluation.metrics import HIGHER, LOWER, Compared, Metric, format_number, read_metrics
from lldm3d.files import read_json
from lldm3d.methods.registry import DRAWN, PSEUDO_LABELLED, Method, load_method
from lldm3d.study.stages import pairs_slug
from lldm3d.study.tables import DASH, markdown_table, tex

PAIRED_METRICS = (Metric.PAIRED_PSNR, Metric.PAIRED_SSIM, Metric.PAIRED_MS_SSIM, Metric.PAIRED_LPIPS)
THROUGH_PLANE_METRICS = (
    Metric.THROUGH_PLANE_STEP,
    Metric.THROUGH_PLANE_FLICKER,
    Metric.THROUGH_PLANE_CLASS_MEANS,
)
SHOWN = {  # what the table has of an evaluation, and against which cases
    **dict.fromkeys((Metric.FID, Metric.KID, Metric.PRECISION, Metric.RECALL), Compared.SYNTHETIC_TRAINING),
    **dict.fromkeys((Metric.PAIRWISE_SSIM, Metric.PAIRWISE_MS_SSIM), Compared.AMONG_SYNTHETIC),
    **dict.fromkeys((Metric.SHAPE_PRECISION, Metric.SHAPE_RECALL), Compared.SYNTHETIC_TRAINING),
    **dict.fromkeys((Metric.DRAW_DIVERSITY, Metric.DRAW_LPIPS), Compared.SAME_LABEL_TWICE),
    Metric.ALIGNMENT_DICE_RATIO: Compared.PAIRS_TEST,
    Metric.ALIGNMENT_MISSED: Compared.LABEL_SEGMENTATION,
    **dict.fromkeys(THROUGH_PLANE_METRICS, Compared.PAIRS_TEST),
    Metric.NEAR_COPIES_SHARE: Compared.SYNTHETIC_TRAINING,
    **dict.fromkeys(PAIRED_METRICS, Compared.SAME_LABEL),
}
TEST = "test"  # the source of labels that no model has seen
SOURCES = {
    "drawn": "Labels that a model drew, or images alone",
    "training": "Labels of the training cases, warped",
    "unwarped": "Labels of the training cases as they are",
    "reconstructed": "Training cases through the image codec: what decoding can reach, and all of them copies",
    "ellipsoids": "Real training scans with new lesions, ellipsoids: all of them copies of patients",
    "real_shapes": "Real training scans with new lesions, shapes of real ones: all of them copies of patients",
    "lngen": "Real training scans with new lesions, drawn shapes: all of them copies of patients",
    "both": "Labels of the training cases, warped, and labels that a model drew",
    "refined": "Labels of the training cases, warped, and mended by networks that learnt from real data",
    "left_out": "Labels of the training cases, warped, without what networks that learnt from real data contradict",
    "pseudo_labelled": "Images that were drawn without labels, with those that networks that learnt from real data see",
    TEST: "Labels of the test cases",
}


@dataclass(frozen=True)
class Measure:
    """A column of the table: the key of a metric or of a cost, and what it is of."""

    key: str
    title: str
    unit: str = ""
    direction: str = ""  # what is good: lower, higher, or nothing that is
    class_name: str | None = None
    variant: str | None = None

    @property
    def heading(self) -> str:
        title = f"{self.title}, {self.class_name}" if self.class_name else self.title
        arrow = {LOWER: " ↓", HIGHER: " ↑"}.get(self.direction, "")
        return f"{title}{f' ({self.unit})' if self.unit else ''}{arrow}"


@dataclass(frozen=True)
class Result:
    """One figure of one training of a method, with labels of one source."""

    method: str
    source: str
    seed: int
    measure: Measure
    value: float
    interval: tuple[float, float] | None = None  # 95 %, of the draws of cases
    floor: float | None = None  # what real cases get
    n: int | None = None


@dataclass(frozen=True)
class SeedSummary:
    """One figure of a method over its seeds."""

    mean: float
    std: float | None  # None of one seed
    interval: tuple[float, float] | None  # the lowest and the highest bound of the seeds


SECONDS = Measure("seconds_per_volume", "seconds a volume", "s", LOWER)
MEMORY = Measure("memory_gb", "peak memory", "GB", LOWER)
PARAMETERS = Measure("parameters", "parameters", "M")
MINUTES = Measure("training_minutes", "training", "min")
COSTS = (SECONDS, MEMORY, PARAMETERS, MINUTES)
GAIN = "gain"  # of a study; not a metric of an evaluation


def evaluation_dir(work: Path, method: str, source: str, seed: int) -> Path:
    return work / "evaluation" / method / source / f"seed_{seed}"


def pairs_dir(work: Path, method: str, source: str, seed: int) -> Path:
    return work / "pairs" / method / source / f"seed_{seed}"


def evaluated_sources(work: Path, method: str, sources: Sequence[str], seed: int) -> list[str]:
    """Those of the sources for which the pairs of a method were evaluated: not all methods can take every label.

    Raises UserError where there is none.
    """
    found = [s for s in sources if (evaluation_dir(work, method, s, seed) / "metrics.json").is_file()]
    if not found:
        folder = evaluation_dir(work, method, sources[0], seed)
        raise UserError(f"{folder}: has no metrics.json; run the stage that evaluates {method} (`lldm3d run`)")
    return found


def read_results(work: Path, methods: Iterable[str], sources: Sequence[str], seeds: Sequence[int]) -> list[Result]:
    """All figures of the methods, by source, method and seed.

    Raises UserError where a method was not evaluated with any source, or a file is missing, broken or old.
    """
    results = []
    for method in methods:
        found = evaluated_sources(work, method, sources, seeds[0])
        results += [item for source in found for seed in seeds for item in training_results(work, method, source, seed)]
    return sorted(results, key=lambda result: sources.index(result.source))


def training_results(work: Path, method: str, source: str, seed: int) -> list[Result]:
    """The figures of one training of a method with one source: those of its evaluation, then its cost."""
    found = []
    for row in read_metrics(evaluation_dir(work, method, source, seed) / "metrics.json")["rows"]:
        if row["value"] is None or SHOWN.get(row["key"]) != row["compared"]:
            continue
        direction = row["direction"] if row["direction"] in (LOWER, HIGHER) else ""
        measure = Measure(row["key"], row["name"], row["unit"], direction, row["class"], row["variant"])
        interval = (row["interval_low"], row["interval_high"]) if row["interval_low"] is not None else None
        found.append(Result(method, source, seed, measure, row["value"], interval, row["floor"], row["n"]))
    cost = pairs_dir(work, method, source, seed) / "cost.json"  # none where drawing was killed after the last case
    drawing = read_json(cost) if cost.is_file() else {}
    curves = map(read_json, (work / "methods" / method / f"seed_{seed}").glob("*/metrics.json"))
    costs = {
        SECONDS: drawing and drawing["seconds"] / drawing["volumes"],
        MEMORY: drawing.get("memory_gb"),
        PARAMETERS: drawing["parameters"] / 1e6 if drawing.get("parameters") else None,
        MINUTES: sum(curve["seconds"][-1] for curve in curves if curve.get("seconds")) / 60,
    }
    found += gains_of(work, method, source, seed)
    return found + [Result(method, source, seed, measure, value) for measure, value in costs.items() if value]


def gains_of(work: Path, method: str, source: str, seed: int) -> list[Result]:
    """What a method's pairs bring to Dice, as far as a study of the work directory says, by its first network.

    Images without labels are judged by those that networks saw in them. Over all seeds of the segmentations.
    """
    path = work / "study/gains.csv"
    if not path.is_file():
        return []
    sources = {source, *([PSEUDO_LABELLED] if source == DRAWN and not load_method(method).has_labels else [])}
    slugs = {pairs_slug(f"{method}/{name}", [method]) for name in sources}
    slugs |= {method} if source == load_method(method).sources[0] else set()
    try:
        return [Result(method, source, seed, *gain, floor=0.0) for gain in read_gains(path, slugs)]
    except (KeyError, ValueError):  # of a table that somebody changed
        raise UserError(f"{path}: is not as a study writes it; delete it, and `lldm3d study` writes it again") from None


def read_gains(path: Path, slugs: set[str]) -> Iterator[tuple[Measure, float, tuple[float, float] | None]]:
    """Measure, value and interval of each gain in Dice by pairs of these names, of one network and one `until`."""
    rows = list(csv.DictReader(path.read_text().splitlines()))
    own = [row for row in rows if row["metric"] == "dice" and row["pairs"] in slugs and row["gain"]]
    for row in own:
        first = all(row[axis] == own[0][axis] for axis in ("until", "network"))
        of_all = row["class"] == "mean" or len({o["class"] for o in rows if o["task"] == row["task"]}) == 1
        if first and of_all:
            title = f"Dice, {row['regime']} less {row['reference']}"
            task = row["task"] if len({other["task"] for other in rows}) > 1 else None
            interval = (float(row["gain_low"]), float(row["gain_high"])) if row["gain_low"] else None
            yield Measure(GAIN, title, "", HIGHER, task, row["network"]), float(row["gain"]), interval


def over_seeds(results: Iterable[Result]) -> dict[Measure, dict[str, SeedSummary]]:
    """{measure: {method: figure}} of results of one source, both in their order, costs last."""
    grouped: dict[Measure, dict[str, list[Result]]] = {}
    for result in results:
        grouped.setdefault(result.measure, {}).setdefault(result.method, []).append(result)
    ordered = sorted(grouped, key=lambda measure: COSTS.index(measure) if measure in COSTS else -1)
    return {measure: {name: seed_summary(items) for name, items in grouped[measure].items()} for measure in ordered}


def seed_summary(items: list[Result]) -> SeedSummary:
    values = [item.value for item in items]
    bounds = [item.interval for item in items if item.interval]
    interval = (min(low for low, _ in bounds), max(high for _, high in bounds)) if bounds else None
    return SeedSummary(mean(values), stdev(values) if len(values) > 1 else None, interval)


def leads(measure: Measure, one: SeedSummary, other: SeedSummary) -> bool:
    """Whether `one` is better than `other` beyond the intervals of all seeds."""
    if not one.interval or not other.interval:
        return False
    if measure.direction == LOWER:
        return one.interval[1] < other.interval[0]
    return measure.direction == HIGHER and one.interval[0] > other.interval[1]


def comparison_notes(results: Sequence[Result], minutes: float | None) -> list[str]:
    """What a reader must know to read the tables."""
    seeds = ", ".join(map(str, sorted({result.seed for result in results})))
    ns = sorted({result.n for result in results if result.measure.key == Metric.FID})
    compared = (  # FID is not there without a network
        f" FID and KID are those of {' or '.join(map(str, ns))} cases on each side, and depend on that number: compare "
        "methods within a table, not tables with each other."
        if ns
        else ""
    )
    budget = (
        f"Each method had {minutes:g} minutes of training in all, on the same machine and real training cases. Its "
        "steps follow from a time measured beforehand; starting and validating come on top (training)."
        if minutes
        else "Each method was trained for the steps of its settings, not for an equal time (training)."
    )
    notes = [
        budget,
        f"Means over the seeds {seeds}, ± standard deviation over them. In brackets the 95 % interval of draws of "
        f"cases, from its lowest to its highest bound in any seed.{compared}",
        "Real: the same between halves of the real training cases; of PSNR and SSIM, what another real image gets. "
        "FID and KID without a further name are those of the features of the segmentation network that was trained on "
        "real data. Dice ratio: what that network finds of the label in a synthetic image, over the same in real test "
        "images. Share missed: of the labels of a class, those of which that network finds nothing. Slices: how much "
        f"grey values change from one to the next, over real test volumes. Shape: of the label maps. {DASH}: cannot be "
        "had, as the method makes no labels or takes none, or was not measured: the study takes the pairs that it is "
        "told, by itself the first of each method.",
    ]
    if networks := sorted({str(result.measure.variant) for result in results if result.measure.key == GAIN}):
        notes.append(
            f"Dice of one regime less another's: what the study's {networks[0]} gains by the pairs on real test cases. "
            "Images without labels get those that networks of R see in them. The interval is of draws of patients."
        )
    seen = {result.source == TEST for result in results if result.measure.key in PAIRED_METRICS}
    if len(seen) == 2:
        notes.append(
            "PSNR and SSIM are to the real image of the same label: for test labels they say how right an image is. "
            "Where those for labels of training cases (of warped ones to the equally warped scan) are much higher, a "
            "method repeats its patients."
        )
    if len({result.method for result in results}) > 1:
        notes.append(
            "A star marks a figure that the first method of its table beats beyond these intervals, a circle one that "
            "beats the first."
        )
    return notes


def tables_by_source(results: Sequence[Result], methods: Mapping[str, Method]) -> dict[str, list[list[str]]]:
    """{source: cells as text}: a head, what real data has, and a line for each method that takes these labels."""
    tables = {}
    for source in dict.fromkeys(result.source for result in results):
        own = [result for result in results if result.source == source]
        found, present = over_seeds(own), {result.method for result in own}
        floors = {result.measure: result.floor for result in own if result.floor is not None}
        head = ["", *(measure.heading for measure in found)]
        tables[source] = [head, ["real", *(format_number(floors.get(measure)) for measure in found)]]
        first = next(name for name in methods if name in present)
        for name in [name for name in methods if name in present]:
            texts = [figure_text(measure, by, name, first) for measure, by in found.items()]
            tables[source].append([methods[name].title, *texts])
    return tables


def figure_text(measure: Measure, by: dict[str, SeedSummary], name: str, first: str) -> str:
    """Mean, deviation, interval, and how it stands to the first method's."""
    if name not in by:
        return DASH
    figure = by[name]
    words = format_number(figure.mean) + (f" ± {format_number(figure.std)}" if figure.std else "")
    if figure.interval:
        words += f" [{format_number(figure.interval[0])}, {format_number(figure.interval[1])}]"
    if first in by and name != first:
        words += "*" if leads(measure, by[first], figure) else "°" if leads(measure, figure, by[first]) else ""
    return words


def source_title(source: str) -> str:
    return SOURCES.get(source, f"Labels of {source}")


def comparison_markdown(results: Sequence[Result], methods: Mapping[str, Method], minutes: float | None) -> str:
    """One table for each source of labels, a line for each figure and a column for each method."""
    parts = ["# Methods", *comparison_notes(results, minutes)]
    for source, table in tables_by_source(results, methods).items():
        head, *body = zip(*table, strict=True)
        lines = [head, ("---", *["---:"] * (len(head) - 1)), *body]
        parts += [f"## {source_title(source)}", markdown_table(lines)]
    parts.append("\n".join(f"- {method.title}: {method.source}" for method in methods.values()))
    return "\n\n".join(parts) + "\n"


def comparison_latex(results: Sequence[Result], methods: Mapping[str, Method], minutes: float | None) -> str:
    """The same tables for a preamble with `booktabs` and `graphicx`."""
    notes, tables = " ".join(comparison_notes(results, minutes)), []
    for source, table in tables_by_source(results, methods).items():
        head, *body = [" & ".join(map(tex, line)) + r" \\" for line in zip(*table, strict=True)]
        tables += [
            "\\begin{table}",
            f"\\caption{{{tex(f'{source_title(source)}. {notes}')}}}",
            "\\resizebox{\\textwidth}{!}{%",
            f"\\begin{{tabular}}{{l{'r' * (len(table) - 1)}}}",
            *("\\toprule", head, "\\midrule", *body, "\\bottomrule"),
            "\\end{tabular}}",
            "\\end{table}",
        ]
        notes = "Otherwise as in the table before."
    return "\n".join(["% needs \\usepackage{booktabs,graphicx}", *tables, ""])
