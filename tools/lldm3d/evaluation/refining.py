"""Labels by the vote of networks that learnt from real data: mended ones of pairs, and new ones of unlabelled scans."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lldm3d import __version__
from lldm3d.data.dataset import LEFT_OUT_VALUE, load_cases, load_schema, moved
from lldm3d.data.regimes import generator_saw, require_alike
from lldm3d.data.scans import read_pair
from lldm3d.errors import UserError
from lldm3d.evaluation.features import Segmenter, load_segmenter
from lldm3d.evaluation.filtering import ensemble, labelled
from lldm3d.files import output_folder, read_json, require_replaceable, save_nifti, sha256, write_json
from lldm3d.pairs.folder import manifest_of, manifest_rows
from lldm3d.pairs.sources import LEFT_OUT, MENDED, REFINED, VOTERS


def refine(
    workdir: str,
    pairs: str,
    output_dir: str,
    regime: str = "R",
    contradicted: str = REFINED,
    overwrite: bool = False,
) -> None:
    """Give each voxel of some pairs, whose label most networks contradict with one class, that class.

    Images drawn for a label show it a little elsewhere; a segmentation that learns from such pairs learns to be as far
    off. The networks are those of one regime of real data in the work directory, of all seeds. What all of them get
    wrong stays wrong. Images stay where they are. Alignment of such pairs, which networks of the same data measure,
    says nothing more.

    Args:
        workdir: work directory of `lldm3d run`, whose networks vote.
        pairs: folder of pairs, such as W/pairs/haar_ldm/training/seed_0.
        output_dir: folder of the mended labels; everything that reads a generated data set reads it too.
        regime: which networks, such as 0.1R where no more labels may be seen.
        contradicted: refined, or left_out: such voxels, and those in whose class most networks differ, are left out of
            the loss of segmentations, which alone read these labels (so does nnU-Net, by `lldm3d export`).
        overwrite: replace an earlier such folder.

    Raises:
        UserError: for pairs without labels, or a work directory without two such networks or with those that saw more
            labels than the generator.
    """
    source, target = Path(pairs).resolve(), Path(output_dir).resolve()
    if contradicted not in MENDED:
        raise UserError(f"--contradicted {contradicted!r}: give {' or '.join(MENDED)}")
    require_replaceable(target, overwrite, [source])
    voting = [path.parent for path in ensemble(workdir, regime, VOTERS, source)]
    require_alike(Path(workdir) / "dataset", source)
    refine_pairs(voting, source, target, contradicted, overwrite)


def refine_pairs(
    voting: Sequence[Path], source: Path, target: Path, contradicted: str = REFINED, overwrite: bool = False
) -> None:
    """The same, by the folders of the segmentations that vote. Raises UserError for pairs without labels."""
    schema, cases = load_schema(source), labelled(source)
    networks, content, shares = [load_segmenter(path, schema.class_names) for path in voting], [], []
    change = by_majority if contradicted == REFINED else without_contradicted
    with output_folder(target, overwrite, [source]) as folder:
        entries = read_json(source / "dataset.json")
        for case, entry in zip(tqdm(cases, desc="voting", mininterval=1), entries["training"], strict=True):
            scan = read_pair(case, schema)
            label = change(votes_of(networks, scan.image), scan.label)
            shares.append(round(float((label != scan.label).mean()), 5))
            save_nifti(folder / f"labelsTr/{case.name}.nii.gz", label, scan.affine)
            content.append(moved(entry, source, target) | {"label": f"./labelsTr/{case.name}.nii.gz"})
        manifest = manifest_of(source)
        rows = manifest_rows(manifest, [case.name for case in cases], contradicted, shares)
        how = {contradicted: {"pairs": str(source), "networks": [str(path) for path in voting]}}
        write_json(folder / "manifest.json", manifest | {"cases": rows} | how)
        declared = {"left_out": LEFT_OUT_VALUE} if contradicted == LEFT_OUT else {}
        write_json(folder / "dataset.json", entries | {"training": content} | declared)
    share = f"{np.mean(shares):.2%} of the voxels of {len(cases)} pairs"
    done = f"gave {share} another class" if contradicted == REFINED else f"left {share} out"
    print(f"lldm3d: {len(voting)} networks {done}")


def pseudo_label(
    workdir: str, output_dir: str, regime: str = "R", pairs: str | None = None, overwrite: bool = False
) -> None:
    """Label scans that have no label by the vote of networks that learnt from the labelled ones.

    The result is a folder of pairs, whose images stay where they are (pseudo-labels, Lee 2013). Of real scans a study
    takes it as S, beside which a generator shows what it adds to the scans themselves; `lldm3d run --pseudo_labels`
    lets methods learn from it. Of images that a method drew without labels it makes pairs, so that a study can tell
    what they are worth. What all networks get wrong stays wrong.

    Args:
        workdir: work directory of `lldm3d run` or `study`, whose networks vote.
        output_dir: folder of the labels.
        regime: which networks.
        pairs: folder of images that were drawn without labels, such as W/pairs/ddpm/drawn/seed_0; default: the
            training scans of the work directory that have none.
        overwrite: replace an earlier such folder.

    Raises:
        UserError: for images that all have labels, or a work directory without two such networks.
    """
    dataset, target = (Path(workdir) / "dataset").resolve(), Path(output_dir).resolve()
    source = Path(pairs).resolve() if pairs else dataset
    require_replaceable(target, overwrite, [source])
    if not (found := load_cases(source, "training")):
        raise UserError(f"{source}: its dataset.json names no images in training")
    if all(case.label for case in found):
        other = "mend them by `lldm3d refine`" if pairs else "add others with `--unlabelled` of `lldm3d run`"
        raise UserError(f"{source}: all training scans have labels; {other}")
    if labelled := sum(bool(case.label) for case in found) if pairs else 0:
        print(f"lldm3d: leaves out {labelled} images of {source} that have labels")
    voting = [path.parent for path in ensemble(workdir, regime, VOTERS, source if pairs else None)]
    require_alike(dataset, source)
    label_images(voting, source, target, drawn=pairs is not None, overwrite=overwrite)


def label_images(voting: Sequence[Path], source: Path, target: Path, drawn: bool, overwrite: bool = False) -> None:
    """The same, by the folders of the segmentations that vote, for images that a method has drawn, or real ones."""
    schema, entries = load_schema(source), read_json(source / "dataset.json")
    pairs = zip(load_cases(source, "training"), entries["training"], strict=True)
    cases = [(case, entry) for case, entry in pairs if not case.label]
    networks, content = [load_segmenter(path, schema.class_names) for path in voting], []
    with output_folder(target, overwrite, [source]) as folder:
        for case, entry in tqdm(cases, desc="voting", mininterval=1):
            scan = read_pair(case, schema)
            votes = votes_of(networks, scan.image)
            save_nifti(folder / f"labelsTr/{case.name}.nii.gz", by_majority(votes, votes[0]), scan.affine)
            content.append(moved(entry, source, target) | {"label": f"./labelsTr/{case.name}.nii.gz"})
        made = {"numTraining": len(content), "numTest": 0, "training": content, "validation": [], "test": []}
        write_json(folder / "dataset.json", entries | made | {"synthetic": drawn})
        if drawn:
            manifest = manifest_of(source)
            rows = manifest_rows(manifest, [case.name for case, _ in cases], "pseudo_labelled", [True] * len(cases))
            how = {"pseudo_labelled": {"pairs": str(source), "networks": [str(path) for path in voting]}}
        else:
            manifest = {"lldm3d": __version__, "method": "pseudo_label", "saw": generator_saw(source)}
            rows = [{"name": case.name, "patient": case.patient} for case, _ in cases]
            how = {"checkpoints": {str(path): sha256(path / "model.pt") for path in voting}}
        write_json(folder / "manifest.json", manifest | {"cases": rows} | how)
    print(f"lldm3d: {len(voting)} networks gave labels to {len(cases)} scans in {target}")


def votes_of(networks: Sequence[Segmenter], image: np.ndarray) -> np.ndarray:
    """The label map that each of N networks sees in an image [X, Y, Z], [N, X, Y, Z]."""
    return np.stack([network(image)[1] for network in networks])


def by_majority(votes: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The label [X, Y, Z], with the class of more than half of the votes [N, X, Y, Z] where there is one."""
    refined = label.copy()
    for value in np.unique(votes):
        refined[(votes == value).sum(0) * 2 > len(votes)] = value
    return refined


def without_contradicted(votes: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The label [X, Y, Z], with `LEFT_OUT_VALUE` where more than half of the votes [N, X, Y, Z] are for others."""
    return np.where((votes != label).sum(0) * 2 > len(votes), np.uint8(LEFT_OUT_VALUE), label)
