"""A simulated data set: hepatobiliary-phase (gadoxetate) liver MR with vessels, lesions and their labels."""

from lldm3d.phantom.write import write

__all__ = ["write"]
