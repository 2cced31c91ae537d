"""Networks around MONAI's own, and how a trained one is saved with its architecture and restored."""

from lldm3d.networks.belonging import Belonging
from lldm3d.networks.checkpointing import checkpointed
from lldm3d.networks.controlled import ControlledDiffusion
from lldm3d.networks.restore import load_model, load_network, save_model, save_network
from lldm3d.networks.sizes import check_cases, check_crop
from lldm3d.networks.warm import warm_start

__all__ = [
    "Belonging",
    "ControlledDiffusion",
    "check_cases",
    "check_crop",
    "checkpointed",
    "load_model",
    "load_network",
    "save_model",
    "save_network",
    "warm_start",
]
