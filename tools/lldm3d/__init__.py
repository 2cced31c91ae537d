"""3D-LLDM: label-guided 3D latent diffusion for medical scans."""

__version__ = "0.23.0"
