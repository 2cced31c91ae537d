"""Methods of synthesis beside each other: which there are, and what their volumes are worth at an equal budget."""

from lldm3d.methods.registry import OURS, Method, load_method, method_names, seed_stage

__all__ = ["OURS", "Method", "load_method", "method_names", "seed_stage"]
