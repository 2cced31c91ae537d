"""Measurements of the chain: each module prints JSON with the machine's description."""
