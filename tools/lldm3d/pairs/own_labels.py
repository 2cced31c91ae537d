"""Label maps of the user's own: whether they hold classes or the raw data's values, and how large each class is."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lldm3d.data.dataset import Schema
from lldm3d.data.volumes import load_volume, spacing_of
from lldm3d.errors import UserError
from lldm3d.files import save_nifti
from lldm3d.pairs.cases import require_spacing
from lldm3d.pairs.sources import LabelFile

CLASSES, SOURCE = "classes", "source"


def own_labels(labels: Sequence[LabelFile], schema: Schema, numbering: str | None = None) -> list[LabelFile]:
    """The labels with the class of each of their values, after printing the millilitres of each class.

    Args:
        schema: of the prepared data set that the method learnt from.
        numbering: what all values are: "classes" of the prepared data set, or "source" for those of the raw data, of
            which what the label map leaves out becomes background; None: what the values allow.

    Raises:
        UserError: where a label is empty, of another spacing, or its values are neither of both, or may be both.
    """
    if numbering not in (None, CLASSES, SOURCE):
        raise UserError(f"--label_values {numbering!r}: allowed are {CLASSES}, {SOURCE}")
    return [with_classes(label, schema, numbering) for label in labels]


def with_classes(label: LabelFile, schema: Schema, numbering: str | None) -> LabelFile:
    """The label with its table, see `own_labels`."""
    volume, affine = load_volume(label.path, axes=schema.axes)
    require_spacing(label.path, affine, schema.spacing)
    values, counts = np.unique(volume, return_counts=True)
    values, names = values.tolist(), schema.class_names
    sizes = dict(zip(values, counts * float(np.prod(spacing_of(affine))) / 1000, strict=True))
    tables = {
        CLASSES: {value: value for value in range(1, len(names))},
        SOURCE: {value: names.index(name) for name, of in schema.source_values.items() for value in of},
    }
    allowed = f"classes ({listed_values(tables[CLASSES], names)}) or values of the raw data"
    allowed += f" ({listed_values(tables[SOURCE], names) or 'not known'})"
    kept = {key: {value: table[value] for value in values if value in table} for key, table in tables.items()}
    fitting = [key for key in tables if set(values) <= {0, *tables[key]}]
    if numbering == SOURCE and kept[SOURCE]:
        fitting = [SOURCE]
    elif numbering:
        fitting = [key for key in fitting if key == numbering]
    if not any(values):
        raise UserError(f"{label.path}: is empty; it must hold {allowed}")
    if not fitting:
        raise UserError(
            f"{label.path}: holds the values {values[:8]}; allowed are {allowed}; --label_values source makes others "
            "background"
        )
    if len(fitting) > 1 and kept[CLASSES] != kept[SOURCE]:
        both = "; ".join(f"--label_values {key} ({millilitres(kept[key], sizes, names)})" for key in fitting)
        raise UserError(f"{label.path}: its values may be classes or those of the raw data; say which they are: {both}")
    table = kept[fitting[0]]
    dropped = [value for value in values if value and value not in table]
    print(f"{label.name}: {millilitres(table, sizes, names)}" + (f"; {dropped} become background" if dropped else ""))
    changed = dropped or any(value != index for value, index in table.items())
    return replace(label, table=tuple(table.items())) if changed else label


def listed_values(table: dict[int, int], names: Sequence[str]) -> str:
    return ", ".join(f"{value} {names[index]}" for value, index in sorted(table.items()))


def millilitres(table: dict[int, int], sizes: dict[int, float], names: Sequence[str]) -> str:
    """The volume of each class by its name."""
    of_class = {}
    for value, index in table.items():
        of_class[index] = of_class.get(index, 0) + sizes[value]
    return ", ".join(f"{names[index]} {volume:.3g} ml" for index, volume in sorted(of_class.items()))


def in_classes(label: LabelFile, schema: Schema, folder: Path) -> str:
    """The path of the label in classes: its own, or that of a file in `folder` that is written for it."""
    if label.table is None:
        return label.path
    volume, affine = load_volume(label.path, axes=schema.axes)
    classes = np.zeros(volume.shape, np.uint8, order="F")
    for value, index in label.table:
        classes[volume == value] = index
    path = folder / f"{label.name}.nii.gz"
    save_nifti(path, classes, affine)
    return str(path)
