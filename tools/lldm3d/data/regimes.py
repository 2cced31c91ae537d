"""Regimes: which real and which synthetic cases a segmentation network learns from."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lldm3d.data.dataset import load_cases, load_schema
from lldm3d.errors import UserError

NUMBER = r"[0-9]+(?:\.[0-9]+)?"
GRAMMAR = re.compile(rf"S|(?P<real>{NUMBER})?R(?P<plus>\+(?P<ratio>{NUMBER})?S)?")
ALLOWED = (
    "allowed are R, S, R+S, R+2S (two synthetic pairs for each real case), 0.1R (a tenth of the real patients), "
    "0.1R+S and so on"
)


@dataclass(frozen=True)
class Regime:
    """What a regime's name says."""

    real: float  # share of the training patients, 0 to 1
    synthetic: float  # synthetic pairs for each case of the whole real training split

    @property
    def name(self) -> str:
        """The one spelling of the regime, which also names its folder."""
        if not self.real:
            return "S"
        real, ratio = ("" if value == 1 else f"{value:g}" for value in (self.real, self.synthetic))
        return f"{real}R+{ratio}S" if self.synthetic else f"{real}R"

    @property
    def reference(self) -> str | None:
        """What tells the worth of the synthetic pairs: the same regime without them, R for S; None without S."""
        if not self.synthetic:
            return None
        return Regime(self.real or 1.0, 0.0).name

    def pairs(self, training_cases: int) -> int:
        """How many synthetic pairs it takes beside a training split of so many real cases."""
        return round(self.synthetic * training_cases)


def parse_regime(name: str) -> Regime:
    """Read `[fraction]R[+[ratio]S]` or `S`. Raises UserError for any other name or spelling (1R, 0.10R, R+1S)."""
    match = GRAMMAR.fullmatch(str(name))
    if match is None:
        raise UserError(f"there is no regime {name!r}: {ALLOWED}")
    if name == "S":
        return Regime(0.0, 1.0)
    regime = Regime(float(match["real"] or 1), float(match["ratio"] or 1) if match["plus"] else 0.0)
    if not 0 < regime.real <= 1 or (match["plus"] and not regime.synthetic):
        raise UserError(
            f"there is no regime {name!r}: the share of R lies in 0 to 1, the ratio of S above 0; {ALLOWED}"
        )
    if name != regime.name:
        raise UserError(f"write the regime {name!r} as {regime.name!r}, so that it has one folder")
    return regime


def regime_cases(real_dir: str | Path, synthetic_dir: str | Path | None, regime: str, seed: int) -> list[dict]:
    """The training cases of a regime as dicts with the absolute paths "image" and "label", and "patient".

    A share of the real patients is drawn by `seed`; smaller shares lie within larger ones, and are the same with and
    without synthetic pairs. The synthetic pairs are drawn by `seed` from all that there are, smaller ratios within
    larger ones.

    Args:
        real_dir: prepared data set.
        synthetic_dir: data set in the same layout, all its pairs in "training"; may be None where the regime has no S.

    Raises:
        UserError: for an unknown regime, fewer pairs than it takes, pairs of other classes or spacing, or pairs that
            say they show a patient of the validation or test cases.
    """
    wanted, training = parse_regime(regime), load_cases(real_dir, "training")
    cases = some_patients(training, wanted.real, seed)
    if number := wanted.pairs(len(training)):
        cases = cases + drawn(synthetic_pairs(real_dir, synthetic_dir, regime, number), seed)[:number]
    return cases


def some_patients(cases: list[dict], share: float, seed: int) -> list[dict]:
    """The cases of the first `share` of the patients in an order drawn by `seed`; of one patient at least, if any."""
    patients = drawn(sorted({case["patient"] for case in cases}), seed)
    kept = set(patients[: max(1, round(share * len(patients)))] if share else [])
    return [case for case in cases if case["patient"] in kept]


def drawn(items: list, seed: int) -> list:
    """The items in an order drawn by `seed`."""
    return [items[index] for index in np.random.default_rng(seed).permutation(len(items))]


def synthetic_pairs(real_dir: str | Path, synthetic_dir: str | Path | None, regime: str, number: int) -> list[dict]:
    """All synthetic pairs, after checking that they fit the real cases and are `number` at least."""
    if synthetic_dir is None:
        raise UserError(f"the regime {regime} needs synthetic pairs; give their folder, as `lldm3d generate` makes it")
    pairs, real, made = load_cases(synthetic_dir, "training"), load_schema(real_dir), load_schema(synthetic_dir)
    for what in ("class_names", "spacing"):
        if getattr(real, what) != getattr(made, what):
            raise UserError(
                f"{synthetic_dir}/dataset.json: {what} {getattr(made, what)} differ from {getattr(real, what)} of "
                f"{real_dir}; make the pairs from this data set"
            )
    if without := [pair["patient"] for pair in pairs if pair["label"] is None]:
        raise UserError(
            f"{synthetic_dir}/dataset.json: {without[0]} has no label; a segmentation needs pairs of image and label"
        )
    if len(pairs) < number:
        raise UserError(
            f"{synthetic_dir}: holds {len(pairs)} pairs, but the regime {regime} takes {number} for the "
            f"{len(load_cases(real_dir, 'training'))} real training cases; make more (generate#n in the "
            "profile of `lldm3d run`), or leave out the regime"
        )
    held_out = {case["patient"] for split in ("validation", "test") for case in load_cases(real_dir, split)}
    if crossed := sorted(held_out & {pair["patient"] for pair in pairs}):
        raise UserError(
            f"{synthetic_dir}/dataset.json: says of pairs that they show the patients {crossed[:5]}, who are in the "
            "validation or test cases; make the pairs without these patients"
        )
    return pairs
