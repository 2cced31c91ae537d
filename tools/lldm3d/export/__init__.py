"""A regime's mix of real and synthetic cases for other programs: nnU-Net, MONAI's own lists, Auto3DSeg."""
