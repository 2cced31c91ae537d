"""Noise, times and sampling: rectified flow, and the paper's DDPM + DDIM."""

from lldm3d.diffusion.ddpm import DDPM
from lldm3d.diffusion.guidance import guided
from lldm3d.diffusion.rectified_flow import RectifiedFlow

__all__ = ["DDPM", "RectifiedFlow", "guided"]
