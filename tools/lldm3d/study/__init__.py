"""The study: what synthetic data is worth, over networks, tasks, regimes and seeds, with its statistics."""

from lldm3d.study.write import write

__all__ = ["write"]
