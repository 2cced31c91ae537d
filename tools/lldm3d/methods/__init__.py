"""Methods of synthesis beside each other: which there are, and what their volumes are worth at an equal budget."""

from lldm3d.methods.registry import Method, load_method, method_names

__all__ = ["Method", "load_method", "method_names"]
