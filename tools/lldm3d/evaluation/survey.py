"""One pass over a split: look at each case once and keep the little that the metrics need of it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from lldm3d.evaluation.processes import place
from lldm3d.evaluation.records import Record
from lldm3d.evaluation.shapes import Statistics
from lldm3d.evaluation.spaces import Space


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


def survey(
    split: str, cases: list[dict], look: Callable[..., Record], score: bool = False, blur: bool = False
) -> Survey:
    """Look at the cases one by one.

    Args:
        split: shown by the progress bar.
        look: gives the record of a case, `records.Observer` or `records.Cache`.
        score: compare the network's prediction with the label.
        blur: also take the features of the blurred image.

    Raises:
        UserError: where a file cannot be used.
    """
    return Survey(cases, [look(case, score=score, blur=blur) for case in progress(split, cases)])


def look_once(
    split: str, cases: list[dict], look: Callable[..., Record], score: bool = False, blur: bool = False
) -> None:
    """As `survey`, for a `look` that remembers: nothing is kept here.

    Records that are kept between the large arrays of case after case would scatter the memory that these leave, and it
    would grow with their number (by 18 MB for a case of 160x160x64 voxels).
    """
    for case in progress(split, cases):
        look(case, score=score, blur=blur)


def progress(split: str, cases: list[dict]) -> tqdm:
    return tqdm(cases, desc=f"evaluate {split}", mininterval=1, disable=place()[0] > 0)
