"""Trained bundles as zips that travel alone, for the MONAI Model Zoo or a colleague."""

from lldm3d.pack.write import pack

__all__ = ["pack"]
