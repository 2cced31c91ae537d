"""How large the classes of drawn labels shall be, and in how many pieces."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from lldm3d.data.dataset import load_cases, load_schema
from lldm3d.diffusion.networks import LEAST_DEVIATION, SIZE_JITTER
from lldm3d.errors import UserError
from lldm3d.files import load_nifti

NEAR = 0.5  # how far from what is asked the training labels lie that are taken, in deviations


class ClassSizes:
    """Draws sizes [K - 1], as `class_sizes` measures them, for a network that is told them (`LabelDiffusion`).

    Each draw is that of a training label, a little changed: large ones of one class go with large ones of others, and
    what a patient lacks stays away. Of a class whose size is asked for, labels are preferred that come near to it.

    Args:
        table: of the training labels [N, K - 1].
        asked: sizes by the class's place among the K - 1.
    """

    def __init__(self, table: Sequence[Sequence[float]], asked: Mapping[int, float] | None = None) -> None:
        self.table, self.asked = torch.tensor(table), dict(asked or {})
        self.deviation = self.table.std(0, correction=0)
        scale, far = self.deviation.clamp(min=LEAST_DEVIATION), torch.zeros(len(self.table))
        for place, size in self.asked.items():
            far += ((self.table[:, place] - size) / scale[place]) ** 2
        self.weights = torch.exp(-(far - far.min()) / (2 * NEAR**2))

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        own = self.table[torch.multinomial(self.weights, 1, generator=generator)[0]]
        changed = own + SIZE_JITTER * self.deviation * torch.randn(own.shape, generator=generator)
        drawn = torch.where(own > 0, changed.clamp(min=0), 0)
        for place, size in self.asked.items():
            drawn[place] = size
        return drawn


def told_sizes(checkpoint: Mapping, volumes: Mapping[str, float] | None = None) -> ClassSizes | None:
    """What a label network is told, by its checkpoint; None where it was trained without sizes.

    Args:
        checkpoint: with "sizes" of its training labels, "class_names" and "spacing" (mm).
        volumes: of some classes by name (ml), which all drawn labels shall have.

    Raises:
        UserError: for classes that there are not, volumes that no training label comes near to, or a network that is
            told no sizes.
    """
    table = checkpoint.get("sizes")
    if volumes is None:
        return table and ClassSizes(table)
    if not table:
        raise UserError("--volumes: this label network was trained without sizes; train label_ldm with `sized: true`")
    names, asked = list(checkpoint["class_names"][1:]), {}
    if not isinstance(volumes, Mapping):
        raise UserError(
            f'--volumes must be classes with their volumes in ml, such as "{{{names[0]}: 5}}", got {volumes!r}'
        )
    voxel = float(np.prod(checkpoint["spacing"])) / 1000  # ml
    for name, volume in volumes.items():
        if name not in names:
            raise UserError(f"--volumes: there is no class {name!r}; the data set has {', '.join(names)}")
        place = names.index(name)
        known = [row[place] ** 3 * voxel for row in table]
        least, most = min(known), max(known)
        if isinstance(volume, bool) or not isinstance(volume, int | float) or not least <= volume <= most:
            raise UserError(
                f"--volumes: {name} has {least:.3g} to {most:.3g} ml in the training labels, "
                f"and the network has learnt no others; got {volume!r}"
            )
        asked[place] = (volume / voxel) ** (1 / 3)
    return ClassSizes(table, asked)


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


def drawn_volumes(pairs: Path, volumes: Mapping[str, float]) -> str:
    """The volumes of some classes in the labels of a folder of pairs, beside those that were asked for (ml)."""
    schema, found = load_schema(pairs), []
    names, voxel = list(schema.class_names), float(np.prod(schema.spacing)) / 1000
    labels = [load_nifti(case.label)[0] for case in load_cases(pairs, "training")]
    for name, asked in volumes.items():
        drawn = [voxel * float((label == names.index(name)).sum()) for label in labels]
        found.append(f"{name} {asked:g} asked, {np.mean(drawn):.3g} drawn ({min(drawn):.3g} to {max(drawn):.3g})")
    return f"lldm3d: volumes in ml: {'; '.join(found)}"
