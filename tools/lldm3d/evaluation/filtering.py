"""`lldm3d filter`: of some pairs those with whose labels networks that learnt from real data agree best."""

import glob
import math
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lldm3d.children import quoted
from lldm3d.data.dataset import Case, Schema, load_cases, load_schema, moved
from lldm3d.data.regimes import parse_regime, require_alike
from lldm3d.data.scans import read_pair
from lldm3d.errors import UserError
from lldm3d.evaluation.alignment import class_agreement
from lldm3d.evaluation.features import Segmenter, load_segmenter
from lldm3d.files import read_json, require_writable, write_json
from lldm3d.pairs.folder import manifest_of, manifest_rows, require_free, require_ours

ENSEMBLE = "segment/*/*/multi/{regime}/real/seed_{seed}/model.pt"  # all classes, real data alone


def keep_agreeing(
    workdir: str, pairs: str, output_dir: str, share: float = 0.5, regime: str = "R", overwrite: bool = False
) -> None:
    """Keep the share of some pairs on whose labels networks that were trained on real data agree best.

    The pairs stay where they are; `dataset.json` and `manifest.json` name the kept ones. An image that does not show
    its label, or a label that no patient has, teaches a segmentation what is wrong (as the quality filters of DiffTumor
    and of self-training do). The networks are all of a regime in the work directory; draw two pairs or more for each
    that is kept.

    Args:
        workdir: work directory of `lldm3d run`, whose networks judge.
        pairs: folder of pairs, such as W/pairs/haar_ldm/training/seed_0.
        output_dir: folder of the two files; everything that reads a generated data set reads it too.
        share: of the pairs that are kept.
        regime: which networks, such as 0.1R where no more labels may be seen.
        overwrite: replace them.

    Raises:
        UserError: for a share that is none, pairs without labels, a work directory without such networks or with those
            that saw more labels than the generator, or a folder that cannot be written.
    """
    source, target = Path(pairs).resolve(), Path(output_dir).resolve()
    if not (type(share) in (int, float) and 0 < share < 1):
        raise UserError(f"--share {share!r}: give a share above 0 and below 1, such as 0.5")
    if target == source:
        raise UserError(f"--output_dir {target} holds the pairs themselves; choose another folder")
    require_ours(target)
    require_free(target, overwrite)
    require_writable(target)
    paths = ensemble(workdir, regime, pairs=source)
    require_alike(Path(workdir) / "dataset", source)
    schema, cases = load_schema(source), labelled(source)
    networks = [load_segmenter(path, schema.class_names) for path in paths]
    agreement = [agreement_of(case, schema, networks) for case in tqdm(cases, desc="agreement", mininterval=1)]
    kept = set(np.argsort(agreement)[::-1][: math.ceil(round(share * len(cases), 6))].tolist())
    how = {"share": share, "networks": [str(path) for path in paths]}
    write_kept(source, target, [case.name for case in cases], sorted(kept), agreement, how)
    least = min(agreement[index] for index in kept)
    print(
        f"lldm3d: kept {len(kept)} of {len(cases)} pairs, with a Dice of {least:.3f} or more between the label and "
        f"{len(networks)} networks (all pairs: {np.mean(agreement):.3f} on average)"
    )


def ensemble(workdir: str, regime: str = "R", least: int = 1, pairs: Path | None = None) -> list[Path]:
    """The weights of all networks of a regime of real data; of `pairs` whose generator saw the labels of a share of the
    patients alone, those of its seed: others saw other patients' labels, and the pairs would say what is not so.

    Raises UserError where there are fewer than `least`, or the regime has more labels than the generator saw.
    """
    saw = (manifest_of(pairs).get("saw") if pairs else None) or {}
    most, seed = saw.get("label_fraction", 1), "*"
    if most < 1:
        seed = saw["seed"]
        if parse_regime(regime).real > most:
            raise UserError(f"{pairs}: their generator saw the labels of {most:g}R; give --regime {most:g}R")
    paths = sorted(Path(workdir).resolve().glob(ENSEMBLE.format(regime=glob.escape(regime), seed=seed)))
    if len(paths) < least:
        further = "--seeds 0,1,2" if seed == "*" else f"--seeds {seed} --networks seg_resunet,seg_unet"
        raise UserError(
            f"{workdir}: holds {len(paths)} segmentations of all classes in regime {regime}"
            f"{'' if seed == '*' else f' of seed {seed}'}, and {least} or more are needed; `lldm3d study --workdir "
            f"{quoted(workdir)} --regimes {regime} {further}` trains some"
        )
    return paths


def labelled(pairs: Path) -> list[Case]:
    """All pairs of a folder. Raises UserError where one has no label."""
    cases = load_cases(pairs, "training")
    if without := [case.name for case in cases if case.label is None]:
        raise UserError(f"{pairs}: {without[0]} has no label to agree with; give pairs of image and label")
    return cases


def agreement_of(case: Case, schema: Schema, networks: list[Segmenter]) -> float:
    """Mean Dice of the classes of the label over all networks; 1 where label and predictions are empty."""
    scan, values = read_pair(case, schema), []
    for network in networks:
        _, pred = network(scan.image)
        found = class_agreement(pred, scan.label, schema)["dice"].values()
        values.append(np.mean([*found]) if found else float(not pred.any()))
    return float(np.mean(values))


def write_kept(
    source: Path, target: Path, names: list[str], kept: list[int], agreement: list[float], how: dict
) -> None:
    """Write `dataset.json` and `manifest.json` of the kept pairs; in the latter the agreement of each."""
    content = read_json(source / "dataset.json")
    manifest = manifest_of(source)
    rounded = [round(agreement[i], 4) for i in kept]
    cases = manifest_rows(manifest, [names[i] for i in kept], "agreement", rounded)
    filtered = {"filtered": {"pairs": str(source), **how}}
    write_json(target / "manifest.json", manifest | {"cases": cases} | filtered)
    entries = [moved(content["training"][index], source, target) for index in kept]
    write_json(target / "dataset.json", content | {"numTraining": len(entries), "training": entries})
