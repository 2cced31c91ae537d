"""What is kept of a case once it was looked at: in memory, and in files that a later evaluation finds again."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from lldm3d.data.dataset import Schema
from lldm3d.evaluation.agreement import agreement
from lldm3d.evaluation.matching import coarse
from lldm3d.evaluation.network import Segmenter
from lldm3d.evaluation.scans import read
from lldm3d.evaluation.shapes import Statistics, is_one_organ, label_statistics
from lldm3d.evaluation.spaces import Space
from lldm3d.files import save_checkpoint, sha256

FORMAT = 1  # of the files: raised when a record of the same case would differ
BLUR = 2.0  # voxels, of the yardstick


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
class Observer:
    """Looks at the cases of a data set.

    segmenter: the network whose prediction is scored, if there is one.
    extractors: what else gives features: {space: array} of an image and of the mask of its foreground.
    """

    schema: Schema
    segmenter: Segmenter | None = None
    extractors: tuple[Callable, ...] = ()

    @property
    def spaces(self) -> list[Space]:
        return [space for source in (self.segmenter, *self.extractors) if source for space in source.spaces]

    def __call__(self, case: dict, score: bool = False, blur: bool = False) -> Record:
        """Look at one case.

        Args:
            score: compare the network's prediction with the label.
            blur: also take the features of the image blurred by a Gaussian of 2 voxels.

        Raises:
            UserError: where a file cannot be used.
        """
        scan = read(case, self.schema)
        mask = scan.label > 0 if scan.label is not None else None
        features, pred = self.features(scan.image, mask)
        found = Record(features, coarse(scan.image).astype(np.float32))
        if blur:
            found.blurred, _ = self.features(gaussian_filter(scan.image, BLUR), mask)
        if scan.label is None:
            return found
        found.label = hashlib.sha256(scan.label.tobytes()).hexdigest() if mask.any() else None
        found.statistics = label_statistics(scan.label, self.schema)
        parents = set(self.schema.inside.values())
        found.one_organ = {parent: is_one_organ(scan.label, parent, self.schema) for parent in parents}
        found.scores = agreement(pred, scan, self.schema) if score and pred is not None else None
        return found

    def features(self, image: np.ndarray, mask: np.ndarray | None) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        """The features of each space, and the network's prediction."""
        found, pred = self.segmenter(image) if self.segmenter else ({}, None)
        for extractor in self.extractors:
            found |= extractor(image, mask)
        return found, pred

    def key(self, case: dict, **options: bool) -> str:
        """Changes exactly when the record of the case would: with its files, the networks, the schema, the options."""
        files = [sha256(case[key]) if case[key] else None for key in ("image", "label")]
        spaces = [asdict(space) for space in self.spaces]
        parts = [FORMAT, files, case.get("rescale", False), asdict(self.schema), spaces, options]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Cache:
    """Looks at each case once, and keeps the records as files named after what they depend on."""

    observe: Observer
    folder: Path

    def __call__(self, case: dict, **options: bool) -> Record:
        """The record of a case, from its file where there is one. Raises UserError where the case cannot be used."""
        path = self.folder / f"{self.observe.key(case, **options)}.pt"
        if not path.is_file():
            save_checkpoint(path, plain(self.observe(case, **options)))
        return restored(torch.load(path, weights_only=True))


def plain(record: Record) -> dict:
    """The record with tensors for arrays, as a checkpoint holds them."""
    return exchanged(vars(record), np.ndarray, torch.from_numpy)


def restored(content: dict) -> Record:
    return Record(**exchanged(content, torch.Tensor, torch.Tensor.numpy))


def exchanged(content: object, kind: type, change: Callable) -> object:
    """A nested dict in which every value of a kind is changed."""
    if isinstance(content, dict):
        return {key: exchanged(value, kind, change) for key, value in content.items()}
    return change(content) if isinstance(content, kind) else content
