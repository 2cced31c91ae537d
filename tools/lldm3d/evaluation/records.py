"""What is kept of each case for the metrics."""

import hashlib
from dataclasses import dataclass, field

import numpy as np

from lldm3d.data.dataset import Case
from lldm3d.evaluation.features import FeatureSpace
from lldm3d.files import sha256

BLUR = 2.0  # voxels, of the yardstick
Statistics = dict[tuple[str, str], np.ndarray]  # (statistic, class): values
Scores = dict[str, dict[str, float]]  # metric: class: value, of a prediction against the label


@dataclass
class Record:
    """What the metrics need of one case."""

    features: dict[str, np.ndarray]  # feature space: [D], or [S, D] of slices
    coarse: np.ndarray  # [x, y, z], the image as `copies.nearest_images` compares it
    blurred: dict[str, np.ndarray] = field(default_factory=dict)  # feature space: features of the blurred image
    label: str | None = None  # SHA-256 of the label map; None for an empty one or none
    statistics: Statistics | None = None  # None without a label
    one_organ: dict[str, bool] = field(default_factory=dict)  # parent class: is it one component
    scores: Scores | None = None  # where the prediction was scored


@dataclass(frozen=True)
class CaseRecords:
    """N cases, and the record of each."""

    cases: list[Case]
    records: list[Record]

    def __len__(self) -> int:
        return len(self.cases)

    def features(self, space: FeatureSpace, blurred: bool = False) -> np.ndarray:
        """[N, D], or [N, S, D] of slices, of the images or the blurred ones; [0, 0] without cases."""
        return stacked([(record.blurred if blurred else record.features)[space.name] for record in self.records])

    @property
    def coarse(self) -> np.ndarray:
        """[N, x, y, z], the images as `copies.nearest_images` compares them."""
        return stacked([record.coarse for record in self.records])

    @property
    def statistics(self) -> list[Statistics]:
        """Of each case that has a label."""
        return [record.statistics for record in self.records if record.statistics is not None]

    @property
    def scores(self) -> list[Scores]:
        """Of each case whose prediction was scored."""
        return [record.scores for record in self.records if record.scores is not None]

    def in_domain(self) -> "CaseRecords":
        """The cases with a label, if any has one: scans that were brought without labels may be of another kind."""
        known = [pair for pair in zip(self.cases, self.records, strict=True) if pair[0].label]
        return CaseRecords(*map(list, zip(*known, strict=True))) if known else self

    def labelled(self) -> list[tuple[Case, Record]]:
        """The cases whose label map is there, and not empty."""
        return [pair for pair in zip(self.cases, self.records, strict=True) if pair[1].label]


def content_hash(cases: list[Case]) -> str:
    """SHA-256 of the files of cases, in their order: by it an evaluation tells which pairs it judged."""
    files = [sha256(path) for case in cases for path in (case.image, case.label) if path]
    return hashlib.sha256(" ".join(files).encode()).hexdigest()


def label_hash(label: np.ndarray) -> str:
    """SHA-256 of a label map [X, Y, Z] as `read_pair` gives it."""
    return hashlib.sha256(label.tobytes()).hexdigest()


def stacked(arrays: list[np.ndarray]) -> np.ndarray:
    return np.stack(arrays) if arrays else np.empty((0, 0))
