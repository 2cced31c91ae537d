"""The real lesions of a data set: which there are, how long, where in their organ, and what they look like."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from scipy import ndimage

from lldm3d.data.dataset import Schema, load_cases, load_schema
from lldm3d.data.scans import Scan, read_pair
from lldm3d.errors import UserError, did_you_mean
from lldm3d.lesions.masks import RealShape, lesion_parts, long_axis

KEPT = 8  # scans in memory
MARGIN = 4  # voxels round a lesion in its crop


@dataclass(frozen=True)
class LesionClasses:
    """What is a lesion, and where it may lie, as label values."""

    lesion: int
    organ: tuple[int, ...]  # the first takes a removed lesion's place
    lesions: tuple[int, ...]  # all classes that are lesions, of which none is touched


def lesion_classes(
    schema: Schema, where: str | Path, lesion: str | None = None, organ: Sequence[str] | None = None
) -> LesionClasses:
    """The classes of an edit; by default the data set's one lesion, in the class around it and all else within that.

    Args:
        where: file or folder that the errors name.
        lesion: name of the class.
        organ: names of the classes that a lesion may cover.

    Raises:
        UserError: where the data set has no such class, or does not say what is meant.
    """
    names = list(schema.class_names)
    if lesion is None and len(schema.lesions) != 1:
        named = f"{len(schema.lesions)} classes" if schema.lesions else "no class"
        raise UserError(f"{where}: says of {named} that it is a lesion; name one: lesion, of {', '.join(names[1:])}")
    lesion = schema.lesions[0] if lesion is None else lesion
    for name in (lesion, *(organ or ())):
        if name not in names[1:]:
            near = did_you_mean(name, names[1:])
            raise UserError(f"{where}: has no class {name!r}; {near}it has {', '.join(names[1:])}")
    parent = schema.inside.get(lesion)
    if organ is None and parent is None:
        others = ", ".join(name for name in names[1:] if name != lesion)
        raise UserError(f"{where}: does not say in which class {lesion} lies; name it: organ, of {others}")
    beside = [name for name, its in schema.inside.items() if its == parent and name not in (lesion, *schema.lesions)]
    organ = [parent, *beside] if organ is None else list(organ)
    if lesion in organ or not organ:
        raise UserError(f"{where}: a lesion {lesion} cannot lie in {organ}; name the classes around it as organ")
    values = {names.index(name) for name in (lesion, *schema.lesions)}
    return LesionClasses(names.index(lesion), tuple(map(names.index, organ)), tuple(sorted(values)))


class Scans:
    """The labelled scans of some splits of a prepared data set, by name; read once while few."""

    def __init__(self, dataset_dir: str | Path, splits: Sequence[str] = ("training",)) -> None:
        self.folder, self.schema = Path(dataset_dir), load_schema(dataset_dir)
        found = [case for split in splits for case in load_cases(dataset_dir, split) if case.label]
        self.cases = {case.name: case for case in found}
        self.read = lru_cache(KEPT)(self._read)

    def _read(self, name: str) -> Scan:
        if name not in self.cases:
            near = did_you_mean(name, self.cases)
            raise UserError(
                f"{self.folder}: has no labelled case {name!r}; {near}the first are {', '.join([*self.cases][:3])}"
            )
        return read_pair(self.cases[name], self.schema)


@dataclass(frozen=True)
class RealLesion:
    """A lesion of a patient."""

    scan: str
    number: int  # in the order of `lesion_parts`
    long_axis: float  # mm
    place: tuple[float, float, float]  # of its centre in the organ's box, 0 to 1 along each axis

    def as_row(self) -> dict:
        return {"scan": self.scan, "lesion": self.number}


@dataclass(frozen=True)
class Crop:
    """A lesion with its surroundings [x, y, z] on the voxels of its scan."""

    image: np.ndarray
    lesion: np.ndarray  # mask
    organ: np.ndarray  # mask, without any lesion
    spacing: tuple[float, float, float]  # mm


class LesionPool:
    """All lesions of some scans. Those that give shapes and intensities are training scans alone."""

    def __init__(self, scans: Scans, classes: LesionClasses) -> None:
        self.scans, self.classes = scans, classes

    @cached_property
    def lesions(self) -> list[RealLesion]:
        """Of all scans. Raises UserError where there is none."""
        found = [lesion for name in self.scans.cases for lesion in self.lesions_of(name)]
        if not found:
            name = self.scans.schema.class_names[self.classes.lesion]
            splits = " or ".join({case.split for case in self.scans.cases.values()} or ["labelled"])
            raise UserError(
                f"{self.scans.folder}: no {splits} scan has a whole {name} to learn from; "
                "take lesions of another prepared data set, or split this one otherwise"
            )
        return found

    def lesions_of(self, name: str) -> list[RealLesion]:
        """The lesions of a scan, but those that the edge of the scan cuts."""
        label, spacing, found = self.scans.read(name).label, self.scans.schema.spacing, []
        low, high = organ_box(label, self.classes)
        for number, (mask, box) in enumerate(lesion_parts(label, self.classes.lesion)):
            if all(0 < axis.start and axis.stop < size for axis, size in zip(box, label.shape, strict=True)):
                centre = np.array([axis.start for axis in box]) + ndimage.center_of_mass(mask)
                place = (centre - low) / np.maximum(high - low, 1)
                found.append(RealLesion(name, number, long_axis(mask, spacing), tuple(map(float, place))))
        return found

    @property
    def places(self) -> np.ndarray:
        """Of all lesions [N, 3]."""
        return np.array([lesion.place for lesion in self.lesions]).reshape(-1, 3)

    def mask(self, scan: str, number: int) -> np.ndarray:
        """The mask [X, Y, Z] of a lesion."""
        label = self.scans.read(scan).label
        mask, box = lesion_parts(label, self.classes.lesion)[number]
        found = np.zeros(label.shape, bool)
        found[box] = mask
        return found

    def crop(self, scan: str, number: int) -> Crop:
        """A lesion with `MARGIN` voxels around it."""
        pair, lesion = self.scans.read(scan), self.mask(scan, number)
        box = ndimage.find_objects(np.uint8(lesion))[0]
        wide = tuple(
            slice(max(axis.start - MARGIN, 0), min(axis.stop + MARGIN, size))
            for axis, size in zip(box, pair.label.shape, strict=True)
        )
        organ = np.isin(pair.label[wide], self.classes.organ)
        return Crop(pair.image[wide], lesion[wide], organ, self.scans.schema.spacing)

    def shape(self, scan: str, number: int) -> RealShape:
        """The shape of a lesion."""
        mask, _ = lesion_parts(self.scans.read(scan).label, self.classes.lesion)[number]
        return RealShape(mask, self.scans.schema.spacing)


def organ_box(label: np.ndarray, classes: LesionClasses) -> tuple[np.ndarray, np.ndarray]:
    """First and last voxel [3] of the organ with its lesions in a label map; of all of it where there is none."""
    voxels = np.argwhere(np.isin(label, (*classes.organ, *classes.lesions)))
    return (voxels.min(0), voxels.max(0)) if len(voxels) else (np.zeros(3, int), np.array(label.shape) - 1)
