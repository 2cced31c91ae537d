"""Looking at each case once, and keeping what the metrics need of it in files that a later evaluation finds again."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from tqdm import tqdm

from lldm3d.data.dataset import Schema
from lldm3d.evaluation.alignment import class_agreement
from lldm3d.evaluation.copies import coarse
from lldm3d.evaluation.features import Segmenter, Space
from lldm3d.evaluation.labels import is_one_organ, label_statistics
from lldm3d.evaluation.records import BLUR, Record, Survey
from lldm3d.evaluation.scans import read
from lldm3d.files import save_checkpoint, sha256
from lldm3d.processes import place

FORMAT = 1  # of the files: raised when a record of the same case would differ


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
        found.scores = class_agreement(pred, scan, self.schema) if score and pred is not None else None
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
        parts = [FORMAT, files, case.rescale, asdict(self.schema), spaces, options]
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
