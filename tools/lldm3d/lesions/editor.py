"""The edit itself: rows that say all of it, and the scan that a row makes, the same each time."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from scipy.spatial.transform import Rotation

from lldm3d.data.scans import Scan
from lldm3d.errors import UserError
from lldm3d.files import read_json
from lldm3d.lesions.masks import Ellipsoid, Shape, fitted_scale, long_axis, rasterised, unpacked
from lldm3d.lesions.placement import draw_centre, in_volume
from lldm3d.lesions.pool import Crop, LesionPool, Scans, lesion_classes
from lldm3d.lesions.textures import pasted, repaired, stretch_to_donor

MaskSource = Literal["ellipsoids", "real_shapes", "lngen"]
LongAxis = Literal["own", "uniform"]
MASK_SOURCES = get_args(MaskSource)
Paint = Callable[[np.ndarray, np.ndarray, "Edit"], np.ndarray]
SEVERAL = 20.0  # mm: shorter lesions come up to `MOST` in a scan, longer ones alone, as with DiffTumor
MOST = 3
TRIES = 12  # shapes that are drawn for a scan before it is left as it has become
NEAREST = 5  # real lesions of about a length, one of which gives shape or intensities: enlarged ones are smooth


@dataclass(frozen=True)
class Edit:
    """One edit of a scan: a row of a manifest, from which with the data set alone it can be made again.

    A lesion is taken out (`removes`), put in (`shape`), or both where it grows.
    """

    scan: str
    lesion: str  # class
    organ: tuple[str, ...]  # classes that it may cover
    removes: int | None = None  # number of a lesion of the scan as it was, in the order of `lesion_parts`
    # {radii, deformation, seed} of an ellipsoid, {scan, lesion} or, of this scan, {lesion}, {sides, packed} of a mask
    shape: dict | None = None
    rotation: tuple[float, float, float] = (0.0, 0.0, 0.0)  # rotation vector, radians
    scale: float = 1.0
    centre: tuple[int, int, int] | None = None  # voxel
    long_axis: float | None = None  # mm, of the mask
    donor: dict | None = None  # {scan, lesion} or {lesion}: whose intensities

    def as_row(self) -> dict:
        """The edit as JSON gives it back."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def of(cls, row: dict) -> "Edit":
        """The edit of a row."""
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in row.items()})


class Editor:
    """Edits scans of a data set with lesions of a pool.

    Args:
        own: the scans that are edited.
        pool: whose lesions give shapes, places and intensities; that of the same data set or of another.
        shapes: rows of drawn masks, for the source lngen.
    """

    def __init__(self, own: LesionPool, pool: LesionPool, shapes: Sequence[dict] = ()) -> None:
        self.own, self.pool, self.classes, self.shapes = own, pool, own.classes, shapes
        self.spacing = own.scans.schema.spacing

    def begun(self, scan: str) -> Edit:
        """An edit of a scan that changes nothing yet."""
        names = self.own.scans.schema.class_names
        return Edit(scan, names[self.classes.lesion], tuple(names[value] for value in self.classes.organ))

    def shape(self, edit: Edit) -> Shape:
        """The shape of a new lesion before rotation and scale."""
        if "radii" in edit.shape:
            return Ellipsoid(tuple(edit.shape["radii"]), edit.shape["deformation"], edit.shape["seed"])
        if "packed" in edit.shape:
            return unpacked(edit.shape)
        return self.holder(edit.shape).shape(edit.shape.get("scan", edit.scan), edit.shape["lesion"])

    def holder(self, lesion: dict) -> LesionPool:
        """The lesions among which a row names one."""
        return self.pool if "scan" in lesion else self.own

    def mask(self, edit: Edit) -> np.ndarray:
        """The mask [x, y, z] of a new lesion, its middle at the centre."""
        return rasterised(self.shape(edit), self.spacing, edit.rotation, edit.scale)

    def removed(self, edit: Edit) -> np.ndarray:
        """The mask [X, Y, Z] of the lesion that an edit takes out."""
        return self.own.mask(edit.scan, edit.removes)

    def donor_of(self, edit: Edit) -> Crop:
        """The lesion whose intensities an edit takes."""
        return self.holder(edit.donor).crop(edit.donor.get("scan", edit.scan), edit.donor["lesion"])

    def label(self, label: np.ndarray, edits: Sequence[Edit]) -> np.ndarray:
        """A label map [X, Y, Z] after edits: as it was, but for the lesions that come and go."""
        found = label.copy()
        for edit in edits:
            if edit.removes is not None:
                found[self.removed(edit)] = self.classes.organ[0]
            if edit.shape:
                found[in_volume(self.mask(edit), edit.centre, label.shape)] = self.classes.lesion
        return found

    def scan(self, edits: Sequence[Edit], paint: Paint | None = None) -> Scan:
        """A scan after its edits; outside their masks and rims its image is the same bit by bit.

        Args:
            paint: from image and label [X, Y, Z] and an edit to the image with a new lesion; None: copy-paste.
        """
        before = self.own.scans.read(edits[0].scan)
        image, label = before.image, before.label
        for edit in edits:
            if edit.removes is not None:
                organ, plain = np.isin(label, self.classes.organ), label == self.classes.organ[0]
                image = repaired(image, organ, plain, self.removed(edit), self.spacing)
            if edit.shape:
                image = (paint or self.paste)(image, label, edit)
            label = self.label(label, [edit])
        return replace(before, image=image, label=label)

    def paste(self, image: np.ndarray, label: np.ndarray, edit: Edit) -> np.ndarray:
        """The image with a new lesion."""
        small, donor = self.mask(edit), self.donor_of(edit)
        if edit.donor == edit.shape:
            to_donor = Rotation.from_rotvec(edit.rotation).inv().as_matrix() / edit.scale
        else:
            to_donor = stretch_to_donor(small, self.spacing, donor)
        mask = in_volume(small, edit.centre, label.shape)
        return pasted(image, np.isin(label, self.classes.organ), mask, edit.centre, self.spacing, donor, to_donor)

    def new_lesion(self, rng: np.random.Generator, scan: str, source: MaskSource, wanted: float | None) -> Edit:
        """Draw a lesion that has no place yet.

        Args:
            wanted: its long axis, mm; None: the shape's own, of a drawn mask, which has none, one of the real range.
        """
        if source == "ellipsoids":
            shape = asdict(Ellipsoid.draw(rng))
            shape["radii"] = list(shape["radii"])
        elif source == "lngen":
            shape = self.shapes[rng.integers(len(self.shapes))]
            wanted = self.real_length(rng) if wanted is None else wanted
        else:
            shape = self.real_lesion(rng, wanted)
        rotation = tuple(map(float, Rotation.random(rng=rng).as_rotvec()))
        edit = replace(self.begun(scan), shape=shape, rotation=rotation)
        if wanted is not None:
            edit = replace(edit, scale=fitted_scale(self.shape(edit), self.spacing, rotation, wanted))
        length = long_axis(self.mask(edit), self.spacing)
        return replace(edit, long_axis=length, donor=shape if "lesion" in shape else self.real_lesion(rng, length))

    def real_length(self, rng: np.random.Generator) -> float:
        """A long axis (mm), uniform over the range of real ones."""
        lengths = [lesion.long_axis for lesion in self.pool.lesions]
        return rng.uniform(min(lengths), max(lengths))

    def real_lesion(self, rng: np.random.Generator, length: float | None) -> dict:
        """One of the real lesions that are nearest to a long axis (mm), or any."""
        found = self.pool.lesions
        if length is not None:
            found = sorted(found, key=lambda lesion: abs(lesion.long_axis - length))[:NEAREST]
        return found[rng.integers(len(found))].as_row()

    def draw(self, rng: np.random.Generator, scan: str, source: MaskSource, uniform: bool) -> list[Edit]:
        """Draw one to three new lesions for a scan, each with room; none where `TRIES` shapes found none.

        Args:
            uniform: draw the long axis uniformly over the range of real ones; else shapes keep their own.
        """
        label, edits, number = self.own.scans.read(scan).label, [], 1
        for _ in range(TRIES):
            wanted = self.real_length(rng) if uniform else None
            edit = self.new_lesion(rng, scan, source, wanted)
            centre = draw_centre(rng, label, self.mask(edit), self.classes, self.pool.places)
            if centre is None or (edits and edit.long_axis >= SEVERAL):
                continue
            edits.append(replace(edit, centre=centre))
            label = self.label(label, edits[-1:])
            if len(edits) == 1 and edit.long_axis < SEVERAL:
                number = 1 + rng.integers(MOST)
            if len(edits) == number:
                break
        return edits


@lru_cache(1)  # processes that are forked share what it holds
def open_editor(
    dataset_dir: str | Path,
    lesion: str | None = None,
    organ: tuple[str, ...] | None = None,
    shapes: str | Path | None = None,
) -> Editor:
    """The editor of a data set's training scans, with their own lesions.

    Args:
        lesion, organ: see `lesion_classes`, whose errors are raised.
        shapes: file of drawn masks; see `read_shapes`.
    """
    scans = Scans(dataset_dir)
    pool = LesionPool(scans, lesion_classes(scans.schema, dataset_dir, lesion, organ))
    return Editor(pool, pool, read_shapes(shapes) if shapes else ())


def read_shapes(path: str | Path) -> list[dict]:
    """The drawn masks that LN-Gen left in a file. Raises UserError where there is none."""
    if not Path(path).is_file():
        raise UserError(f"{path}: holds no drawn shapes; train them with `lldm3d run --methods lngen --sources lngen`")
    return read_json(path)["shapes"]
