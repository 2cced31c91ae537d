"""What is kept of each case once it was looked at."""

from dataclasses import dataclass, field

import numpy as np

from lldm3d.evaluation.features import Space

BLUR = 2.0  # voxels, of the yardstick
Statistics = dict[tuple[str, str], np.ndarray]  # (statistic, class): values


@dataclass
class Record:
    """What the metrics need of one case."""

    features: dict[str, np.ndarray]  # space: [D], or [S, D] of slices
    coarse: np.ndarray  # [x, y, z], the image as `matching` compares it
    blurred: dict[str, np.ndarray] = field(default_factory=dict)  # space: features of the blurred image
    label: str | None = None  # SHA-256 of the label map; None for an empty one or none
    statistics: Statistics | None = None  # None without a label
    one_organ: dict[str, bool] = field(default_factory=dict)  # parent class: is it one component
    scores: dict[str, dict[str, float]] | None = None  # metric: class: value, where the prediction was scored


@dataclass(frozen=True)
class Survey:
    """The N cases of a split, and what is kept of each."""

    cases: list[dict]
    records: list[Record]

    def __len__(self) -> int:
        return len(self.cases)

    def features(self, space: Space) -> np.ndarray:
        """[N, D], or [N, S, D] of slices; [0, 0] without cases."""
        return stacked([record.features[space.name] for record in self.records])

    def blurred(self, space: Space) -> np.ndarray:
        """As `features`, of the blurred images."""
        return stacked([record.blurred[space.name] for record in self.records])

    @property
    def coarse(self) -> np.ndarray:
        """[N, x, y, z], images as `matching` compares them."""
        return stacked([record.coarse for record in self.records])

    @property
    def statistics(self) -> list[Statistics]:
        """Of each case that has a label."""
        return [record.statistics for record in self.records if record.statistics is not None]

    @property
    def scores(self) -> list[dict[str, dict[str, float]]]:
        """metric: class: value, of each case whose prediction was scored."""
        return [record.scores for record in self.records if record.scores is not None]


def stacked(arrays: list[np.ndarray]) -> np.ndarray:
    return np.stack(arrays) if arrays else np.empty((0, 0))
