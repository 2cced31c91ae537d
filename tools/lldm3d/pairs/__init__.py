"""Drawing new labels and images that fit them."""
