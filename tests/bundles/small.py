"""Settings that make each network one of seconds, on volumes of 16x16x16 voxels."""

U_NET = {"network_def#channels": [4, 8], "network_def#strides": [2]}
SEGMENTATION = {
    "seg_unet": U_NET,
    "seg_resunet": U_NET,
    "seg_wideresunet": U_NET,
    "seg_dynunet": {"network_def#filters": [4, 8, 8, 8, 8]},
    "seg_vnet": {},  # no width to set
    "seg_swinunetr": {"network_def#feature_size": 12},
}

UNET = {"channels": [32], "attention_levels": [False], "num_res_blocks": 1}
LATENT_UNET = {**UNET, "latent_channels": 2}
DISCRIMINATOR = {"crop_size": [16, 16, 16], "discriminator_channels": 4, "discriminator_layers": 1}
GAN = {"channels": 16, "groups": 4, "latent_size": 8, "slab": 8}
VQ = {"channels": [8], "num_res_layers": 1, "latent_channels": 2, "num_embeddings": 16}
VAE = {"channels": [8, 8], "num_res_blocks": 1, "norm_num_groups": 4, "latent_channels": 2}
# bundle: training: ids of its config
BASELINES = {
    "baselines/ha_gan": {"gan": {**GAN, "discriminator_channels": {"high": [4, 8], "low": [4]}}},
    "baselines/ddpm": {"diffusion": UNET},
    "baselines/ldm_vqvae": {"autoencoder": {**DISCRIMINATOR, **VQ}, "diffusion": LATENT_UNET},
    "baselines/ldm_vae": {"autoencoder": {**DISCRIMINATOR, **VAE}, "diffusion": LATENT_UNET},
}
