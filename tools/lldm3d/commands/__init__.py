"""The commands of `lldm3d`: a function of a few lines for each, whose docstring is its help; each calls one module."""
