"""Noise processes, guidance, training batches, and networks that take a condition."""
