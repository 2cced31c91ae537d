"""Adds the bundles, which lie outside the source root, to the package; everything else stands in setup.cfg."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages("tools"), "lldm3d.bundles"],
    package_dir={"": "tools", "lldm3d.bundles": "bundles"},
)
