"""The segmentations of a study: their names, folders and trainings. Read without torch."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path, PurePath
from typing import NamedTuple

from lldm3d.data.regimes import parse_regime, regime_of_folder
from lldm3d.errors import UserError
from lldm3d.pairs.sources import BOTH, DRAWN, RECONSTRUCTED, TRAINING, UNWARPED

# how long the networks are trained: the same number of steps in every regime, or until the loss of the real validation
# cases falls no more
UNTIL = ("steps", "convergence")
CAP = 5  # times the equal steps, at which a training to convergence ends in any case
REAL = "real"  # in place of pairs, for regimes without S
# below `REAL`, the rungs of the ladder: the sources of a method's pairs, from the most real to the least
RUNGS = (RECONSTRUCTED, UNWARPED, TRAINING, DRAWN, BOTH)
RECORDS = ".done"  # of each job of a work directory that is done what it depended on
LAYOUT = "segment/<until>/<network>/<task>/<regime>/<pairs>/seed_<k>"


class Arm(NamedTuple):
    """What a network learnt from, as in a trial: a regime, and whose pairs are its S."""

    regime: str
    pairs: str  # `REAL` without S

    def __str__(self) -> str:
        return self.regime if self.pairs == REAL else f"{self.regime} ({self.pairs})"

    @property
    def reference(self) -> "Arm | None":
        """The arm that its gain is counted from; None without S."""
        reference = parse_regime(self.regime).reference
        return Arm(reference, REAL) if reference else None

    @property
    def rank(self) -> tuple:
        """R and what adds to it, then S, then smaller and smaller shares of R; of one regime the pairs by name."""
        regime = parse_regime(self.regime)
        return 0 < regime.real < 1, -regime.real, len(regime.phases), regime.synthetic, self.pairs


@dataclass(frozen=True)
class SegmentStage:
    """One trained and tested network."""

    until: str
    network: str  # a bundle
    task: str
    regime: str
    pairs: str  # as `pairs_slug` gives it; `REAL` for regimes without S
    seed: int

    @property
    def path(self) -> str:
        """Its folder in the work directory."""
        regime = parse_regime(self.regime).folder
        return f"segment/{self.until}/{self.network}/{self.task}/{regime}/{self.pairs}/seed_{self.seed}"

    @classmethod
    def parse(cls, path: str | PurePath) -> "SegmentStage":
        """The stage whose `path` this is, or ends with. Raises UserError where it is none."""
        parts = PurePath(path).parts[-7:]
        if len(parts) < 7 or parts[0] != "segment" or parts[1] not in UNTIL or not re.fullmatch(r"seed_\d+", parts[6]):
            raise UserError(f"{path}: is no segmentation; its folder is {LAYOUT}, with {' or '.join(UNTIL)} for until")
        until, network, task, regime, pairs, seed = parts[1:]
        return cls(until, network, task, regime_of_folder(regime).name, pairs, int(seed.removeprefix("seed_")))


def segment_grid(
    untils: Iterable[str],
    networks: Iterable[str],
    tasks: Iterable[str],
    regimes: Iterable[str],
    pairs: Collection[str],
    seeds: Iterable[int],
) -> list[SegmentStage]:
    """All segmentations of a grid; a regime without S is trained once, whatever the pairs.

    Args:
        pairs: slugs of pairs.

    Raises:
        UserError: for an unknown regime.
    """
    arms = [(name, of) for name in regimes for of in (pairs if parse_regime(name).synthetic else [REAL])]
    grid = product(untils, networks, tasks, arms, seeds)
    return [SegmentStage(until, network, task, *arm, seed) for until, network, task, arm, seed in grid]


def pairs_slug(name: str, methods: Collection[str]) -> str:
    """The folder for trainings on the pairs `name`: `lldm`, `lldm-training`, or after a folder's own name.

    Args:
        name: a method, `<method>/<source>`, or the path of a folder of pairs.
        methods: the names of all methods.
    """
    method, _, source = name.partition("/")
    if method in methods:
        return method if source in ("", DRAWN) else f"{method}-{slug(source)}"
    parts = Path(name).resolve().parts
    if parts[-3:-2] == ("pairs",):  # <workdir>/pairs/<method>/<source>, the pairs of all seeds
        return slug("-".join([*parts[-4:-3], parts[-2], *([] if parts[-1] == DRAWN else parts[-1:])]))
    # pairs/<method>/<source>/seed_<k> of another work directory
    return slug("-".join(parts[-3:] if re.fullmatch(r"seed_\d+", parts[-1]) else parts[-1:]))


def slug(text: str) -> str:
    """Letters, digits, points, - and _ alone."""
    return re.sub(r"[^\w.-]+", "_", text.strip("/"))


def pairs_slugs(names: Iterable[str], methods: Collection[str]) -> dict[str, str]:
    """Each name of pairs with its slug. Raises UserError where two would have one folder."""
    found: dict[str, str] = {}
    for name in names:
        new = pairs_slug(name, methods)
        taken = next((other for other, old in found.items() if old == new), "the regimes without pairs")
        if new == REAL or new in found.values():
            raise UserError(f"--pairs: {name} would share the folder {new!r} with {taken}; rename the folder of pairs")
        found[name] = new
    return found


class SegmentTraining(NamedTuple):
    """One training of a segmentation."""

    folder: Path
    epochs: int
    init_path: str | None  # the weights that it begins with; None: random ones


def trainings(folder: Path, stage: SegmentStage, epochs: int, val_interval: int) -> list[SegmentTraining]:
    """The trainings of a stage whose own folder is `folder`, in order: the last one there, one before in `first/`.

    Two trainings share the epochs, so that no regime takes more: with equal steps all of them, to convergence the cap
    of `CAP` times as many.

    Raises:
        UserError: where too few epochs are left for a validation of each, from which the next one's weights come.
    """
    epochs *= CAP if stage.until == "convergence" else 1
    if len(parse_regime(stage.regime).phases) == 1:
        return [SegmentTraining(folder, epochs, None)]
    before = epochs // 2 // val_interval * val_interval
    after = epochs - before
    if min(before, after) < val_interval:
        raise UserError(
            f"{stage.path}: {epochs} epochs are too few for two trainings that validate every {val_interval} epochs; "
            f"give {2 * val_interval} or more, or a shorter val_interval"
        )
    first = folder / "first"
    return [SegmentTraining(first, before, None), SegmentTraining(folder, after, str(first / "model.pt"))]
