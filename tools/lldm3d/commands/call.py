"""How a command reaches the module that does its work."""

import importlib
from typing import Any


def call(module: str, function: str, arguments: dict) -> Any:
    """Import `module` only now, as torch and MONAI take seconds, and call its function."""
    return getattr(importlib.import_module(module), function)(**arguments)
