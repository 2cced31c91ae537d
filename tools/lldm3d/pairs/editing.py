"""`lldm3d edit`: lesions added to a scan, removed or grown, and vessels made wider or thinner."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import ndimage
from tqdm import tqdm

from lldm3d import plots
from lldm3d.data.dataset import SPLITS, Schema
from lldm3d.data.scans import Scan
from lldm3d.errors import UserError, did_you_mean
from lldm3d.files import output_folder, require_replaceable, save_nifti, write_json
from lldm3d.lesions.calibre import with_calibre
from lldm3d.lesions.editor import MASK_SOURCES, TRIES, Edit, Editor, read_shapes
from lldm3d.lesions.figure import edits_figure
from lldm3d.lesions.masks import lesion_parts
from lldm3d.lesions.masks import long_axis as length_of
from lldm3d.lesions.placement import allowed_voxels, draw_centre, misfit
from lldm3d.lesions.pool import LesionPool, Scans, lesion_classes
from lldm3d.pairs.folder import pair_manifest, write_dataset_json
from lldm3d.pairs.painters import COPY_PASTE, Texture, open_texture, require_painting
from lldm3d.pairs.sources import SHAPES, LabelFile, shapes_path

AUTO, REAL_SHAPES = "auto", "real_shapes"
# what a further option has a part in; those that are not here, in a new lesion
USED = {"of": ("grow", "calibre"), "which": ("remove", "grow"), "organ": ("add", "remove", "grow")}


def edit(
    case: str,
    output_dir: str,
    workdir: str | None = None,
    data: str | None = None,
    add: str | None = None,
    remove: str | None = None,
    grow: float | None = None,
    calibre: float | None = None,
    of: str | None = None,
    which: int | None = None,
    long_axis: float | None = None,
    place: str = AUTO,
    source: str = REAL_SHAPES,
    texture: str = COPY_PASTE,
    organ: Sequence[str] | None = None,
    lesions_from: str | None = None,
    n: int = 1,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Edit a scan: write it with its new label map, a manifest and a picture of before, after and difference.

    New lesions are copies of real ones of the training cases, turned, scaled and blended at the rim, or painted by a
    trained method. A removed one is filled with the organ's brightness around it and a piece of its texture. All other
    voxels stay as they are. What cannot be done is refused, and nothing is written.

    Args:
        case: name of the scan in the data set.
        output_dir: new folder of the edited scans: a folder of pairs, whose cases can be edited again.
        workdir: work directory of `lldm3d run`, or instead
        data: a prepared data set.
        add: a lesion of this class, such as HCC.
        remove: all lesions of this class.
        grow: factor by which all lesions grow, such as 1.5, or shrink, such as 0.7.
        calibre: factor of the radius of vessels, such as 1.3. This changes the label alone: draw an image for it with
            `lldm3d generate --label`.
        of: the class that grows or whose calibre changes; default: the data set's one lesion, or tubular class.
        which: of several lesions the one that is removed or grows, from 1; default: all.
        long_axis: of a new lesion, mm; default: that of the drawn shape.
        place: of its centre: auto, as real lesions lie in the organ, or x,y,z in mm as viewers show them.
        source: of its shape: real_shapes (of training cases), ellipsoids (deformed), lngen (drawn in the workdir).
        texture: method that paints it: copy_paste, or of those that the workdir has trained lefusion, difftumor,
            haar_inpaint or lngen.
        organ: classes that a lesion may cover; default: the one around it, and what else lies within that.
        lesions_from: another prepared data set, whose training cases give lesions; default: the scan's own.
        n: number of edited scans, each with another new lesion.
        seed: of all that is drawn.
        overwrite: replace earlier edits.

    Raises:
        UserError: for a request that cannot be met, with the reason.
    """
    asked = {"add": add, "remove": remove, "grow": grow, "calibre": calibre}
    more = {"long_axis": long_axis, "lesions_from": lesions_from, "of": of, "which": which, "organ": organ}
    more |= {"place": place != AUTO or None, "source": source != REAL_SHAPES or None, "n": n != 1 or None}
    more |= {"texture": texture != COPY_PASTE or None}
    check_request(asked, more | {"seed": seed or None}, source, n, seed)
    require_painting(texture)
    folder, target = data_folder(workdir, data), Path(output_dir)
    require_replaceable(target, overwrite, [folder])
    own = Scans(folder, SPLITS)
    before = own.read(case)
    if calibre is not None:
        of = tubular_class(own.schema, of)
        edits, after = [[{"scan": case, "calibre": calibre, "of": of}]], [narrowed(own.schema, before, calibre, of)]
        painter = open_texture(COPY_PASTE, None, None, own.schema)
        return write_edited(own, case, after, edits, painter, seed, target, overwrite, folder)
    if source == SHAPES and not workdir:
        raise UserError(f"--source {SHAPES}: give --workdir, of a run that trained {SHAPES}")
    shapes = read_shapes(shapes_path(workdir)) if source == SHAPES else ()
    editor = editor_of(own, lesions_from or folder, add or remove or of, organ, shapes)
    painter = open_texture(texture, workdir, add, own.schema)
    if add:
        rows = [[drawn_lesion(editor, case, source, long_axis, place, [seed, number])] for number in range(n)]
    else:
        rows = [removed_or_grown(editor, case, grow, which)]
    bar = tqdm(rows, desc=f"lesions by {painter.method.title}", mininterval=1, disable=painter.paint is None)
    after = [painter.scan(editor, edits, seed, number) for number, edits in enumerate(bar)]
    edits = [[edit.as_row() for edit in row] for row in rows]
    write_edited(own, case, after, edits, painter, seed, target, overwrite, lesions_from or folder)


def check_request(asked: dict, more: dict, source: str, n: int, seed: int) -> None:
    """Raises UserError where not one thing is asked, or an option is not allowed.

    Args:
        asked: add, remove, grow and calibre.
        more: further options; None where they are not given.
    """
    given = [name for name, value in asked.items() if value is not None]
    if len(given) != 1:
        allowed = ", ".join(f"--{name}" for name in asked)
        got = ", ".join(f"--{name}" for name in given)
        raise UserError(f"give one of {allowed}, got {got or 'none'}; call it again for another edit")
    if idle := [name for name, value in more.items() if value is not None and given[0] not in USED.get(name, ("add",))]:
        raise UserError(f"--{idle[0]} changes nothing with --{given[0]}; leave it out")
    if source not in MASK_SOURCES:
        raise UserError(
            f"--source {source!r}: {did_you_mean(source, MASK_SOURCES)}allowed are {', '.join(MASK_SOURCES)}"
        )
    for name in ("grow", "calibre"):
        if (value := asked[name]) is not None and not (0.1 <= value <= 10 and value != 1):
            raise UserError(f"--{name} {value}: a factor from 0.1 to 10 other than 1 is needed, such as 1.5")
    if (length := more["long_axis"]) is not None and not 0 < length < math.inf:
        raise UserError(f"--long_axis {length}: a length in mm is needed, such as 12")
    if not 1 <= n <= 1000 or not 0 <= seed < 2**31:
        raise UserError(f"--n {n}, --seed {seed}: n from 1 to 1000 and a seed of at least 0 are needed")


def data_folder(workdir: str | None, data: str | None) -> Path:
    """The prepared data set. Raises UserError unless one of both is given."""
    if bool(workdir) == bool(data):
        raise UserError("give either --workdir, of `lldm3d run`, or --data, a prepared data set")
    return Path(data) if data else Path(workdir) / "dataset"


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
            edit = replace(edit, long_axis=length_of(editor.mask(edit), editor.spacing))
            without = editor.label(label, [replace(begun, removes=number)])
            if reason := misfit(without, edit.centre, editor.mask(edit), editor.classes):
                length = length_of(mask, editor.spacing)
                raise UserError(
                    f"{case}: the lesion {number + 1} of {len(parts)} ({length:.0f} mm) cannot grow to "
                    f"{edit.long_axis:.0f} mm: {reason}; choose a smaller factor, --which alone shall grow, or more "
                    "classes as --organ"
                )
        edits.append(edit)
        label = editor.label(label, edits[-1:])
    return edits


def tubular_class(schema: Schema, of: str | None) -> str:
    """The class `of`, by default the one tubular class. Raises UserError where there is none, or are several."""
    names = schema.class_names[1:]
    if of is None and len(schema.tubular) != 1:
        raise UserError(f"--calibre: say of which class, --of {' or '.join(schema.tubular or names)}")
    if of not in (None, *names):
        raise UserError(f"--of {of}: no such class; {did_you_mean(of, names)}there are {', '.join(names)}")
    return of or schema.tubular[0]


def narrowed(schema: Schema, scan: Scan, factor: float, of: str) -> Scan:
    """The scan with another calibre of a class in its label. Raises UserError where that changes nothing."""
    names = list(schema.class_names)
    kept = [value for value, name in enumerate(names) if name in (*schema.tubular, *schema.lesions)]
    label = with_calibre(scan.label, names.index(of), factor, schema.spacing, tuple(kept))
    before, after = ((volume == names.index(of)).sum() for volume in (scan.label, label))
    if (label == scan.label).all():
        raise UserError(f"--calibre {factor:g}: changes no voxel of {of}, which has {before} of them in this scan")
    print(f"{of}: {before} voxels before, {after} after")
    return replace(scan, label=label)


def write_edited(
    own: Scans,
    case: str,
    after: Sequence[Scan],
    edits: list[list[dict]],
    texture: Texture,
    seed: int,
    target: Path,
    overwrite: bool,
    lesions_from: str | Path,
) -> None:
    """Write the edited scans as a folder of pairs, those whose label alone changed without images; and the picture.

    Args:
        edits: of each, rows of the manifest.
    """
    patient, names = own.cases[case].patient, [f"{case}_edit{number:02d}" for number in range(len(after))]
    images, changed = "calibre" not in edits[0][0], edits[0][0].get("of") or edits[0][0]["lesion"]
    settings = {"data": str(own.folder), "lesions_from": str(lesions_from), **(texture.settings or {})}
    with output_folder(target, overwrite, [own.folder, lesions_from]) as folder:
        labels = []
        for name, scan, rows in zip(names, after, edits, strict=True):
            path = folder / f"labelsTr/{name}.nii.gz"
            save_nifti(path, scan.label, scan.affine)
            labels.append(LabelFile(str(path), name, patient, edits=rows))
            if images:
                save_nifti(folder / f"imagesTr/{name}.nii.gz", scan.image, scan.affine)
        manifest = pair_manifest(texture.method, texture.models, labels, names, seed, settings, ())
        write_json(folder / "manifest.json", manifest)
        if images:
            about = "A real scan, edited: a patient, with lesions that are not his."
            write_dataset_json(folder, own.folder, about, names, [patient] * len(names), "edited")
        names = own.schema.class_names
        figure = edits_figure(own.read(case), after, names.index(changed), own.schema.spacing, names)
        plots.save(figure, folder / "edits.png")
    lengths = [f"{row['long_axis']:.1f} mm" for rows in edits for row in rows if row.get("long_axis")]
    print(f"{target}: {len(after)} edited scans" + (f", lesions of {', '.join(lengths)}" if lengths else ""))
