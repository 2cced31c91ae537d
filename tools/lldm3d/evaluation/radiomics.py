"""Radiomics: what radiologists' texture features see in the labelled part of an image.

Osuala et al. 2024 and Konz et al. 2025 (FRD) measure the Fréchet distance between such features. They are computed by
MIRP (EUPL-1.2), which follows the Image Biomarker Standardisation Initiative; it comes with the extra `radiomics`.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

import numpy as np

from lldm3d.errors import UserError
from lldm3d.evaluation.spaces import Space

FAMILIES = ["statistics", "glcm", "glrlm", "glszm", "ngtdm"]
LEVELS = 32  # grey levels, as the initiative advises for MR
DESCRIBED = ("stat_", "cm_", "rlm_", "szm_", "ngt_")  # columns that are features; others describe the case


class Radiomics:
    """80 features of an image inside the foreground of its label, or of the whole image where there is none."""

    def __init__(self) -> None:
        try:
            from mirp import extract_features
        except ImportError:
            raise UserError("--radiomics: MIRP is not installed; `pip install 'lldm3d[radiomics]'`") from None
        self.extract_features = extract_features

    @property
    def spaces(self) -> list[Space]:
        return [Space("radiomics", f"mirp {version('mirp')}", None, scaled=True)]

    def __call__(self, image: np.ndarray, mask: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Features [80] of an image [X, Y, Z] in the mask [X, Y, Z]; what is undefined there counts as 0."""
        inside = np.ones(image.shape, bool) if mask is None or not mask.any() else mask
        with quiet():
            [table] = self.extract_features(
                image=image.astype(np.float64),
                mask=inside.astype(np.uint8),
                base_feature_families=FAMILIES,
                base_discretisation_method="fixed_bin_number",
                base_discretisation_n_bins=LEVELS,
                spatial_method="3d",
            )
        columns = [name for name in table.columns if name.startswith(DESCRIBED)]
        return {"radiomics": np.nan_to_num(table[columns].to_numpy(float)[0])}


@contextmanager
def quiet() -> Iterator[None]:
    """Without MIRP's report of each case, and its warnings of what is undefined in tiny masks."""
    logging.disable(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
