"""Judge a synthetic data set against the real one: the command `lldm3d evaluate`."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lldm3d import __version__
from lldm3d.data.dataset import SPLITS, Case, Schema, load_cases, load_schema, stem
from lldm3d.data.sources import scan_files
from lldm3d.data.volumes import load_volume, spacing_of
from lldm3d.errors import Refused, UserError
from lldm3d.evaluation import figures
from lldm3d.evaluation.alignment import alignment_rows, check_command, command_rows
from lldm3d.evaluation.copies import NearestCases, copied_share, copy_rows, nearest_cases, nearest_pairs
from lldm3d.evaluation.distances import fidelity_rows, manifold_rows
from lldm3d.evaluation.extraction import RecordCache, RecordExtractor, extract_split, with_progress
from lldm3d.evaluation.features import load_segmenter
from lldm3d.evaluation.labels import label_rows, statistic_rows
from lldm3d.evaluation.lesion_realism import realism_rows
from lldm3d.evaluation.metrics import FORMAT, Compared, Metric, Row, write_csv
from lldm3d.evaluation.perceptual import Lpips, load_lpips
from lldm3d.evaluation.pretrained import Radiomics, load_medicalnet, load_radimagenet, plane_means
from lldm3d.evaluation.records import CaseRecords, Record, content_hash
from lldm3d.evaluation.similarity import diversity_rows, draw_rows, paired_rows
from lldm3d.evaluation.through_plane import through_plane_rows
from lldm3d.files import MARKER, files_made, read_json, write_json
from lldm3d.processes import device, place, wait_for_all

SCORED, BLURRED = ("test", "synthetic"), ("training",)  # splits
RESULTS = ("metrics.json", "metrics.csv", "label_statistics.csv", *(f"figures/{name}.png" for name in figures.FIGURES))
STATISTICS = ("split", "case", "class", "statistic", "unit", "value")  # columns of label_statistics.csv


def evaluate(
    real: str | Path,
    synthetic: str | Path,
    output_dir: str | Path,
    segmenter: str | Path | None = None,
    medicalnet: str | Path | None = None,
    radimagenet: str | Path | None = None,
    radiomics: bool = False,
    lpips: tuple[str, str] | None = None,
    segmenter_command: str | None = None,
    max_copies: float | None = None,
    truth: str | Path | None = None,
    again: str | Path | None = None,
    cache_dir: str | Path | None = None,
    overwrite: bool = False,
) -> None:
    """Write `metrics.json`, `metrics.csv`, `label_statistics.csv` and `figures/*.png` into `output_dir`.

    What the metrics need of each case is kept in `cache_dir`, so that an interrupted evaluation goes on and a further
    one of the same real data reads it from there. The processes that torchrun starts share the cases.

    Args:
        real: prepared data set, or a folder of scans.
        synthetic: generated data set in the same layout, all cases in its training split; or a folder of scans.
        output_dir: folder of the results.
        segmenter: stage folder of a segmentation network trained on `real` alone (regime R), or its model.pt.
        medicalnet: weights of a MedicalNet ResNet, for fidelity and diversity by its features.
        radimagenet: weights of RadImageNet's ResNet-50, for fidelity in slices of each plane.
        radiomics: also compare radiomic features.
        lpips: weights of torchvision's AlexNet or VGG16, and of LPIPS's linear heads for it, for the figures of pairs.
        segmenter_command: a further segmenter for the alignment: a command with `{images}` and `{labels}` in it.
        max_copies: largest share of near copies that the data may hold.
        truth: folder of warped real training pairs with the labels of synthetic ones, for the figures of pairs and the
            search for copies: they lie in labels/training/seed_<k> of a work directory.
        again: folder of pairs that were drawn once more for some of the labels, under the same names, for diversity.
        cache_dir: where findings of each case are kept for further evaluations; default: `cache` in `output_dir`.
        overwrite: replace an evaluation that is there.

    Raises:
        UserError: where the data sets cannot be compared, a file is unusable, or results are there already.
        Refused: after all is written, where more than `max_copies` of the cases are near copies.
    """
    real, synthetic, output_dir = Path(real), Path(synthetic), Path(output_dir)
    check_options(output_dir, segmenter_command, max_copies, overwrite)
    schema, cases = open_both(real, synthetic)
    check_requirements(real, synthetic, cases, segmenter_command, max_copies)
    if truth:
        cases["warped"] = open_data(Path(truth))[1]["training"]
    redrawn = open_again(Path(again), cases["synthetic"]) if again is not None else None
    extractor = open_extractor(schema, real, segmenter, medicalnet, radimagenet, radiomics)
    perceptual = load_lpips(*lpips) if lpips is not None else None
    records = extract_shared(cases, RecordCache(extractor, Path(cache_dir or output_dir / "cache")))
    if records is None:
        return
    if empty := sum(not np.ptp(record.coarse) for record in records["synthetic"].records):
        print(f"{synthetic}: {empty} of {len(records['synthetic'])} images show nothing, all their voxels are equal")
    rows, nearest = compute_metrics(records, extractor, perceptual)
    if redrawn is not None:
        rows += draw_rows(records["synthetic"].cases, redrawn, schema, device(), perceptual)
    rows += realism_rows(synthetic, cases, schema, extractor.segmenter)
    if segmenter_command is not None:
        rows += command_rows(segmenter_command, records["synthetic"].cases, records["test"].cases, schema)
    warped = records["warped"].cases if truth else []
    pairs = nearest_pairs(nearest, records["synthetic"].cases, records["training"].cases, warped)
    write_json(output_dir / MARKER, {"files": RESULTS})
    figures.write_figures(output_dir / "figures", records, nearest, pairs, rows, extractor)
    write_csv(output_dir / "label_statistics.csv", STATISTICS, statistic_rows(records))
    networks = [{"feature_space": one.name, "network": one.network, "weights": one.weights} for one in extractor.spaces]
    content = {
        "format": FORMAT,
        "version": __version__,
        **{"real": str(real.resolve()), "synthetic": str(synthetic.resolve())},
        "cases": {split: len(found) for split, found in records.items()},
        "judged": content_hash(cases["synthetic"]),
        "networks": networks,
        "rows": [row.as_dict() for row in rows],
        "nearest": pairs,
    }
    write_csv(output_dir / "metrics.csv", [*content["rows"][0]], content["rows"])
    write_json(output_dir / "metrics.json", content)
    if max_copies is not None and (share := copied_share(nearest)) > max_copies:
        raise Refused(
            f"{synthetic}: {share:.1%} of the cases are near copies of training cases, at most {max_copies:.1%} are "
            f"allowed; {output_dir / 'metrics.json'} names the nearest pairs. Do not release these data"
        )


def check_options(output_dir: Path, segmenter_command: str | None, max_copies: float | None, overwrite: bool) -> None:
    """Raises UserError for what is wrong before any file is read."""
    if max_copies is not None and not (type(max_copies) in (int, float) and 0 <= max_copies < 1):
        raise UserError(f"--max_copies {max_copies!r}: a share from 0 to below 1 is needed, such as 0.01")
    for name, what in (("dataset.json", "a data set or pairs"), ("run.yaml", "a work directory")):
        if (output_dir / name).exists():
            raise UserError(f"--output_dir {output_dir}: is {what}; choose a folder of its own, such as one in it")
    if (output_dir / "metrics.json").exists() and not overwrite:
        raise UserError(f"{output_dir}: holds an evaluation already; choose another folder, or add --overwrite")
    if (output_dir / "metrics.json").exists() and "rows" not in read_json(output_dir / "metrics.json"):
        raise UserError(f"{output_dir}: its metrics.json is of no evaluation, and stays; choose another folder")
    if not (output_dir / "metrics.json").exists():  # new, or one was interrupted
        made = files_made(output_dir)
        if foreign := [name for name in RESULTS if name not in made and (output_dir / name).exists()]:
            raise UserError(f"{output_dir}: its {foreign[0]} is of no evaluation, and stays; choose another folder")
    if segmenter_command is not None:
        check_command(segmenter_command)


def check_requirements(
    real: Path, synthetic: Path, cases: dict[str, list[Case]], segmenter_command: str | None, max_copies: float | None
) -> None:
    """Raises UserError where an option needs what the data sets do not have."""
    if max_copies is not None and len(cases["validation"] + cases["test"]) < 2:
        raise UserError(f"{real}: --max_copies needs at least 2 held-out cases (validation and test) to compare with")
    if segmenter_command is not None and not all(case.label for case in cases["synthetic"]):
        raise UserError(f"{synthetic}: --segmenter_command needs labels, and a real data set that names their classes")


MIN_TRAINING, MIN_SYNTHETIC = 4, 2  # two halves of two; a variance
IMAGE_FOLDERS, LABEL_FOLDERS = ("imagesTr", "images", "."), ("labelsTr", "labels")


def open_both(real: Path, synthetic: Path) -> tuple[Schema, dict[str, list[Case]]]:
    """The schema of both data sets, and the cases: of each split of the real one, and `synthetic`.

    Raises UserError where they cannot be compared.
    """
    other, synthetic_cases = open_data(synthetic)  # first, as the likeliest to be refused
    schema, cases = open_data(real)
    if not schema.class_names:  # a plain folder of scans takes them from the other one
        schema = replace(other, name=schema.name, roi_size=schema.roi_size, spacing=schema.spacing)
    check_alike(schema, other, real, synthetic)
    for folder, found, least in ((real, cases, MIN_TRAINING), (synthetic, synthetic_cases, MIN_SYNTHETIC)):
        if (number := len(found["training"])) < least:
            raise UserError(f"{folder}: has {number} training cases, at least {least} are needed; add cases")
    if not schema.class_names:  # without names a label map says nothing
        for found in (synthetic_cases, cases):
            found["training"] = [replace(case, label=None) for case in found["training"]]
    return schema, {"synthetic": synthetic_cases["training"], **cases}


def open_data(folder: Path) -> tuple[Schema, dict[str, list[Case]]]:
    """The schema and the cases of each split of a prepared data set, or of a plain folder of scans.

    A plain folder has its images in `imagesTr`, `images` or itself, and may have labels of the same names in `labelsTr`
    or `labels`. All its cases are training cases; it knows no classes, and its intensities are brought to [0, 1].
    """
    if (folder / "dataset.json").is_file():
        return load_schema(folder), {split: load_cases(folder, split) for split in SPLITS}
    images = next((found for name in IMAGE_FOLDERS if (found := scan_paths(folder / name))), {})
    if not images:
        raise UserError(f"{folder}: holds neither a dataset.json nor scans (.nii.gz or .nii); give a folder of scans")
    labels = next((found for name in LABEL_FOLDERS if (found := scan_paths(folder / name))), {})
    if labels and (missing := sorted(images.keys() - labels.keys())):
        raise UserError(f"{folder}: has labels, but none for {missing[0]}; add it, or take the labels away")
    cases = [
        Case(stem(path), path, labels.get(name), patient=name, rescale=True) for name, path in sorted(images.items())
    ]
    image, affine = load_volume(cases[0].image)
    spacing = tuple(round(length, 4) for length in spacing_of(affine))  # all others must have the first image's
    schema = Schema(folder.resolve().name, (), image.shape, spacing)
    return schema, {"training": cases, "validation": [], "test": []}


def open_again(folder: Path, synthetic: Sequence[Case]) -> list[Case]:
    """The cases of a second draw. Raises UserError where one is not among the synthetic ones."""
    found = open_data(folder)[1]["training"]
    if unknown := sorted({case.name for case in found} - {case.name for case in synthetic}):
        raise UserError(f"{folder}: {unknown[0]} is not among the synthetic cases; --again takes the same names")
    return found


def scan_paths(folder: Path) -> dict[str, str]:
    """The scans of a folder by name, without the `_0000` that nnU-Net's images end with."""
    found = scan_files(folder, "_0000") if folder.is_dir() else {}
    return {name: str(path.resolve()) for name, path in found.items()}


def check_alike(real: Schema, synthetic: Schema, real_dir: Path, synthetic_dir: Path) -> None:
    """Raises UserError where the data sets differ in spacing, size, or classes where both name them."""
    keys = ["spacing", "roi_size", *(["class_names"] if real.class_names and synthetic.class_names else [])]
    for key in keys:
        ours, theirs = getattr(real, key), getattr(synthetic, key)
        if key == "spacing" and np.allclose(ours, theirs, rtol=0.01):
            continue
        if ours != theirs:
            raise UserError(
                f"the two data sets differ in {key}: {real_dir} has {list(ours)}, {synthetic_dir} has {list(theirs)}; "
                "prepare the real one as it was for training, or generate with models trained on it"
            )


def open_extractor(
    schema: Schema,
    real: Path,
    segmenter: str | Path | None,
    medicalnet: str | Path | None,
    radimagenet: str | Path | None,
    radiomics: bool,
) -> RecordExtractor:
    """Load the networks that were given. Raises UserError where one cannot be used."""
    if segmenter is not None and not schema.class_names:
        raise UserError(f"{real}: --segmenter needs a prepared data set that names the classes; run `lldm3d prepare`")
    extractors = [
        *([load_medicalnet(medicalnet)] if medicalnet is not None else []),
        *([load_radimagenet(radimagenet)] if radimagenet is not None else []),
        *([Radiomics()] if radiomics else []),
    ]
    network = load_segmenter(segmenter, schema.class_names) if segmenter is not None else None
    return RecordExtractor(schema, network, tuple(extractors))


def extract_shared(cases: dict[str, list[Case]], cache: RecordCache) -> dict[str, CaseRecords] | None:
    """The records of all cases; None in all processes but the first, which has those of the others from the cache."""
    number, processes = place()
    for split, items in cases.items():
        # in files alone: records that are kept between the large arrays of case after case would scatter the memory
        # that these leave, and it would grow with their number (by 18 MB for a case of 160x160x64 voxels)
        for case in with_progress(split, items[number::processes]):
            cache(case, score=split in SCORED, blur=split in BLURRED)
    wait_for_all()
    return extract_all(cases, cache) if number == 0 else None


def extract_all(cases: dict[str, list[Case]], extract: Callable[..., Record]) -> dict[str, CaseRecords]:
    return {
        split: extract_split(split, items, extract, split in SCORED, split in BLURRED) for split, items in cases.items()
    }


def compute_metrics(
    records: dict[str, CaseRecords], extractor: RecordExtractor, perceptual: Lpips | None = None
) -> tuple[list[Row], list[NearestCases]]:
    """All rows, and the nearest training cases.

    Args:
        records: training (blurred too), validation, test and synthetic; and warped training cases, where there are any.
    """
    ours, training, validation, test = (records[split] for split in ("synthetic", "training", "validation", "test"))
    schema, spaces = extractor.schema, extractor.spaces
    near = [space for space in spaces if space.neighbours]
    first = near[0] if near else None
    warped = records.get("warped")
    shown = warped.cases if warped else ()
    nearest = nearest_cases(ours, training, [validation, test], schema.roi_size, first, warped)
    training = training.in_domain()  # copies are looked for among all cases that a generator may have seen
    if ours.scores:
        alignment = alignment_rows(ours.scores, test.scores, schema, spaces[0].identity)
    else:
        missing = "a segmentation network (--segmenter)" if extractor.segmenter is None else "synthetic labels"
        alignment = [Row(Metric.ALIGNMENT_DICE, Compared.LABEL_SEGMENTATION, note=f"needs {missing}")]
    rows = [
        *plane_means(fidelity_rows(ours, training, test, spaces)),
        *manifold_rows(ours, training, test, near),
        *diversity_rows(ours.cases, training.cases, schema, device()),
        *label_rows(ours, training, test, schema),
        *alignment,
        *copy_rows(nearest, first),
        *through_plane_rows(ours.cases, training.cases, test.cases, schema),
        *paired_rows(ours, [training, validation, test], schema, device(), further=shown, perceptual=perceptual),
    ]
    return rows, nearest
