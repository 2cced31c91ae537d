"""Splitting a data set into training, validation and test."""

from collections.abc import Sequence

import numpy as np

from lldm3d.data.dataset import SPLITS
from lldm3d.data.sources import Case
from lldm3d.errors import UserError


def crop_names(case: Case, crops: int | None) -> list[str]:
    """The names under which a case is written: its own, or one for each of its crops."""
    return [case.name] if crops is None else [f"{case.name}_crop{number:02d}" for number in range(crops)]


def split_cases(
    cases: list[Case], crops: int | None, fractions: Sequence[float], split_by: str, seed: int
) -> dict[str, str]:
    """Draw the split of each written case: all of a patient fall into one, unless `split_by` is "case"."""
    units = {name: name if split_by == "case" else case.patient for case in cases for name in crop_names(case, crops)}
    drawn = draw(sorted(set(units.values())), fractions, split_by, seed)
    return {name: drawn[unit] for name, unit in units.items()}


def draw(units: list[str], fractions: Sequence[float], split_by: str, seed: int) -> dict[str, str]:
    """Draw the split of each unit; every split gets at least one. Raises UserError where there are too few units."""
    validation, test = (max(1, round(len(units) * fraction)) for fraction in fractions[1:])
    training = len(units) - validation - test
    if training < 1:
        mend = "give --split_by case with --crops 10 or more" if split_by == "patient" else "give more --crops"
        raise UserError(
            f"{len(units)} {split_by}(s) cannot be split into training, validation and test at {tuple(fractions)}: "
            f"each needs one at least. Add data; or, where results on unseen patients do not matter, {mend}"
        )
    order = np.random.default_rng(seed).permutation(len(units))
    names = np.repeat(SPLITS, [training, validation, test])
    return {units[index]: str(name) for index, name in zip(order, names, strict=True)}
