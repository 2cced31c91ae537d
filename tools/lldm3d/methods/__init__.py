"""Methods of synthesis beside each other: which there are, and what their volumes are worth at an equal budget."""
