"""What each regime reaches, and what the synthetic pairs add: means, intervals and tests."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import wilcoxon

from lldm3d.agreement import METRICS
from lldm3d.data.regimes import parse_regime
from lldm3d.statistics import bootstrap_interval, holm_corrected
from lldm3d.study.scores import MEAN, Results, Score, grouped

LEVEL = 0.05  # of the corrected p below which a gain is called one


@dataclass(frozen=True)
class Cell:
    """One regime: the mean over seeds of the mean over patients, and its standard deviation over seeds."""

    mean: float
    std: float | None  # None with a single seed
    seeds: dict[int, float]  # each seed's mean over patients
    patients: int


@dataclass(frozen=True)
class Gain:
    """A regime minus its reference, over patients and seeds that both have."""

    reference: str
    absolute: float
    interval: tuple[float, float] | None  # 95 %: paired bootstrap over patients; None below two
    relative: float | None  # % of the reference
    p: float  # Wilcoxon's signed-rank test of the patients' differences, each the mean over seeds
    patients: int
    seeds: dict[int, float]  # each seed's own gain
    p_holm: float = 1.0  # after Holm's correction over all gains of the metric

    @property
    def clear(self) -> bool:
        """Whether it holds for other patients (corrected p) and other trainings (the same sign in two seeds or more).

        The test alone knows of patients only: two trainings that differ by chance differ in nearly every patient.
        """
        same_sign = len({value > 0 for value in self.seeds.values()}) == 1
        return self.p_holm < LEVEL and len(self.seeds) > 1 and same_sign


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    metric: str
    network: str
    task: str
    class_name: str  # or `mean`, over the classes
    cells: dict[str, Cell]  # of each regime
    gains: dict[str, Gain]  # of the regimes with synthetic pairs whose reference was trained

    def better(self, regime: str) -> bool:
        """Whether the gain goes the right way, down for distances."""
        return (self.gains[regime].absolute > 0) == METRICS[self.metric].higher_is_better


def lines(scores: Iterable[Score]) -> list[Line]:
    """All lines: by metric, network, task and class, with `mean` last."""
    groups = grouped(scores)
    places = sorted(groups, key=lambda place: (list(METRICS).index(place[0]), *place[1:3], place[3] == MEAN))
    found = [line(*place, groups[place]) for place in places]
    return [new for metric in METRICS for new in corrected([old for old in found if old.metric == metric])]


def line(metric: str, network: str, task: str, name: str, regimes: dict[str, Results]) -> Line:
    ordered = {regime: regimes[regime] for regime in sorted(regimes, key=order)}
    gains = {}
    for regime, seeds in ordered.items():
        reference = parse_regime(regime).reference
        if reference in ordered and (found := gain(reference, ordered[reference], seeds)):
            gains[regime] = found
    return Line(metric, network, task, name, {regime: cell(seeds) for regime, seeds in ordered.items()}, gains)


def of_task(task: str, found: Iterable[Line]) -> str:
    """The class that stands for a task: its only one, or the mean."""
    names = {line.class_name for line in found if line.task == task}
    return MEAN if MEAN in names else min(names)


def order(regime: str) -> tuple:
    """R and what adds to it, then S, then smaller and smaller shares of R."""
    parsed = parse_regime(regime)
    return 0 < parsed.real < 1, -parsed.real, parsed.synthetic


def cell(seeds: Results) -> Cell:
    means = {seed: float(np.mean(list(values.values()))) for seed, values in sorted(seeds.items())}
    values = list(means.values())
    std = round(float(np.std(values, ddof=1)), 12) if len(values) > 1 else None  # of equal values 0, not 1e-17
    return Cell(float(np.mean(values)), std, means, len(set().union(*seeds.values())))


def gain(reference: str, real: Results, other: Results) -> Gain | None:
    """`other` minus `real`; None where no seed and patient has both."""
    seeds = sorted(real.keys() & other.keys())
    own = {seed: paired(real[seed], other[seed]) for seed in seeds}
    base, changed = averaged([real[seed] for seed in seeds]), averaged([other[seed] for seed in seeds])
    patients = sorted(base.keys() & changed.keys())
    if not patients:
        return None
    before, after = (np.array([values[patient] for patient in patients]) for values in (base, changed))
    difference = after - before
    return Gain(
        reference,
        absolute=float(difference.mean()),
        interval=bootstrap_interval(np.mean, difference),
        relative=float(100 * difference.mean() / before.mean()) if before.mean() > 0 else None,
        p=float(wilcoxon(difference).pvalue) if difference.any() else 1.0,
        patients=len(patients),
        seeds={seed: float(difference.mean()) for seed, difference in own.items() if len(difference)},
    )


def paired(real: dict[str, float], other: dict[str, float]) -> np.ndarray:
    """`other` minus `real` of each patient that both have."""
    return np.array([other[patient] - real[patient] for patient in sorted(real.keys() & other.keys())])


def averaged(seeds: Sequence[dict[str, float]]) -> dict[str, float]:
    """Each patient's mean over the seeds, where it is defined in all of them."""
    patients = set.intersection(*(set(values) for values in seeds)) if seeds else set()
    return {patient: float(np.mean([values[patient] for values in seeds])) for patient in patients}


def corrected(found: list[Line]) -> list[Line]:
    """The lines of one metric with `p_holm` over all of their gains."""
    places = [(index, regime) for index, item in enumerate(found) for regime in item.gains]
    adjusted = dict(
        zip(places, holm_corrected([found[index].gains[regime].p for index, regime in places]), strict=True)
    )
    return [
        replace(item, gains={regime: replace(old, p_holm=adjusted[i, regime]) for regime, old in item.gains.items()})
        for i, item in enumerate(found)
    ]
