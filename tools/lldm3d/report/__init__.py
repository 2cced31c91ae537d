"""The report of a work directory: one HTML file that can be opened and mailed, and its tables as CSV."""

from lldm3d.report.write import report

__all__ = ["report"]
