"""A work directory that every test of the bundles reads."""

import shutil
from pathlib import Path

import pytest

from .small import train_all


@pytest.fixture(scope="session")
def work(tiny_dataset, made_once) -> Path:
    """Data, and every bundle trained for two steps (do not write into it)."""

    def make(folder: Path) -> None:
        shutil.copytree(tiny_dataset, folder / "dataset")
        train_all(folder)

    return made_once("trained", make)
