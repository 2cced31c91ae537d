"""How large the classes of drawn labels shall be, how many lesions they have, and in how many pieces vessels are."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from lldm3d.data.dataset import load_cases, load_schema
from lldm3d.data.labels import LENGTH, NUMBER, VOLUME, pieces_of
from lldm3d.diffusion.networks import LEAST_DEVIATION, SIZE_JITTER
from lldm3d.errors import UserError
from lldm3d.files import load_nifti

NEAR = 0.5  # how far from what is asked the training labels lie that are taken, in deviations


class ClassSizes:
    """Draws sizes [S], as `class_sizes` measures them, for a network that is told them (`LabelDiffusion`).

    Each draw is that of a training label, a little changed: large ones of one class go with large ones of others, and
    what a patient lacks stays away. Where a size is asked for, labels are preferred that come near to it.

    Args:
        table: of the training labels [N, S].
        volumes: places among the S of the volumes of classes, by the classes' indices.
        asked: sizes by their place.
        numbers: of pieces that are asked for, by the classes' indices.
    """

    def __init__(
        self,
        table: Sequence[Sequence[float]],
        volumes: Mapping[int, int],
        asked: Mapping[int, float] | None = None,
        numbers: Mapping[int, int] | None = None,
    ) -> None:
        self.table, self.volumes, self.asked = torch.tensor(table), dict(volumes), dict(asked or {})
        self.numbers = dict(numbers or {})
        self.deviation = self.table.std(0, correction=0)
        scale, far = self.deviation.clamp(min=LEAST_DEVIATION), torch.zeros(len(self.table))
        for place, size in self.asked.items():
            far += ((self.table[:, place] - size) / scale[place]) ** 2
            far[self.table[:, place].eq(0) & (size > 0)] = torch.inf  # all else of a class that is not there is 0
        self.weights = torch.exp(-(far - far.min()) / (2 * NEAR**2))

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        own = self.table[torch.multinomial(self.weights, 1, generator=generator)[0]]
        changed = own + SIZE_JITTER * self.deviation * torch.randn(own.shape, generator=generator)
        drawn = torch.where(own > 0, changed.clamp(min=0), 0)
        for place, size in self.asked.items():
            drawn[place] = size
        return drawn

    def voxels(self, drawn: torch.Tensor) -> dict[int, int]:
        """The voxels of each class, by its index, in sizes [S]."""
        return {value: round(drawn[place].item() ** 3) for value, place in self.volumes.items()}

    def fits(self, label: torch.Tensor) -> bool:
        """Whether a label [1, X, Y, Z] has the numbers of pieces that were asked for."""
        return all(pieces_of(label[0].cpu().numpy(), value)[1] == number for value, number in self.numbers.items())


def told_sizes(
    checkpoint: Mapping, volumes: Mapping[str, float] | None = None, numbers: Mapping[str, int] | None = None
) -> ClassSizes | None:
    """What a label network is told, by its checkpoint; None where it was trained without sizes.

    Args:
        checkpoint: with "sizes" of its training labels, their "size_kinds", "class_names" and "spacing" (mm).
        volumes: of some classes by name (ml), which all drawn labels shall have.
        numbers: of lesions of some classes, likewise.

    Raises:
        UserError: for classes that there are not, what no training label comes near to, or a network that is told no
            such sizes.
    """
    table, asked = checkpoint.get("sizes"), {}
    for kind, wanted in ((VOLUME, volumes), (NUMBER, numbers)):
        if wanted is not None:
            asked |= asked_sizes(checkpoint, kind, wanted)
            for found in (VOLUME, LENGTH, NUMBER):  # where there is none, all is 0
                places = places_of(checkpoint, found)
                asked |= {places[name]: 0.0 for name, value in wanted.items() if value == 0 and name in places}
    if not table:
        return None
    voxel = float(np.prod(checkpoint["spacing"])) / 1000  # ml
    for name, volume in (volumes or {}).items():
        voxels, number = round(volume / voxel), (numbers or {}).get(name)
        if number is not None and ((voxels == 0) != (number == 0) or voxels < number):
            raise UserError(
                f"--volumes and --numbers: {name} cannot have {volume:g} ml, {voxels} voxels, in {number} pieces"
            )
    value_of = list(checkpoint["class_names"]).index
    places = {value_of(name): place for name, place in places_of(checkpoint, VOLUME).items()}
    return ClassSizes(table, places, asked, {value_of(name): number for name, number in (numbers or {}).items()})


def places_of(checkpoint: Mapping, kind: str) -> dict[str, int]:
    """The places of one kind among the sizes that a label network is told, by class."""
    return {name: place for place, (name, found) in enumerate(told_kinds(checkpoint)) if found == kind}


def told_kinds(checkpoint: Mapping) -> list[list[str]]:
    """The `size_kinds` that a label network is told; before 0.22 the volumes alone."""
    return checkpoint.get("size_kinds") or [[name, VOLUME] for name in checkpoint["class_names"][1:]]


def asked_sizes(checkpoint: Mapping, kind: str, wanted: Mapping[str, float]) -> dict[int, float]:
    """What is asked for as sizes by their place, of one kind; raises as `told_sizes`."""
    table, option, places = checkpoint.get("sizes") or [], f"--{kind}s", places_of(checkpoint, kind)
    if not table or not places:
        raise UserError(f"{option}: this label network was told no {kind}s; train label_ldm anew with `sized: true`"
                        + (", of data with `lesions`" if kind == NUMBER else ""))  # fmt: skip
    unit, exponent = ("ml", 3) if kind == VOLUME else ("pieces", 1)
    scale = float(np.prod(checkpoint["spacing"])) / 1000 if kind == VOLUME else 1
    if not isinstance(wanted, Mapping):
        raise UserError(f'{option} must be classes with {unit}, such as "{{{next(iter(places))}: 2}}", got {wanted!r}')
    asked = {}
    for name, value in wanted.items():
        if name not in places:
            raise UserError(f"{option}: there is no class {name!r}; those that it knows are {', '.join(places)}")
        if type(value) not in (int, float) or (kind == NUMBER and value % 1):
            raise UserError(f"{option}: {name} needs a {'whole number' if kind == NUMBER else 'number'}, got {value!r}")
        known = [row[places[name]] ** exponent * scale for row in table]
        least, most = min(known), max(known)
        if not least <= value <= most:
            raise UserError(
                f"{option}: {name} has {least:.3g} to {most:.3g} {unit} in the training labels, "
                f"and the network has learnt no others; got {value!r}"
            )
        asked[places[name]] = (value / scale) ** (1 / exponent)
    return asked


class ClassPieces:
    """Draws in how many pieces classes are, as the training labels have them.

    Args:
        counts: of each training label, by the class's index.
    """

    def __init__(self, counts: Mapping[int, Sequence[int]]) -> None:
        self.counts = {value: torch.tensor(found) for value, found in counts.items()}

    def draw(self, generator: torch.Generator) -> dict[int, int]:
        """The number of pieces of each class."""
        places = {value: torch.randint(len(found), (1,), generator=generator) for value, found in self.counts.items()}
        return {value: int(self.counts[value][place]) for value, place in places.items()}


def told_pieces(checkpoint: Mapping) -> ClassPieces | None:
    """The pieces of tubular classes by a label network's checkpoint; None where it knows of none, as before 0.21."""
    return ClassPieces(checkpoint["pieces"]) if checkpoint.get("pieces") else None


def drawn_sizes(pairs: Path, volumes: Mapping[str, float], numbers: Mapping[str, int]) -> str:
    """Volumes (ml) and numbers of lesions in the labels of a folder of pairs, beside those that were asked for."""
    schema, found = load_schema(pairs), []
    names, voxel = list(schema.class_names), float(np.prod(schema.spacing)) / 1000
    labels = [load_nifti(case.label)[0] for case in load_cases(pairs, "training")]
    measures = {
        "ml": (volumes, lambda label, value: voxel * float((label == value).sum())),
        "lesions": (numbers, lambda label, value: pieces_of(label, value)[1]),
    }
    for unit, (wanted, measure) in measures.items():
        for name, asked in wanted.items():
            drawn = [measure(label, names.index(name)) for label in labels]
            about = f"{np.mean(drawn):.3g} drawn ({min(drawn):.3g} to {max(drawn):.3g})"
            found.append(f"{name} {asked:g} {unit} asked, {about}")
    return f"lldm3d: {'; '.join(found)}"
