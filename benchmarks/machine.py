"""What a figure was measured on."""

import os
import platform
import subprocess
from datetime import date
from importlib.metadata import version
from pathlib import Path

import psutil
import torch

from lldm3d.training.inferers import has_bfloat16

ROOT = Path(__file__).parents[1]


def describe(source: Path = ROOT) -> dict:
    """The machine, the versions and the commit of a checkout, as they belong beside every figure."""
    command = ["git", "-C", str(source), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "date": date.today().isoformat(),
        "commit": commit,
        "processor": platform.processor() or platform.machine(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "bfloat16": has_bfloat16("cpu" if gpu is None else "cuda"),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": gpu,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "monai", "pytorch-ignite")},
    }
