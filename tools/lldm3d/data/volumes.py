"""Volumes along the axes of a data set: reading, cropping, and resampling to another spacing."""

from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.ndimage import uniform_filter
from scipy.sparse import csr_array
from skimage.morphology import skeletonize

from lldm3d.errors import UserError
from lldm3d.files import open_nifti

CENTERS = ("foreground", "image")  # besides the names of classes


def center_mask(label: np.ndarray, center: str, class_names: list[str]) -> np.ndarray:
    """Where the centre of the crop may lie, bool [X, Y, Z]: a class, else all foreground, else everywhere."""
    candidates = [label == class_names.index(center)] if center in class_names else []
    candidates += [label > 0] if center != "image" else []
    return next((mask for mask in candidates if mask.any()), np.ones(label.shape, bool))


def bounding_box(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First voxel [3] and last voxel + 1 [3] of the box that holds `mask`, which must not be empty."""
    filled = [np.flatnonzero(mask.any(axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    return np.array([where[0] for where in filled]), np.array([where[-1] + 1 for where in filled])


def window(center: np.ndarray, size: tuple[int, ...], roi_size: tuple[int, ...]) -> np.ndarray:
    """First voxel [3] of the crop of `roi_size` round `center`.

    The crop is moved to lie inside the volume; along an axis where the volume is smaller it lies in the middle of the
    crop, and the first voxel is negative.
    """
    room = np.subtract(size, roi_size)
    return np.where(room >= 0, np.clip(center - np.array(roi_size) // 2, 0, np.maximum(room, 0)), room // 2)


def crop_volume(volume: np.ndarray, start: np.ndarray, roi_size: tuple[int, ...]) -> np.ndarray:
    """The crop of `roi_size` that begins at `start`; 0 outside the volume."""
    low = np.maximum(start, 0)
    high = np.minimum(start + roi_size, volume.shape)
    part = np.zeros(roi_size, volume.dtype, order="F")  # as it will lie in its file
    part[tuple(map(slice, low - start, high - start))] = volume[tuple(map(slice, low, high))]
    return part


def move(affine: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The affine [4, 4] of a crop that begins at the voxel `start`."""
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ start
    return moved


SAME = 1e-3  # spacings that differ by less than this part are equal
RAS = np.eye(4)  # an affine with these axes
THICK = 1.5  # times the spacing of the other two: across the slices of a stack


def thick_axis(spacing: tuple[float, ...]) -> int | None:
    """The axis across the slices of a stack, of `spacing` in mm; None where there is no such axis."""
    *_, second, first = np.argsort(spacing, kind="stable")
    return int(first) if spacing[first] >= THICK * spacing[second] else None


def turn(affine: np.ndarray, axes: np.ndarray | None) -> np.ndarray:
    """How to turn a volume of `affine` [4, 4]: for each of its axes the new place and direction, as nibabel has it.

    Args:
        axes: an affine [4, 4] to whose axes those of the volume are brought nearest; None: they stay as they are
            stored, but the thick one comes last.
    """
    if axes is None:
        thick = thick_axis(spacing_of(affine))
        places = np.argsort([*(axis for axis in range(3) if axis != thick), *([] if thick is None else [thick])])
        return np.stack([places, np.ones(3)], axis=1)
    own, wanted = (item[:3, :3] / spacing_of(item) for item in (affine, axes))
    # Directions count to three digits: between two that are equally near, rounding in the headers would turn one scan
    # otherwise than the next.
    return nib.io_orientation(nib.affines.from_matvec(np.round(np.linalg.solve(wanted, own), 3)))


def lies_along(path: str | Path, axes: np.ndarray | None) -> bool:
    """Whether `load_volume` has nothing to turn in the file."""
    return np.array_equal(turn(nib.load(path).affine, axes), nib.io_orientation(RAS))


def turned_grid(path: str | Path, axes: np.ndarray | None) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape and affine [4, 4] that `load_volume` gives, read from the header alone. Raises UserError as it does."""
    try:
        image = nib.funcs.squeeze_image(nib.load(path))
        fault = header_fault(image)
        to = turn(image.affine, axes)
    except Exception as error:  # nibabel, gzip and the file system each raise their own kinds
        raise UserError(f"{path}: cannot be read as NIfTI ({error})") from None
    require_volume(path, image.shape, fault)
    shape = tuple(int(size) for size in np.array(image.shape[:3])[np.argsort(to[:, 0])])
    return shape, affine_of(image) @ nib.orientations.inv_ornt_aff(to, image.shape[:3])


def load_volume(
    path: str | Path, channel: int | None = None, axes: np.ndarray | None = RAS
) -> tuple[np.ndarray, np.ndarray]:
    """Read a NIfTI file as (array [X, Y, Z], affine [4, 4] in mm), both turned as `turn` says: by default to RAS.

    `channel` chooses from a 4D file. Raises UserError where the file is missing, unreadable or not 3D.
    """
    try:
        image = nib.funcs.squeeze_image(open_nifti(path))
        fault = header_fault(image)
        if len(image.shape) == 4 and channel is not None and 0 <= channel < image.shape[3]:
            image = image.slicer[..., channel]
        if len(image.shape) == 3 and not fault:
            image = image.as_reoriented(turn(image.affine, axes))
        array = np.asanyarray(image.dataobj)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Exception as error:  # nibabel, gzip and the file system each raise their own kinds
        raise UserError(f"{path}: cannot be read as NIfTI ({error})") from None
    require_volume(path, image.shape, fault)
    if array.dtype.kind not in "biuf":
        raise UserError(f"{path}: has voxels of type {array.dtype}; real numbers are needed")
    return array, affine_of(image)


def require_volume(path: str | Path, shape: tuple[int, ...], fault: str | None) -> None:
    """Raise UserError where a file is not 3D, or its header has a fault."""
    if fault:
        raise UserError(f"{path}: {fault}; write its header anew from the original scan")
    if len(shape) != 3 or 0 in shape:
        raise UserError(f"{path}: has the shape {shape}, 3D is needed (--channel chooses from 4D images)")


MILLIMETRES = {0: 1, 1: 1000, 2: 1, 3: 0.001}  # of the codes of units: not known, metre, mm, micron


def affine_of(image: nib.Nifti1Image) -> np.ndarray:
    """The affine [4, 4] in mm, whatever unit the header names."""
    scale = MILLIMETRES.get(unit_of(image), 1)
    return np.diag([scale, scale, scale, 1]) @ image.affine


def unit_of(image: nib.Nifti1Image) -> int:
    """The code of the unit of lengths, without that of times, which may be any."""
    return int(image.header["xyzt_units"]) & 7


SPACINGS = (1e-4, 1000)  # mm between which voxels of any scanner or microscope lie


def header_fault(image: nib.Nifti1Image) -> str | None:
    """What contradicts itself in the header about where the voxels lie."""
    header, spacing, affine = image.header, np.array(spacing_of(image.affine)), affine_of(image)
    if unit_of(image) not in MILLIMETRES:
        return f"its unit of length has the code {unit_of(image)}, which NIfTI does not know"
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        return f"its affine {np.round(image.affine[:3], 3).tolist()} says nothing about where the voxels lie"
    sizes, (least, most) = spacing_of(affine), SPACINGS
    if min(sizes) < least or max(sizes) > most:
        return f"its voxels are of {', '.join(f'{size:g}' for size in sizes)} mm; from {least} to {most} are possible"
    if (angle := skew(image.affine)) > SKEW:
        return f"its axes are not at right angles, by {angle:.1f} degrees (a tilted gantry?); resample it first"
    pixdim = np.array(header.get_zooms()[:3], float)
    sform, qform = int(header["sform_code"]), int(header["qform_code"])
    if sform and not np.allclose(spacing[: len(pixdim)], pixdim, rtol=0.01):
        return f"its sform says voxels of {spacing.round(4).tolist()} mm, its pixdim of {pixdim.round(4).tolist()} mm"
    if sform and sform == qform:
        apart = corners_apart((*image.shape, 1, 1)[:3], image.affine, header.get_qform())
        if not apart <= pixdim.max():  # nor where it is NaN
            return f"its sform and its qform, both of code {sform}, lie {apart:.2f} mm apart"
    return None


SKEW = 1.0  # degrees; rounding in headers makes hundredths


def skew(affine: np.ndarray) -> float:
    """By how many degrees two axes are not at right angles, at most."""
    axes = affine[:3, :3] / spacing_of(affine)
    cosines = (axes.T @ axes)[np.triu_indices(3, 1)]
    return float(np.degrees(np.arcsin(np.abs(cosines).max().clip(0, 1))))


def header_note(path: str | Path) -> str | None:
    """What a header that is not wrong leaves open about where the voxels lie."""
    header = nib.load(path).header
    sform, qform = int(header["sform_code"]), int(header["qform_code"])
    if not sform and not qform:
        return "says nothing of its orientation (sform and qform have the code 0), which is guessed"
    shape = (*header.get_data_shape(), 1, 1)[:3]
    if sform and qform and sform != qform:
        try:
            apart = corners_apart(shape, header.get_sform(), header.get_qform())
        except ValueError:
            return "has a qform that is no rotation; the sform is taken"
        if not apart <= max(header.get_zooms()[:3]):  # nor where it is NaN
            return f"has a sform and a qform that lie {apart:.1f} mm apart; the sform is taken"
    return None


def corners_apart(shape: tuple[int, ...], affine: np.ndarray, other: np.ndarray) -> float:
    """The largest distance (mm) between the corner voxels of a volume of `shape` under two affines [4, 4]."""
    corners = np.array(list(product(*[(0, size - 1) for size in shape])))
    apart = nib.affines.apply_affine(affine, corners) - nib.affines.apply_affine(other, corners)
    return float(np.linalg.norm(apart, axis=1).max())


def spacing_of(affine: np.ndarray) -> tuple[float, ...]:
    """Voxel sizes in mm."""
    return tuple(float(length) for length in nib.affines.voxel_sizes(affine))


def resampled_size(size: tuple[int, ...], spacing: tuple[float, ...], target: tuple[float, ...]) -> tuple[int, ...]:
    """Voxels of a volume of `size` at `spacing` (mm) after resampling to `target` (mm)."""
    axes = zip(size, spacing, target, strict=True)
    return tuple(n if abs(new / old - 1) <= SAME else max(1, round(n * old / new)) for n, old, new in axes)


def resampled_affine(affine: np.ndarray, target: tuple[float, ...]) -> np.ndarray:
    """The affine after resampling: the outer corner of the first voxel stays where it is."""
    ratio = np.divide(target, spacing_of(affine))
    return affine @ nib.affines.from_matvec(np.diag(ratio), (ratio - 1) / 2)


def resample(volume: np.ndarray, spacing: tuple[float, ...], target: tuple[float, ...]) -> np.ndarray:
    """Resample [X, Y, Z] from `spacing` to `target` (mm): averages over the new voxels, linear where they are smaller.

    MONAI's Spacing takes the value at the centre of each new voxel: what lies between the centres is lost (at three
    times the spacing a vessel one voxel wide vanishes in two of three places), and noise is aliased.
    """
    return _weighted(volume, _all_weights(volume.shape, spacing, target))


def _weighted(volume: np.ndarray, weights: list[csr_array | None]) -> np.ndarray:
    """`volume` [X, Y, Z] times the weights of each axis, in float32; in order of files, X fastest."""
    along_x, along_y, along_z = weights
    slices = volume.astype(np.float32, order="F").T  # [Z, Y, X]: a slice stays in the processor's cache
    if along_x is not None or along_y is not None:
        slices = np.stack([_times(along_x, _times(along_y, plane).T).T for plane in slices])
    return _times(along_z, slices.reshape(len(slices), -1)).reshape(-1, *slices.shape[1:]).T


def _times(weights: csr_array | None, values: np.ndarray) -> np.ndarray:
    return values if weights is None else weights @ values


def _all_weights(
    size: tuple[int, ...], spacing: tuple[float, ...], target: tuple[float, ...]
) -> list[csr_array | None]:
    """The weights of each axis; None where the spacing stays."""
    axes = zip(size, resampled_size(size, spacing, target), spacing, target, strict=True)
    return [_weights(n, m, new / old) if abs(new / old - 1) > SAME else None for n, m, old, new in axes]


def _weights(size: int, new_size: int, ratio: float) -> csr_array:
    """Rows that sum to one, [new_size, size]: what each old voxel gives to each new one, `ratio` old voxels long.

    Sparse, as few old voxels reach a new one: a quarter of the time of a product of whole matrices.
    """
    old = np.arange(size)
    if ratio > 1:
        low = np.minimum(np.arange(new_size) * ratio, size - 1)[:, None]
        weights = np.clip(np.minimum(low + ratio, old + 1) - np.maximum(low, old), 0, None)
    else:
        centers = np.clip((np.arange(new_size) + 0.5) * ratio - 0.5, 0, size - 1)[:, None]
        weights = np.clip(1 - np.abs(centers - old), 0, None)
    return csr_array((weights / weights.sum(1, keepdims=True)).astype(np.float32))


def resample_label(
    label: np.ndarray, spacing: tuple[float, ...], target: tuple[float, ...], priority: list[int], thin: set[int]
) -> np.ndarray:
    """Resample class indices [X, Y, Z] from `spacing` to `target` (mm) so that thin classes keep whole.

    Each class is resampled by itself to the part that it fills of each new voxel. The largest part wins; of the voxels
    of which two classes fill equal parts, the one of higher priority takes as many as keep its volume: with all of them
    a sphere of radius 5 grew by 9 % at twice the spacing. A `thin` class wins from the part at which it keeps its
    volume, and takes every voxel that its centreline passes. Measured on 12 tubes in a liver, at 1.5, 2 and 3 times the
    spacing: of radius 1 voxel all stay in one piece (nearest neighbour: 2.2, 2.7 and 4.2 pieces), Dice 0.66, 0.58 and
    0.37 (0.64, 0.49, 0.37), drawn with 1.3, 1.7 and 3.4 times their volume; of radius 2.5 and 5 they have 1.01 to 1.06
    times their volume.

    Args:
        priority: all classes but the background, from low to high.
        thin: tubular classes and lesions.
    """
    if np.allclose(spacing, target, rtol=SAME):
        return label
    shape, ratio = resampled_size(label.shape, spacing, target), np.divide(target, spacing)
    result, largest = np.zeros(shape, label.dtype, order="F"), np.zeros(shape, np.float32, order="F")
    if not label.any():
        return result
    weights = _all_weights(label.shape, spacing, target)
    new, part = _parts(label == 0, bounding_box(label > 0), weights, ratio)
    largest[new] = part
    for index in priority:
        mask = label == index
        if not mask.any():
            continue
        box = bounding_box(mask)
        new, part = _parts(mask, box, weights, ratio)
        won = (part >= keeping_volume(part)) & (part > 0) if index in thin else _larger(part, largest[new])
        result[new][won] = index
        np.maximum(largest[new], part, out=largest[new])
        if index in thin:
            result[_centerline(mask, box, ratio, result.shape)] = index
    return result


def _parts(
    mask: np.ndarray, box: tuple[np.ndarray, np.ndarray], weights: list[csr_array | None], ratio: np.ndarray
) -> tuple[tuple[slice, ...], np.ndarray]:
    """The new voxels that old ones in `box` reach, and what part of each `mask` [X, Y, Z] fills."""
    sides = [_sides(*side) for side in zip(*box, weights, ratio, strict=True)]
    old, new = zip(*sides, strict=True)
    inner = [None if one is None else one[rows, cols] for one, cols, rows in zip(weights, old, new, strict=True)]
    return new, _weighted(mask[old], inner)


def _sides(low: int, high: int, weights: csr_array | None, ratio: float) -> tuple[slice, slice]:
    """Along an axis: the old voxels to look at for a mask from `low` to `high`, and the new ones that it may reach."""
    if weights is None:
        return slice(low, high), slice(low, high)
    new = slice(max(0, int((low - 1) / ratio - 1)), int((high + 1) / ratio + 2))
    seen = weights[new].indices
    return slice(seen.min(), seen.max() + 1), new


EQUAL = 1e-4  # parts that differ by less are equal, as float32 rounds them


def _larger(part: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Where a class fills a larger `part` of a new voxel than any `other`; and of those with equal parts as many as
    keep its volume, those in its midst first."""
    won, equal = part > other + EQUAL, np.argwhere((np.abs(part - other) <= EQUAL) & (part > EQUAL))
    number = round(float(part.sum(dtype=np.float64))) - np.count_nonzero(won)
    if number > 0 and len(equal):
        midst = uniform_filter(part, 3, mode="nearest")[tuple(equal.T)]
        won[tuple(equal[np.argsort(-midst, kind="stable")[:number]].T)] = True
    return won


def keeping_volume(part: np.ndarray, volume: float | None = None) -> float:
    """The part of a voxel from which on a class must win to keep its volume (voxels; default: the sum of the parts);
    between 1/4 (else noise grows) and 1/2."""
    parts = part[part > 0]  # of a vein few, and the sort is the most of the work
    volume = min(round(float(parts.sum(dtype=np.float64)) if volume is None else volume), parts.size)
    return float(np.clip(np.partition(parts, parts.size - volume)[-volume], 0.25, 0.5)) if volume else 0.5


def _centerline(
    mask: np.ndarray, box: tuple[np.ndarray, np.ndarray], ratio: np.ndarray, new_shape: tuple[int, ...]
) -> tuple[np.ndarray, ...]:
    """Indices of the new voxels, `ratio` old ones long, that the centreline of `mask` [X, Y, Z] in `box` passes."""
    low, high = box
    points = np.argwhere(skeletonize(np.pad(mask[tuple(map(slice, low, high))], 1))) - 1 + low
    return tuple(np.clip((points + 0.5) // ratio, 0, np.subtract(new_shape, 1)).astype(int).T)
