"""What ignite and MONAI lack: the full state of a training, its average weights, curves and checkpoints."""

PROGRESS = "progress.json"  # beside the state of a training: what `lldm3d status` reads of it
