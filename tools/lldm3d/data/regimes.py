"""Regimes: which real and which synthetic cases a segmentation network learns from, in one training or in two.

Names are read without torch, as whoever lists stages needs no more.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lldm3d.errors import UserError
from lldm3d.files import read_json, write_json

if TYPE_CHECKING:
    from lldm3d.data.dataset import Case

NUMBER = r"[0-9]+(?:\.[0-9]+)?"
GRAMMAR = re.compile(
    rf"(?P<alone>{NUMBER})?S|(?:(?P<before>{NUMBER})?(?P<first>S)>)?(?P<real>{NUMBER})?R"
    rf"|(?:(?P<times>[1-9][0-9]{{0,2}})x)?(?P<mixed>{NUMBER})?R\+(?P<ratio>{NUMBER})?S"
)
ALLOWED = (
    "allowed are R, S, 2S and R+2S (two synthetic pairs for each real case), 0.1R (a tenth of the real patients), "
    "0.1R+S, 4xR+4S (four pairs for each real case, which counts four times), 10x0.1R+S, S>R (on synthetic pairs "
    "first, then on real cases), 2S>R, S>0.1R and so on"
)
THEN = "_then_"  # for > in names of folders, which a shell would take for itself


class Phase(NamedTuple):
    """The cases of one training."""

    real: float  # share of the training patients, 0 to 1
    synthetic: float  # synthetic pairs for each case of the entire real training split
    times: int = 1  # how often each real case is seen for each time that a synthetic pair is

    @property
    def name(self) -> str:
        real, ratio = ("" if value == 1 else f"{value:g}" for value in (self.real, self.synthetic))
        times = f"{self.times}x" if self.times > 1 else ""
        return "+".join([*([f"{times}{real}R"] if self.real else []), *([f"{ratio}S"] if self.synthetic else [])])


@dataclass(frozen=True)
class Regime:
    """What a regime's name says: its trainings in order, each but the first from the weights of the one before."""

    phases: tuple[Phase, ...]

    @property
    def name(self) -> str:
        """The one spelling of the regime."""
        return ">".join(phase.name for phase in self.phases)

    @property
    def folder(self) -> str:
        """The name of its folder; `regime_of_folder` leads back."""
        return self.name.replace(">", THEN)

    @property
    def real(self) -> float:
        """The share of the real patients that the last training learns from."""
        return self.phases[-1].real

    @property
    def synthetic(self) -> float:
        """Synthetic pairs for each real training case; 0 where it needs none."""
        return max(phase.synthetic for phase in self.phases)

    @property
    def beside_all(self) -> bool:
        """Whether synthetic pairs stand beside all real cases in one training, as in R+S and 4xR+4S."""
        return len(self.phases) == 1 and self.real == 1 and self.synthetic > 0

    @property
    def reference(self) -> str | None:
        """What shows the worth of the synthetic pairs: the same regime without them, R for S; None without S."""
        return Regime((Phase(self.real or 1.0, 0.0),)).name if self.synthetic else None

    def pairs(self, training_cases: int) -> int:
        """How many synthetic pairs it takes beside a training split of so many real cases."""
        return round(self.synthetic * training_cases)


def parse_regime(name: str) -> Regime:
    """Read `[share]R`, `[share]R+[ratio]S`, `[ratio]S` or `[ratio]S>[share]R`.

    Raises UserError for any other name or spelling (1R, 0.10R, R+1S).
    """
    match = GRAMMAR.fullmatch(str(name))
    if match is None:
        raise UserError(f"there is no regime {name!r}: {ALLOWED}")
    if "R" not in name:
        phases = [Phase(0.0, float(match["alone"] or 1))]
    elif "+" in name:
        phases = [Phase(float(match["mixed"] or 1), float(match["ratio"] or 1), int(match["times"] or 1))]
    else:
        first = [Phase(0.0, float(match["before"] or 1))] if match["first"] else []
        phases = [*first, Phase(float(match["real"] or 1), 0.0)]
    regime = Regime(tuple(phases))
    if not 0 <= regime.real <= 1 or ("R" in name and not regime.real) or ("S" in name and not regime.synthetic):
        raise UserError(
            f"there is no regime {name!r}: the share of R lies in 0 to 1, the ratio of S above 0; {ALLOWED}"
        )
    if "e" in regime.name:
        raise UserError(f"there is no regime {name!r}: a number of it is too small or too large; {ALLOWED}")
    if name != regime.name:
        raise UserError(f"write the regime {name!r} as {regime.name!r}, so that it has one folder")
    return regime


def regime_of_folder(folder: str) -> Regime:
    """The regime whose folder has this name. Raises UserError as `parse_regime` does."""
    return parse_regime(folder.replace(THEN, ">"))


def regime_cases(real_dir: str | Path, pairs_dir: str | Path | None, regime: str, seed: int) -> list[list["Case"]]:
    """The training cases of each phase of a regime; of the real ones those that have a label.

    A share of the real patients is drawn by `seed`; smaller shares lie within larger ones, and are the same with and
    without synthetic pairs. The synthetic pairs are drawn by `seed` from all that there are, smaller ratios within
    larger ones. Real cases of a regime like 4xR+4S say in `times` how often they are seen.

    Args:
        real_dir: prepared data set.
        pairs_dir: any folder of pairs, which are all in "training" of its dataset.json; None where the regime has no S.
        seed: of the choice.

    Raises:
        UserError: for an unknown regime, fewer pairs than it takes, pairs of other classes or spacing, or pairs that
            say they show a patient of the validation or test cases.
    """
    from lldm3d.data.dataset import load_cases

    wanted, training = parse_regime(regime), labelled_training(load_cases(real_dir, "training"))
    number, pairs = wanted.pairs(len(training)), []
    if wanted.synthetic and not number:
        raise UserError(f"the regime {regime} takes no pair for {len(training)} real cases; take a larger ratio")
    if number:
        pairs = in_random_order(synthetic_pairs(real_dir, pairs_dir, regime, number), seed)[:number]
    found = []
    for phase in wanted.phases:
        real = [replace(case, times=case.times * phase.times) for case in some_patients(training, phase.real, seed)]
        found.append([*real, *(pairs if phase.synthetic else [])])
    return found


def labelled_training(cases: list["Case"]) -> list["Case"]:
    """The cases that have a label."""
    return [case for case in cases if case.label]


def some_patients(cases: list["Case"], share: float, seed: int) -> list["Case"]:
    """The cases of the first `share` of the patients in an order drawn by `seed`; of one patient at least, if any."""
    patients = in_random_order(sorted({case.patient for case in cases}), seed)
    kept = set(patients[: max(1, round(share * len(patients)))] if share else [])
    return [case for case in cases if case.patient in kept]


def in_random_order(items: list, seed: int) -> list:
    """The items in an order drawn by `seed`."""
    return [items[index] for index in np.random.default_rng(seed).permutation(len(items))]


def require_alike(real_dir: str | Path, pairs_dir: str | Path) -> None:
    """Raise UserError where pairs have other classes or another spacing than a real data set."""
    from lldm3d.data.dataset import load_schema

    real, made = load_schema(real_dir), load_schema(pairs_dir, left_out=True)
    for what in ("class_names", "spacing"):
        if getattr(real, what) != getattr(made, what):
            raise UserError(
                f"{pairs_dir}/dataset.json: {what} {getattr(made, what)} differ from {getattr(real, what)} of "
                f"{real_dir}; make the pairs from this data set"
            )


def synthetic_pairs(real_dir: str | Path, pairs_dir: str | Path | None, regime: str, number: int) -> list["Case"]:
    """All synthetic pairs, after checking that they fit the real cases and are `number` at least."""
    from lldm3d.data.dataset import load_cases, load_schema
    from lldm3d.data.scans import check_headers

    if pairs_dir is None:
        raise UserError(f"the regime {regime} needs synthetic pairs; give their folder, as `lldm3d generate` makes it")
    pairs, real = load_cases(pairs_dir, "training"), load_schema(real_dir)
    if any(isinstance(case, dict) for case in read_json(Path(pairs_dir) / "dataset.json").get("test") or []):
        raise UserError(
            f"{pairs_dir}: is a data set with test cases, no folder of pairs; give what `lldm3d generate` made"
        )
    require_alike(real_dir, pairs_dir)
    if without := [pair.patient for pair in pairs if pair.label is None]:
        raise UserError(
            f"{pairs_dir}/dataset.json: {without[0]} has no label; a segmentation needs pairs of image and label "
            "(`lldm3d pseudo_label --pairs` makes some of images alone)"
        )
    if len(pairs) < number:
        cases = len(labelled_training(load_cases(real_dir, "training")))
        raise UserError(
            f"{pairs_dir}: holds {len(pairs)} pairs, but the regime {regime} takes {number} for the "
            f"{cases} real training cases; make more (methods#n in the "
            "profile of `lldm3d run`), or leave out the regime"
        )
    for pair in pairs:
        check_headers(pair, real)
    held_out = {case.patient for split in ("validation", "test") for case in load_cases(real_dir, split)}
    by_case = read_json(Path(real_dir) / "dataset.json").get("split_by") == "case"  # whose training cases show them too
    if not by_case and (crossed := sorted(held_out & {pair.patient for pair in pairs})):
        raise UserError(
            f"{pairs_dir}/dataset.json: says of pairs that they show the patients {crossed[:5]}, who are in the "
            "validation or test cases; make the pairs without these patients"
        )
    return pairs


def write_seen(
    dataset_dir: str | Path,
    folder: str | Path,
    label_fraction: float,
    labelled_only: bool,
    seed: int,
    pseudo_labels: str | None = None,
) -> None:
    """Write to `folder`/dataset.json what of a data set a generator sees that may see few labels.

    The labels are those of the patients whom the regime of this share takes with the same seed. Of all other training
    patients only the images are listed, so that no training finds their labels. What is listed stays where it is.

    Args:
        dataset_dir: prepared data set.
        label_fraction: of the patients with a label, as in 0.1R.
        labelled_only: the others' images are not listed either.
        seed: of the choice.
        pseudo_labels: folder of `lldm3d pseudo_label`, whose labels the others have.

    Raises:
        UserError: for pseudo-labels by networks that saw more labels than these, or of other scans.
    """
    from lldm3d.data.dataset import SPLITS, load_cases, moved

    source, target = Path(dataset_dir).resolve(), Path(folder).resolve()
    content, cases = read_json(source / "dataset.json"), load_cases(source, "training")
    chosen = {case.name for case in some_patients(labelled_training(cases), label_fraction, seed)}
    lists = {split: [moved(entry, source, target) for entry in content.get(split, [])] for split in SPLITS}
    seen = {"label_fraction": label_fraction, "labelled_only": labelled_only, "seed": seed}
    voted = voted_labels(source, Path(pseudo_labels).resolve(), target, seen) if pseudo_labels else {}
    for entry, case in zip(lists["training"], cases, strict=True):
        if case.name not in chosen:
            entry.pop("label", None)
            entry |= voted.get(case.name, {})
    if voted:
        patients = {case.patient for case in cases if case.name in voted and case.name not in chosen}
        seen |= {"pseudo_labelled_patients": len(patients)}
    if labelled_only:
        lists["training"] = [entry for entry in lists["training"] if "label" in entry]
    write_json(target / "dataset.json", content | lists | {"numTraining": len(lists["training"]), "seen": seen})


def voted_labels(source: Path, folder: Path, target: Path, seen: dict) -> dict[str, dict[str, str]]:
    """The label, relative to `target`, of each case of a folder of pseudo-labels.

    Raises UserError where their networks saw other labels than those of `seen`, or they are of other data.
    """
    from lldm3d.data.dataset import load_cases, moved

    require_alike(source, folder)
    limits = (read_json(folder / "manifest.json") if (folder / "manifest.json").is_file() else {}).get("saw") or {}
    share, seed, most = limits.get("label_fraction", 1), limits.get("seed"), seen["label_fraction"]
    if most < 1 and (share > most or seed != seen["seed"]):  # smaller shares of a seed lie within larger ones
        raise UserError(
            f"{folder}: its networks saw the labels of {share:g}R{'' if seed is None else f' of seed {seed}'}, but the "
            f"methods may see those of {most:g}R of seed {seen['seed']}; let networks vote that saw no others"
        )
    entries = read_json(folder / "dataset.json")["training"]
    cases = load_cases(folder, "training")
    return {
        case.name: {"label": moved(entry, folder, target)["label"]} for case, entry in zip(cases, entries, strict=True)
    }


def generator_saw(dataset_dir: str | Path) -> dict:
    """What models saw that were trained on a data set, or on what `write_seen` left of it: for a manifest of pairs."""
    from lldm3d.data.dataset import load_cases

    cases = load_cases(dataset_dir, "training")
    labelled = {case.patient for case in labelled_training(cases)}
    limits = read_json(Path(dataset_dir) / "dataset.json").get("seen", {"label_fraction": 1.0, "labelled_only": False})
    others = {case.patient for case in cases} - labelled
    real = len(labelled) - limits.get("pseudo_labelled_patients", 0)
    return limits | {"labelled_patients": real, "unlabelled_patients": len(others)}
