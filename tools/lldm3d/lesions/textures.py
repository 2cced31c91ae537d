"""What an edit puts into an image: the intensities of a real lesion, or those of the organ where a lesion was."""

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.linalg import cg

from lldm3d.errors import UserError
from lldm3d.lesions.placement import CUBE, overlap
from lldm3d.lesions.pool import Crop

RIM = 1  # voxels round a lesion that an edit may change
SHELL = 3  # voxels round a lesion whose organ says how bright the organ is there
BLUR = 1.0  # voxels, of the mask by which a rim is blended
COARSE = 2.0  # voxels: what a Gaussian of this deviation takes away is texture
FACES = np.eye(3, dtype=int)


def with_rim(mask: np.ndarray) -> np.ndarray:
    """The voxels that an edit of a mask [X, Y, Z] may change; all others stay bit by bit."""
    return ndimage.binary_dilation(mask, CUBE, iterations=RIM)


def brightness(image: np.ndarray, lesion: np.ndarray, organ: np.ndarray) -> float | None:
    """Median of the organ in a shell round a lesion; None where there is none of it. All are [X, Y, Z]."""
    shell = ndimage.binary_dilation(lesion, CUBE, iterations=SHELL) & ~with_rim(lesion) & organ
    return float(np.median(image[shell])) if shell.any() else None


def relative_brightness(image: np.ndarray, mask: np.ndarray, organ: np.ndarray, donor: Crop) -> float:
    """How bright the organ round a mask is over that round the donor's lesion; 1 where either has none around."""
    ours, theirs = brightness(image, mask, organ), brightness(donor.image, donor.lesion, donor.organ)
    return ours / theirs if ours and theirs else 1.0


def pasted(
    image: np.ndarray,
    organ: np.ndarray,
    mask: np.ndarray,
    centre: tuple[int, int, int],
    spacing: tuple[float, float, float],
    donor: Crop,
    to_donor: np.ndarray,
) -> np.ndarray:
    """The image with a real lesion's intensities in a mask [X, Y, Z], blended at its rim: copy-paste.

    They are resampled by cubic splines, which keep noise, from the lesion alone (beyond its border its nearest voxel
    counts), and multiplied so that lesion over organ stays as it was in the donor: scans differ in brightness.

    Args:
        organ: mask [X, Y, Z].
        centre: voxel that becomes the donor's centre of mass.
        spacing: of the image, mm.
        to_donor: matrix [3, 3] from mm round the centre to mm round the donor's.
    """
    near = with_rim(mask)
    offsets = (np.argwhere(near) - centre) * np.array(spacing)
    middle = ndimage.center_of_mass(donor.lesion)
    voxels = (to_donor @ offsets.T).T / np.array(donor.spacing) + middle
    values = ndimage.map_coordinates(nearest_of_lesion(donor), voxels.T, order=3, mode="nearest")
    inside = donor.image[donor.lesion]
    factor = relative_brightness(image, mask, organ, donor)
    values = np.clip(values.clip(inside.min(), inside.max()) * factor, image.min(), image.max())
    share = np.where(mask, 1, ndimage.gaussian_filter(np.float32(mask), BLUR))[near]
    found = image.copy()
    found[near] = share * values + (1 - share) * image[near]
    return found


def nearest_of_lesion(donor: Crop) -> np.ndarray:
    """The donor's image with the nearest voxel of the lesion in place of all others."""
    nearest = ndimage.distance_transform_edt(~donor.lesion, donor.spacing, return_distances=False, return_indices=True)
    return donor.image[tuple(nearest)]


def stretch_to_donor(mask: np.ndarray, spacing: tuple[float, float, float], donor: Crop) -> np.ndarray:
    """The matrix [3, 3] that takes the box of a mask, in mm, to that of the donor's lesion."""
    ours = np.ptp(np.argwhere(mask), axis=0) + 1
    theirs = np.ptp(np.argwhere(donor.lesion), axis=0) + 1
    return np.diag(theirs * np.array(donor.spacing) / (ours * np.array(spacing)))


def repaired(
    image: np.ndarray, organ: np.ndarray, plain: np.ndarray, mask: np.ndarray, spacing: tuple[float, float, float]
) -> np.ndarray:
    """The image with organ in place of a lesion's mask [X, Y, Z] and its rim.

    Its brightness is the harmonic interpolation of the organ around; its texture, what a Gaussian takes away, is that
    of the place in the organ to which most of the mask can be moved, and 0 where it does not cover. skimage's
    biharmonic inpainting would draw the brightness of what lies outside the organ into it, and leaves it smooth.

    Args:
        organ: all classes that lesions lie in [X, Y, Z], without lesions.
        plain: the one whose texture is taken.

    Raises:
        UserError: where no organ touches the lesion.
    """
    hole = with_rim(mask) & (mask | organ)
    found = image.copy()
    found[hole] = harmonic(image, organ & ~hole, hole, spacing)
    source = plain & ~hole
    if source.any():
        found[hole] += moved_texture(image, source, hole)
    found[hole] = found[hole].clip(image.min(), image.max())
    return found


def harmonic(image: np.ndarray, known: np.ndarray, hole: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """The solution of Laplace's equation in a hole [X, Y, Z], in the order of its voxels.

    Known voxels give their values; through all other neighbours nothing flows.
    """
    number = np.full(image.shape, -1)
    number[hole] = np.arange(hole.sum())
    voxels, diagonal, right = np.argwhere(hole), np.zeros(hole.sum()), np.zeros(hole.sum())
    rows, columns, weights = [], [], []
    for step, length in zip((*FACES, *-FACES), (*spacing, *spacing), strict=True):
        beside = voxels + step
        inside = ((beside >= 0) & (beside < image.shape)).all(1)
        here, beside, weight = np.flatnonzero(inside), tuple(beside[inside].T), 1 / length**2
        counted = hole[beside] | known[beside]
        np.add.at(diagonal, here[counted], weight)
        np.add.at(right, here[known[beside]], weight * image[beside][known[beside]])
        inner = hole[beside]
        rows, columns = [*rows, here[inner]], [*columns, number[beside][inner]]
        weights.append(np.full(inner.sum(), -weight))
    if not right.any():
        raise UserError("the lesion has no organ around it to be filled from; name the classes around it as organ")
    size = len(voxels)
    rows, columns = np.concatenate([*rows, np.arange(size)]), np.concatenate([*columns, np.arange(size)])
    # islands of the hole that touch nothing known would make the matrix singular
    weights = np.concatenate([*weights, diagonal + 1e-9])
    # by conjugate gradients: a factorisation of 65,000 voxels would take gigabytes
    return cg(coo_matrix((weights, (rows, columns)), shape=(size, size)).tocsr(), right, rtol=1e-8)[0]


def moved_texture(image: np.ndarray, source: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """The texture of the part of `source` [X, Y, Z] to which most of a hole can be moved, in the hole's voxels."""
    weight = ndimage.gaussian_filter(np.float32(source), COARSE)
    smooth = ndimage.gaussian_filter(np.where(source, image, 0), COARSE) / np.maximum(weight, 1e-6)
    texture = np.where(source, image - smooth, 0)
    voxels = np.argwhere(hole)
    middle = (voxels.min(0) + voxels.max(0)) // 2
    half = np.abs(voxels - middle).max(0)
    small = np.zeros(2 * half + 1, bool)
    small[tuple((voxels - middle + half).T)] = True
    moved = voxels + np.unravel_index(overlap(source, small).argmax(), source.shape) - middle
    inside = ((moved >= 0) & (moved < image.shape)).all(1)
    found = np.zeros(len(voxels))
    found[inside] = texture[tuple(moved[inside].T)]
    return found
