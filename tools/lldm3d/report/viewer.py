"""The report's viewer: NiiVue, real and synthetic pairs as volumes in the page, and what draws them (`report.js`)."""

import base64
import json
import re

import deflate
import nibabel as nib
import numpy as np
from skimage.transform import downscale_local_mean

from lldm3d.data.dataset import Case, Schema
from lldm3d.data.scans import read_pair
from lldm3d.files import package_text
from lldm3d.plots import best_slice, colour

VIEWED = 6  # pairs of each side
PERCENTILE = 99.5  # of an image: white, as in the pictures
TAGS = re.compile(r"<(?=/script|script|!--)", re.IGNORECASE)


def script_text(text: str) -> str:
    """JavaScript or JSON that HTML reads as one script: `<` of a tag becomes its escape, which both know."""
    return TAGS.sub(r"\\u003c", text)


def viewer_scripts(cases: dict[str, list[Case]], schema: Schema | None, room: int) -> dict | None:
    """The scripts and licences of the viewer with as many pairs as fit; None where not one does, or there are none.

    Args:
        cases: of each side, real and synthetic.
        room: characters that the page may grow by.
    """
    niivue, licences = map(package_text, ("report/niivue/niivue.umd.js", "report/niivue/LICENSE"))
    found = {"niivue": script_text(niivue), "licences": licences}
    pairs = viewed_pairs(cases, schema, room - sum(map(len, found.values()))) if schema else {}
    if not any(pairs.values()):
        return None
    classes = [{"name": name, "colour": colour(value)} for value, name in enumerate(schema.class_names) if value]
    volumes = script_text(json.dumps({"classes": classes, **pairs}))
    return found | {"volumes": volumes, "sides": [side for side, listed in pairs.items() if listed]}


def viewed_pairs(cases: dict[str, list[Case]], schema: Schema, room: int) -> dict[str, list[dict]]:
    """The first cases of each side that fit into `room` characters; images are halved until one of each does."""
    step = 1
    while step <= min(schema.roi_size):
        found, left = {side: [] for side in cases}, room
        for number in range(VIEWED):
            pairs = {side: viewed_pair(of[number], schema, step) for side, of in cases.items() if number < len(of)}
            left -= len(json.dumps(pairs))
            if left < 0:
                break
            for side, pair in pairs.items():
                found[side].append(pair)
        if any(found.values()):
            return found
        step *= 2
    return {}


def viewed_pair(case: Case, schema: Schema, step: int = 1) -> dict:
    """A case as the page holds it.

    Image and label are NIfTI files of uint8, their middle at 0 mm along the patient's axes: real and synthetic cases
    then share one frame, in which the cross-hair of one is that of the other. `white` is the grey value that is shown
    white, `start` the place [mm] where the label is largest.

    Args:
        step: the image is averaged over blocks of so many voxels along each axis; the label stays whole.
    """
    scan = read_pair(case, schema)
    image, spacing = upright(scan.image, scan.affine)
    grey = 255 * (image - image.min()) / (np.ptp(image) or 1)  # of one value where a method draws nothing
    padding = [(0, -size % step) for size in grey.shape]  # which `downscale_local_mean` would fill with black
    grey = downscale_local_mean(np.pad(grey, padding, mode="edge"), (step,) * 3).round().astype(np.uint8)
    middle = (np.array(image.shape) - step) / 2 * spacing  # mm from the first block's centre
    white = max(float(np.percentile(grey, PERCENTILE)), 1.0)
    found = {"name": case.name, "image": embed_volume(grey, spacing * step, middle), "white": white, "start": [0, 0, 0]}
    if scan.label is None:
        return found
    label, spacing = upright(scan.label, scan.affine)
    largest = np.array([best_slice(label, axis) for axis in range(3)])
    middle = (np.array(label.shape) - 1) / 2 * spacing
    start = (largest * spacing - middle).round(3).tolist()
    return found | {"label": embed_volume(label, spacing, middle), "start": start}


def upright(volume: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A volume [X, Y, Z] turned to the nearest axes of the patient (RAS), and its spacing [3] in mm."""
    turned = nib.as_closest_canonical(nib.Nifti1Image(volume, affine))
    return np.asanyarray(turned.dataobj), np.array(turned.header.get_zooms(), float)


def embed_volume(volume: np.ndarray, spacing: np.ndarray, middle: np.ndarray) -> str:
    """A packed NIfTI file of a volume [X, Y, Z] uint8 in base64; what is `middle` mm from its first voxel lies at 0."""
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -middle
    return base64.b64encode(deflate.gzip_compress(nib.Nifti1Image(volume, affine).to_bytes(), 9)).decode()
