"""Sizes that networks take, checked before a training reads its volumes: deep in a convolution no id is named."""

from collections.abc import Sequence

from lldm3d.data.case_preparation import MULTIPLE as PREPARED
from lldm3d.data.dataset import load_schema
from lldm3d.errors import UserError


def check_multiple(name: str, size: Sequence[int], multiple: int, remedy: str) -> list[int]:
    """The size itself. Raises UserError where an axis is no multiple of so many voxels.

    Args:
        name: id of the size.
        size: voxels along each axis.
        multiple: voxels.
        remedy: what to do; sizes that fit are added to it.
    """
    if wrong := [length for length in size if length % multiple or not length]:
        step = max(multiple, PREPARED)
        near = [-(-max(length, 1) // step) * step for length in size]
        raise UserError(f"{name} {list(size)}: needs multiples of {multiple}, got {wrong}; {remedy}, such as {near}")
    return list(size)


def check_least(name: str, size: Sequence[int], least: int, remedy: str) -> None:
    """Raise UserError where an axis has fewer than `least` voxels."""
    if wrong := [length for length in size if length < least]:
        raise UserError(f"{name} {list(size)}: needs at least {least} voxels along each axis, got {wrong}; {remedy}")


def check_cases(
    dataset_dir: str, roi_size: Sequence[int], multiple: int, remedy: str = "give channels fewer entries, or "
) -> None:
    """Raise UserError where the cases of a prepared data set have other sizes than `roi_size`, or no such multiples.

    Args:
        dataset_dir: the prepared data set.
        roi_size: voxels of a case, as the config says.
        multiple: of voxels that the networks need: 2 for each time that they halve a volume.
        remedy: what else than another size would do.
    """
    found = list(load_schema(dataset_dir).roi_size)
    if list(roi_size) != found:
        raise UserError(
            f"roi_size {list(roi_size)}: the cases of {dataset_dir} have {found} voxels; give that roi_size"
        )
    check_multiple("roi_size", roi_size, multiple, f"{remedy}prepare the data with another size")


def check_crop(crop_size: Sequence[int], roi_size: Sequence[int], multiple: int, layers: int) -> None:
    """Raise UserError where a training crop does not fit an autoencoder, or is too small for its `PatchDiscriminator`.

    Args:
        crop_size: voxels; where a case has fewer, all of it is taken.
        roi_size: voxels of a case.
        multiple: of voxels that the autoencoder needs.
        layers: of the discriminator, which halves a crop as often and then takes two voxels from it; 0 for none.
    """
    crop = [min(pair) for pair in zip(crop_size, roi_size, strict=True)]
    check_multiple("crop_size", crop, multiple, "give another crop_size")
    if layers:
        check_least("crop_size", crop, 3 * 2**layers, "lower discriminator_layers, each of which doubles that")
