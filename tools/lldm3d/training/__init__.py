"""What ignite and MONAI lack: the full state of a training, its average weights, curves and checkpoints."""
