"""What a user asks of the editor: a lesion of some length at some place, or the scan's own ones taken out or grown."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from lldm3d.data.scans import Scan
from lldm3d.errors import UserError
from lldm3d.lesions.editor import TRIES, Edit, Editor
from lldm3d.lesions.masks import lesion_parts
from lldm3d.lesions.masks import long_axis as length_of
from lldm3d.lesions.placement import allowed_voxels, draw_centre, misfit
from lldm3d.lesions.pool import LesionPool, Scans, lesion_classes

AUTO = "auto"


def editor_of(
    own: Scans,
    lesions_from: str | Path,
    lesion: str | None,
    organ: Sequence[str] | None,
    shapes: Sequence[dict] = (),
) -> Editor:
    """The editor of some scans, with the lesions of the training cases of a data set, which has the same classes."""
    classes = lesion_classes(own.schema, own.folder, lesion, organ)
    pool = Scans(lesions_from)
    names = [own.schema.class_names[value] for value in (classes.lesion, *classes.organ)]
    theirs = [name for name in names[1:] if name in pool.schema.class_names] or None
    return Editor(
        LesionPool(own, classes), LesionPool(pool, lesion_classes(pool.schema, pool.folder, names[0], theirs)), shapes
    )


def drawn_lesion(editor: Editor, case: str, source: str, wanted: float | None, place: str, seed: Sequence[int]) -> Edit:
    """Draw a new lesion, and its place where none is given. Raises UserError where there is no room for it."""
    scan, rng, reason = editor.own.scans.read(case), np.random.default_rng(seed), None
    organ = np.isin(scan.label, (*editor.classes.organ, *editor.classes.lesions))
    names = ", ".join(editor.begun(case).organ)
    if not organ.any():
        raise UserError(f"{case}: has no {names}, in which a lesion could lie")
    if wanted is not None and not min(editor.spacing) <= wanted <= (length := length_of(organ, editor.spacing)):
        what = "shorter than a voxel" if wanted < min(editor.spacing) else f"longer than the organ ({length:.0f} mm)"
        raise UserError(f"--long_axis {wanted:g}: is {what}; choose another length")
    centre = voxel_at(place, scan, organ) if place != AUTO else None
    for _ in range(TRIES):
        edit = editor.new_lesion(rng, case, source, wanted)
        mask = editor.mask(edit)
        if centre is None:
            found = draw_centre(rng, scan.label, mask, editor.classes, editor.pool.places)
        else:
            reason = misfit(scan.label, centre, mask, editor.classes)
            found = centre if reason is None else None
        if found is not None:
            return replace(edit, centre=found)
    allowed = allowed_voxels(scan.label, editor.classes)
    depth = ndimage.distance_transform_edt(allowed, editor.spacing)
    most = 2 * (depth[centre] if centre else depth.max())
    raise UserError(
        f"{case}: no room for a lesion of {edit.long_axis:.0f} mm in {names}"
        + (f" at {place}: {reason}" if centre else "")
        + f" ({TRIES} shapes tried; the widest ball {'there' if centre else 'that fits'} has {most:.0f} mm); choose a "
        "smaller --long_axis, another --place, or more classes as --organ"
    )


def voxel_at(place: str, scan: Scan, organ: np.ndarray) -> tuple[int, int, int]:
    """The voxel at x,y,z in mm. Raises UserError for what is no place in the scan, with the box of the organ."""
    corners = scan.affine @ np.c_[[np.argwhere(organ).min(0), np.argwhere(organ).max(0)], [1, 1]].T
    box = " to ".join(",".join(f"{length:.0f}" for length in corner) for corner in np.sort(corners[:3]).T)
    try:
        point = [float(text) for text in place.strip("()[] ").split(",")]
        voxel = np.rint(np.linalg.inv(scan.affine) @ [*point, 1])[:3].astype(int)
    except (ValueError, OverflowError):
        raise UserError(f"--place {place!r}: give {AUTO}, or x,y,z in mm; the organ lies within {box}") from None
    if not ((voxel >= 0) & (voxel < organ.shape)).all():
        raise UserError(f"--place {place}: lies outside the scan; the organ lies within {box}")
    return tuple(map(int, voxel))


def removed_or_grown(editor: Editor, case: str, factor: float | None, which: int | None = None) -> list[Edit]:
    """An edit for each lesion of a scan, or one of them, taken out or grown by a factor.

    Raises UserError where there is none, or it would leave the organ or come near another.
    """
    label, begun = editor.own.scans.read(case).label, editor.begun(case)
    parts, edits = lesion_parts(label, editor.classes.lesion), []
    if not parts:
        raise UserError(f"{case}: has no {begun.lesion}")
    if which is not None and not 1 <= which <= len(parts):
        raise UserError(f"--which {which}: {case} has {len(parts)} of {begun.lesion}, from 1 on")
    for number, (mask, box) in enumerate(parts):
        if which not in (None, number + 1):
            continue
        edit = replace(begun, removes=number)
        if factor is not None:
            middle = np.array([axis.start for axis in box]) + ndimage.center_of_mass(mask)
            own = {"lesion": number}
            edit = replace(edit, shape=own, scale=factor, centre=tuple(map(int, np.rint(middle))), donor=own)
            grown = editor.mask(edit)
            edit = replace(edit, long_axis=length_of(grown, editor.spacing))
            if (grown.sum() - mask.sum()) * (factor - 1) <= 0:
                raise UserError(
                    f"{case}: the lesion {number + 1} of {len(parts)} ({mask.sum()} voxels) would have "
                    f"{grown.sum()} by the factor {factor:g}; choose one farther from 1, or --which others"
                )
            without = editor.label(label, [replace(begun, removes=number)])
            if factor > 1 and (reason := misfit(without, edit.centre, grown, editor.classes)):
                length = length_of(mask, editor.spacing)
                raise UserError(
                    f"{case}: the lesion {number + 1} of {len(parts)} ({length:.0f} mm) cannot grow to "
                    f"{edit.long_axis:.0f} mm: {reason}; choose a smaller factor, --which alone shall grow, or more "
                    "classes as --organ"
                )
        edits.append(edit)
        label = editor.label(label, edits[-1:])
    return edits
