"""A regime's mix of real and synthetic cases for other programs: nnU-Net, MONAI's own lists, Auto3DSeg."""

from lldm3d.export.write import export

__all__ = ["export"]
