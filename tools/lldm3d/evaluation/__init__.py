"""Judging synthetic scans: fidelity, diversity, label statistics, alignment, copies."""
