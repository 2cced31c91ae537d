"""The study: what synthetic data is worth, over networks, tasks, regimes and seeds, with its statistics."""
