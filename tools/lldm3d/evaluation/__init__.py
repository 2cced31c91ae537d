"""Judging synthetic scans: fidelity, diversity, label statistics, alignment, copies."""

from lldm3d.evaluation.evaluate import evaluate

__all__ = ["evaluate"]
