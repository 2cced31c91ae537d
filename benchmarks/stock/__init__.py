"""The stock recipe, as MONAI's Model Zoo trains and samples its latent diffusion (brats_mri_generative_diffusion)."""
