"""Between volumes and latents: autoencoders, their losses and quality, cached latents, decoding with less memory."""
