"""What each regime reaches, and what the synthetic pairs add to it: means, intervals and tests."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.stats import wilcoxon

from lldm3d.agreement import METRICS
from lldm3d.data.dataset import MEAN
from lldm3d.statistics import bootstrap_interval, holm_corrected
from lldm3d.study.stages import UNTIL, Arm

LEVEL = 0.05  # of the corrected p below which a gain is called one
OF_ALL_CLASSES = ("dice", "nsd")  # metrics that are defined wherever the truth has the class, so that a mean is fair
PLACE = ["metric", "until", "network", "task", "class"]  # of a line


@dataclass(frozen=True)
class ArmResult:
    """What one arm reaches: the mean over seeds of the mean over patients, and its standard deviation over seeds."""

    mean: float
    std: float | None  # None with a single seed
    seeds: dict[int, float]  # each seed's mean over patients
    patients: int


@dataclass(frozen=True)
class Gain:
    """An arm minus its reference, over patients and seeds that both have."""

    reference: Arm
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
    until: str
    network: str
    task: str
    class_name: str  # or `MEAN`, over the classes
    cells: dict[Arm, ArmResult]
    gains: dict[Arm, Gain]  # of the arms with synthetic pairs whose reference was trained

    def better(self, arm: Arm) -> bool:
        """Whether the gain goes the right way, down for distances."""
        return (self.gains[arm].absolute > 0) == METRICS[self.metric].higher_is_better

    def verdict(self, arm: Arm) -> str:
        """What the gain of an arm comes to: better, worse or unclear."""
        return "unclear" if not self.gains[arm].clear else "better" if self.better(arm) else "worse"


def lines(scores: pd.DataFrame) -> list[Line]:
    """All lines of the scores of `read_scores`: by metric, until, network, task and class, with `MEAN` last."""
    patients = patient_means(scores)
    found = [line_of(*place, group) for place, group in patients.groupby(PLACE, sort=False)]
    found.sort(key=lambda line: (UNTIL.index(line.until), line.network, line.task, line.class_name == MEAN))
    return [new for metric in METRICS for new in corrected([line for line in found if line.metric == metric])]


def patient_means(scores: pd.DataFrame) -> pd.DataFrame:
    """The scores with one value for each patient, the mean over its cases; tasks of several classes also have `MEAN`.

    Patients, not cases, are what a statistic may take as independent.
    """
    keys = [*PLACE, "regime", "pairs", "seed", "patient"]
    patients = scores.groupby(keys, as_index=False, sort=False)["value"].mean()
    several = patients.groupby("task")["class"].transform("nunique") > 1
    of_classes = patients[several & patients["metric"].isin(OF_ALL_CLASSES)].assign(**{"class": MEAN})
    return pd.concat([patients, of_classes.groupby(keys, as_index=False, sort=False)["value"].mean()])


def line_of(metric: str, until: str, network: str, task: str, class_name: str, patients: pd.DataFrame) -> Line:
    """The line of these patients' values."""
    arms = by_arm(patients)
    gains = {arm: gain_over(arm.reference, arms[arm.reference], values) for arm, values in arms.items()
             if arm.reference in arms}  # fmt: skip
    return Line(
        *(metric, until, network, task, class_name),
        cells={arm: arm_result(values) for arm, values in arms.items()},
        gains={arm: gain for arm, gain in gains.items() if gain},
    )


def by_arm(patients: pd.DataFrame) -> dict[Arm, pd.DataFrame]:
    """The values of each arm as a table [patients, seeds], in the order of their rank."""
    found = {Arm(*arm): group.pivot(index="patient", columns="seed", values="value")
             for arm, group in patients.groupby(["regime", "pairs"])}  # fmt: skip
    return {arm: found[arm] for arm in sorted(found, key=lambda arm: arm.rank)}


def of_task(task: str, found: Iterable[Line]) -> str:
    """The class that stands for a task: its only one, or the mean."""
    names = {line.class_name for line in found if line.task == task}
    return MEAN if MEAN in names else min(names)


def arm_result(values: pd.DataFrame) -> ArmResult:
    """The result of an arm with these values [patients, seeds]."""
    means = values.mean()
    std = round(float(means.std()), 12) if len(means) > 1 else None  # of equal values 0, not 1e-17
    return ArmResult(float(means.mean()), std, means.to_dict(), len(values))


def gain_over(reference: Arm, real: pd.DataFrame, other: pd.DataFrame) -> Gain | None:
    """`other` minus `real`, both [patients, seeds]; None where no seed and patient has both."""
    seeds = real.columns.intersection(other.columns)
    real, other = real[seeds].align(other[seeds], join="inner")
    complete = real.notna().all(axis=1) & other.notna().all(axis=1)  # each patient's mean over the same seeds
    of_seeds = (other - real)[complete].mean().dropna()
    before, after = (values[complete].mean(axis=1).to_numpy() for values in (real, other))
    if not len(before) or seeds.empty:
        return None
    difference = after - before
    return Gain(
        reference,
        absolute=float(difference.mean()),
        interval=bootstrap_interval(np.mean, difference),
        relative=float(100 * difference.mean() / before.mean()) if before.mean() > 0 else None,
        p=float(wilcoxon(difference).pvalue) if difference.any() else 1.0,
        patients=len(difference),
        seeds=of_seeds.to_dict(),
    )


def corrected(found: list[Line]) -> list[Line]:
    """The lines of one metric with `p_holm` over all of their gains."""
    adjusted = iter(holm_corrected([gain.p for line in found for gain in line.gains.values()]))  # in their order
    return [
        replace(line, gains={arm: replace(gain, p_holm=next(adjusted)) for arm, gain in line.gains.items()})
        for line in found
    ]
