"""Networks around MONAI's own, and how a trained one is saved with its architecture and restored."""

from lldm3d.networks.controlled import ControlledDiffusion
from lldm3d.networks.restore import load_network, save_network

__all__ = ["ControlledDiffusion", "load_network", "save_network"]
