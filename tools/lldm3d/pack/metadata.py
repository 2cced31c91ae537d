"""The channels in a packed bundle's metadata.json: those of the network that was trained."""

from pathlib import Path

from lldm3d.files import read_json, write_json


def write_metadata(folder: Path, settings: dict, default_classes: list[str], stride: int | None) -> dict:
    """Let the tensors of metadata.json have the classes and latent channels of `settings`; returns the metadata.

    Args:
        folder: the bundle.
        settings: `class_names`, `latent_channels`; what is missing stays as it is.
        default_classes: the classes of the bundle's own configs.
        stride: voxels for each latent voxel; None where the bundle has no latents.
    """
    path = folder / "configs/metadata.json"
    content = read_json(path)
    formats = [part for key, part in content.items() if key.endswith("_data_format")]
    for tensor in [item for part in formats for side in part.values() for item in side.values()]:
        names = list(tensor["channel_def"].values())
        if names == default_classes:
            names = settings.get("class_names", names)
        elif tensor["format"] == "latent":
            names = [f"latent {number}" for number in range(settings.get("latent_channels", len(names)))]
            tensor["spatial_shape"] = [f"{16 // stride}*n"] * 3 if stride else tensor["spatial_shape"]
        tensor["num_channels"] = len(names)
        tensor["channel_def"] = {str(number): name for number, name in enumerate(names)}
    write_json(path, content)
    return content
