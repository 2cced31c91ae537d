"""`python -m lldm3d` is the command `lldm3d`."""

from lldm3d.cli import main

main()
