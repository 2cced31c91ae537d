"""The MONAI bundles: where they lie (in a checkout beside `tools`, installed inside the package), how they are run."""

import sys
from collections.abc import Sequence
from pathlib import Path

from lldm3d.errors import UserError

INSTALLED = Path(__file__).parent / "bundles"
CHECKOUT = Path(__file__).resolve().parents[2] / "bundles"


def bundles_dir() -> Path:
    """The folder that holds the bundles."""
    return INSTALLED if INSTALLED.is_dir() else CHECKOUT


def bundle_names() -> list[str]:
    """All bundles, `baselines/<name>` included."""
    root = bundles_dir()
    return sorted(file.parents[1].relative_to(root).as_posix() for file in root.rglob("configs/train.yaml"))


def bundle_path(name: str) -> Path:
    """The folder of the bundle `name`.

    Raises:
        UserError: where there is no such bundle; the message names those that exist.
    """
    path = bundles_dir() / name
    if name not in bundle_names():
        raise UserError(f"there is no bundle {name!r} in {bundles_dir()}; the bundles are {', '.join(bundle_names())}")
    return path


def bundle_command(run_id: str, configs: Sequence[str], processes: int = 1) -> list[str]:
    """`monai.bundle run` of the config files, for the bundle's folder; several processes are started by torchrun."""
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m"]
    launch = [sys.executable, "-m", *(torchrun if processes > 1 else [])]
    return [*launch, "monai.bundle", "run", run_id, "--config_file", str(list(configs))]
