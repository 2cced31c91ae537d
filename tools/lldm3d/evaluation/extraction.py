"""Making the record of each case once, and keeping it in a file that a later evaluation finds again."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from tqdm import tqdm

from lldm3d.data.dataset import Case, Schema
from lldm3d.data.scans import read_pair
from lldm3d.evaluation.alignment import class_agreement
from lldm3d.evaluation.copies import coarse
from lldm3d.evaluation.features import FeatureSpace, Segmenter
from lldm3d.evaluation.labels import is_one_organ, label_statistics
from lldm3d.evaluation.records import BLUR, CaseRecords, Record, label_hash
from lldm3d.files import save_checkpoint, sha256
from lldm3d.processes import place

CACHE_FORMAT = 3  # raised when the record of the same case would differ


@dataclass(frozen=True)
class RecordExtractor:
    """Makes the record of a case.

    segmenter: the network whose prediction is scored, if there is one.
    extractors: what else gives features: {feature space: array} of an image and of the mask of its foreground.
    """

    schema: Schema
    segmenter: Segmenter | None = None
    extractors: tuple[Callable, ...] = ()

    @property
    def spaces(self) -> list[FeatureSpace]:
        return [space for source in (self.segmenter, *self.extractors) if source for space in source.spaces]

    def __call__(self, case: Case, score: bool = False, blur: bool = False) -> Record:
        """The record of one case.

        Args:
            score: compare the network's prediction with the label.
            blur: also take the features of the image blurred by a Gaussian of 2 voxels.

        Raises:
            UserError: where a file cannot be used.
        """
        scan = read_pair(case, self.schema)
        mask = scan.label > 0 if scan.label is not None else None
        features, pred = self.features(scan.image, mask)
        found = Record(features, coarse(scan.image).astype(np.float32))
        if blur:
            found.blurred, _ = self.features(gaussian_filter(scan.image, BLUR), mask)
        if scan.label is None:
            return found
        found.label = label_hash(scan.label) if mask.any() else None
        found.statistics = label_statistics(scan.label, self.schema)
        parents = set(self.schema.inside.values())
        found.one_organ = {parent: is_one_organ(scan.label, parent, self.schema) for parent in parents}
        found.scores = class_agreement(pred, scan.label, self.schema) if score and pred is not None else None
        return found

    def features(self, image: np.ndarray, mask: np.ndarray | None) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        """The features in each space, and the network's prediction."""
        found, pred = self.segmenter(image) if self.segmenter else ({}, None)
        for extractor in self.extractors:
            found |= extractor(image, mask)
        return found, pred

    def key(self, case: Case, **options: bool) -> str:
        """Changes exactly when the record of the case would: with its files, the networks, the schema, the options."""
        files = [sha256(path) if path else None for path in (case.image, case.label)]
        spaces = [asdict(space) for space in self.spaces]
        parts = [CACHE_FORMAT, files, case.rescale, asdict(self.schema), spaces, options]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class RecordCache:
    """Makes each record once, and keeps it in a file named after what it depends on."""

    extract: RecordExtractor
    folder: Path

    def __call__(self, case: Case, **options: bool) -> Record:
        """The record of a case, from its file where there is one. Raises UserError where the case cannot be used."""
        path = self.folder / f"{self.extract.key(case, **options)}.pt"
        if not path.is_file():
            record = vars(self.extract(case, **options))
            save_checkpoint(path, converted(record, np.ndarray, torch.from_numpy))
        return Record(**converted(torch.load(path, weights_only=True), torch.Tensor, torch.Tensor.numpy))


def converted(content: object, kind: type, change: Callable) -> object:
    """A nested dict in which every value of a kind is changed."""
    if isinstance(content, dict):
        return {key: converted(value, kind, change) for key, value in content.items()}
    return change(content) if isinstance(content, kind) else content


def extract_split(
    split: str, cases: list[Case], extract: Callable[..., Record], score: bool = False, blur: bool = False
) -> CaseRecords:
    """The records of all cases of a split.

    Args:
        split: shown by the progress bar.
        extract: gives the record of a case, `RecordExtractor` or `RecordCache`.
        score: compare the network's prediction with the label.
        blur: also take the features of the blurred image.

    Raises:
        UserError: where a file cannot be used.
    """
    return CaseRecords(cases, [extract(case, score=score, blur=blur) for case in with_progress(split, cases)])


def with_progress(split: str, cases: list[Case]) -> tqdm:
    return tqdm(cases, desc=f"evaluate {split}", mininterval=1, disable=place()[0] > 0)
