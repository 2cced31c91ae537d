"""`lldm3d edit`: lesions added to a scan, removed or grown, and vessels made wider or thinner."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from lldm3d import plots
from lldm3d.data.dataset import SPLITS, Schema
from lldm3d.data.scans import Scan
from lldm3d.errors import UserError, did_you_mean
from lldm3d.files import output_folder, require_replaceable, save_nifti, write_json
from lldm3d.lesions.calibre import with_calibre
from lldm3d.lesions.editor import MASK_SOURCES, read_shapes
from lldm3d.lesions.figure import edits_figure
from lldm3d.lesions.pool import Scans
from lldm3d.lesions.request import AUTO, drawn_lesion, editor_of, removed_or_grown
from lldm3d.pairs.folder import pair_manifest, write_dataset_json
from lldm3d.pairs.painters import COPY_PASTE, Texture, open_texture, require_painting
from lldm3d.pairs.sources import SHAPES, LabelFile, shapes_path

REAL_SHAPES = "real_shapes"
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
        lesions_from: another prepared data set, whose training cases give lesions; or another work directory, whose
            models paint them too. Default: the scan's own.
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
    donors, models = lesions_of(lesions_from, folder, workdir)
    require_replaceable(target, overwrite, [folder])
    own = Scans(folder, SPLITS)
    before = own.read(case)
    painter = open_texture(texture, models, add, own.schema)
    if add in own.schema.tubular:
        raise UserError(f"--add {add}: the data set says that this is a vessel, no lesion; give another class")
    if calibre is not None:
        of = tubular_class(own.schema, of)
        after = [narrowed(own.schema, before, calibre, of)]
        edited = Edited(case, of, after, [[{"scan": case, "calibre": calibre, "of": of}]])
    else:
        if source == SHAPES and not models:
            raise UserError(f"--source {SHAPES}: give --workdir, of a run that trained {SHAPES}")
        shapes = read_shapes(shapes_path(models)) if source == SHAPES else ()
        editor = editor_of(own, donors, add or remove or of, organ, shapes)
        if add:
            rows = [[drawn_lesion(editor, case, source, long_axis, place, [seed, number])] for number in range(n)]
        else:
            rows = [removed_or_grown(editor, case, grow, which)]
        bar = tqdm(rows, desc=f"lesions by {painter.method.title}", mininterval=1, disable=painter.paint is None)
        after = [painter.scan(editor, edits, seed, number) for number, edits in enumerate(bar)]
        edited = Edited(case, rows[0][0].lesion, after, [[one.as_row() for one in edits] for edits in rows])
    with output_folder(target, overwrite, [folder, donors]) as written:
        write_edited(own, edited, painter, seed, written, donors)
    lengths = [f"{row['long_axis']:.1f} mm" for edits in edited.rows for row in edits if row.get("long_axis")]
    print(f"{target}: {len(after)} edited scans" + (f", lesions of {', '.join(lengths)}" if lengths else ""))


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


def lesions_of(given: str | None, folder: Path, workdir: str | None) -> tuple[Path, str | None]:
    """The data set that gives lesions, and the work directory whose models paint them, if any.

    Args:
        given: another data set or work directory; None: those of the scan.
        folder: the scan's data set.
    """
    if given is None:
        return folder, workdir
    inner = Path(given) / "dataset"
    return (inner, given) if inner.is_dir() else (Path(given), workdir)


def tubular_class(schema: Schema, of: str | None) -> str:
    """The class `of`, by default the one tubular class. Raises UserError where there is none, or are several."""
    names = schema.class_names[1:]
    if of is None and len(schema.tubular) != 1:
        raise UserError(f"--calibre: say of which class, --of {' or '.join(schema.tubular or names)}")
    if of not in (None, *names):
        raise UserError(f"--of {of}: no such class; {did_you_mean(of, names)}there are {', '.join(names)}")
    if of in schema.lesions:
        raise UserError(f"--of {of}: the data set says that this is a lesion, no vessel; give another class")
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


@dataclass(frozen=True)
class Edited:
    """A scan after its edits, in some variants."""

    case: str
    changed: str  # class
    scans: Sequence[Scan]
    rows: Sequence[Sequence[dict]]  # of the manifest, of each

    @property
    def has_images(self) -> bool:
        """Whether there are images; a calibre changes the label alone."""
        return "calibre" not in self.rows[0][0]


def write_edited(own: Scans, edited: Edited, texture: Texture, seed: int, folder: Path, donors: Path) -> None:
    """Write the edited scans into a folder of pairs, and the picture.

    Args:
        donors: data set whose lesions were used.
    """
    patient = own.cases[edited.case].patient
    names = [f"{edited.case}_edit{number:02d}" for number in range(len(edited.scans))]
    labels = []
    for name, scan, rows in zip(names, edited.scans, edited.rows, strict=True):
        path = folder / f"labelsTr/{name}.nii.gz"
        save_nifti(path, scan.label, scan.affine)
        labels.append(LabelFile(str(path), name, patient, edits=list(rows)))
        if edited.has_images:
            save_nifti(folder / f"imagesTr/{name}.nii.gz", scan.image, scan.affine)
    settings = {"data": str(own.folder), "lesions_from": str(donors), **(texture.settings or {})}
    write_json(
        folder / "manifest.json", pair_manifest(texture.method, texture.models, labels, names, seed, settings, ())
    )
    if edited.has_images:
        about = "A real scan, edited: a patient, with lesions that are not his."
        write_dataset_json(folder, own.folder, about, names, [patient] * len(names), "edited")
    classes = own.schema.class_names
    value, before = classes.index(edited.changed), own.read(edited.case)
    plots.save(edits_figure(before, edited.scans, value, own.schema.spacing, classes), folder / "edits.png")
