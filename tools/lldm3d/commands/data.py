"""Data sets: simulated, prepared, checked, encoded."""

import sys

from lldm3d.commands.call import call


def phantom(
    output_dir: str,
    num_cases: int = 32,
    size: tuple[int, int, int] = (48, 48, 32),
    spacing: tuple[float, float, float] = (5.0, 5.0, 6.0),
    seed: int = 0,
    thinnest_vessel: float = 0,
    overwrite: bool = False,
) -> None:
    """Write a raw Decathlon data set of simulated liver MR.

    Args:
        output_dir: the new folder.
        num_cases: number of cases.
        size: voxels of each case, as 48,48,32.
        spacing: mm, as 5,5,6.
        seed: of all random numbers.
        thinnest_vessel: radius in mm below which twigs are left out; 0 draws all that the voxels can hold.
        overwrite: replace an existing data set.
    """
    call("lldm3d.phantom.write", "write", locals())


def prepare(
    output_dir: str,
    data: str | None = None,
    images: str | None = None,
    labels: str | None = None,
    label_map: str | dict | None = None,
    roi_size: tuple[int, int, int] | None = None,
    spacing: tuple[float, float, float] | None = None,
    center: str = "foreground",
    crops: int | None = None,
    intensity: str = "min_max",
    percentiles: tuple[float, float] = (0.5, 99.5),
    split: tuple[float, float, float] = (0.7, 0.1, 0.2),
    split_by: str = "patient",
    patient_pattern: str | None = None,
    channel: int | None = None,
    max_cases: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Prepare your scans: one orientation, spacing and size, intensities in [0, 1], split by patient.

    Args:
        output_dir: the new folder.
        data: a Decathlon or nnU-Net raw folder; or instead
        images: a folder of NIfTI images (or one file), with
        labels: a folder of labels with the same names (or one file).
        label_map: YAML file of class names and their values in the data; default: the labels of dataset.json.
        roi_size: voxels of each prepared volume, multiples of 16; default: follows from the data.
        spacing: mm; default: follows from the data.
        center: what each crop is centred on: foreground, image, or the name of a class.
        crops: random crops to draw from each case; default: one, in its middle.
        intensity: min_max, or percentile (clipped to `percentiles` first).
        percentiles: lower and upper percentile.
        split: parts of training, validation and test.
        split_by: patient, or case.
        patient_pattern: regular expression that finds the patient in a case's name, if dataset.json names none.
        channel: which channel of images that have several, from 0.
        max_cases: only the first cases.
        seed: of split and crops.
        overwrite: replace an existing data set.
    """
    call("lldm3d.data.prepare", "prepare", locals())


def check(dataset_dir: str) -> None:
    """Print all faults of a raw or prepared data set, one on each line; exit status 2 when there are any."""
    if faults := call("lldm3d.data.check", "check", locals()):
        print("\n".join(faults))
        sys.exit(2)
    print(f"{dataset_dir}: no faults")


def tasks(dataset_dir: str, tasks: str) -> None:
    """Declare tasks of a prepared data set: which of its classes a segmentation takes as one.

    Args:
        dataset_dir: prepared data set.
        tasks: YAML file of task, target class, merged classes: `vein: {vein: [portal vein, hepatic vein]}`.
    """
    call("lldm3d.data.declare", "declare_tasks", locals())


def encode(
    dataset_dir: str,
    image_codec: str,
    label_codec: str,
    output_dir: str,
    views: int = 1,
    degrees: float = 5.0,
    scale: float = 0.05,
    shift: float = 2.0,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Encode a prepared data set with both autoencoders: mean and sigma of the latents of each case.

    Args:
        dataset_dir: prepared data set.
        image_codec: codec.pt of the image autoencoder.
        label_codec: codec.pt of the label autoencoder.
        output_dir: the new folder.
        views: entries for each training case; the first is the case itself, the others are augmented.
        degrees: range of the augmentation's rotation.
        scale: range of its scaling, as a fraction.
        shift: range of its shift in voxels.
        seed: of the augmentation.
        overwrite: replace existing latents.
    """
    call("lldm3d.codec.latents", "encode", locals())
