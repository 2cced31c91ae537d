"""`lldm3d release`: a folder of synthetic pairs that may be shared; and `lldm3d verify`: its check by who gets it."""

import json
import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import deflate
import nibabel as nib
import numpy as np
from jinja2 import Environment, StrictUndefined

from lldm3d import __version__
from lldm3d.children import quoted
from lldm3d.data.dataset import SPLITS, Case, Schema, load_cases, load_schema, modalities, read_description
from lldm3d.data.scans import read_pair
from lldm3d.errors import UserError
from lldm3d.evaluation.metrics import (
    Compared,
    Metric,
    find_row,
    find_rows,
    format_number,
    near_copies_share,
    read_metrics,
    write_csv,
)
from lldm3d.evaluation.records import content_hash
from lldm3d.files import (
    MARKER,
    atomic_write,
    files_in,
    open_nifti,
    output_folder,
    package_text,
    read_json,
    sha256,
    write_json,
)
from lldm3d.methods.registry import load_method
from lldm3d.pairs.sources import DRAWN, EDITED, RECONSTRUCTED, TEST, TRAINING, UNWARPED
from lldm3d.pairs.start_slices import GENERATED
from lldm3d.report.comparison import evaluation_dir, pairs_dir, source_title
from lldm3d.report.summary import answers
from lldm3d.report.write import first_evaluation
from lldm3d.study.scores import read_scores
from lldm3d.study.statistics import lines as study_lines

MAX_COPIES = 0.01  # largest share of near copies that may be released
SUMS, CROISSANT, PAIRS = "SHA256SUMS", "croissant.json", "pairs.csv"
MARK = "synthetic"  # in the `descrip` of each NIfTI header
FIGURES = {  # what the data sheet tells, and against which cases
    Metric.FID: Compared.SYNTHETIC_TRAINING,
    Metric.RECALL: Compared.SYNTHETIC_TRAINING,
    Metric.ALIGNMENT_DICE_RATIO: Compared.PAIRS_TEST,
    Metric.NEAR_COPIES_SHARE: Compared.SYNTHETIC_TRAINING,
    Metric.NEARER_SHARE: Compared.SYNTHETIC_TRAINING,
}


def release(
    workdir: str, output_dir: str, pairs: str | None = None, licence: str | None = None, overwrite: bool = False
) -> None:
    """Write the folder that may be shared: pairs, data sheet, Croissant metadata, data card, licence, checksums.

    The pairs get numbers for names. Nothing is written where more than 1 % of them
    are near copies of training cases, where that was not measured, or where anything bears the name of a patient.

    Args:
        workdir: folder of all results of `lldm3d run`.
        output_dir: the new folder.
        pairs: which, as lldm/drawn/seed_0 in W/pairs; default: those that the report shows.
        licence: of the synthetic data, such as CC-BY-4.0; default: that of the training data.
        overwrite: replace an earlier release.

    Raises:
        UserError: with what was found.
    """
    work, target = Path(workdir).resolve(), Path(output_dir)
    place = chosen_pairs(work, pairs)
    source, rows = pairs_dir(work, *place), releasable(work, place)
    schema, cases = load_schema(source), load_cases(source, "training")
    if unlabelled := [case.name for case in cases if case.label is None]:
        raise UserError(f"{source}: {len(unlabelled)} images have no label, such as {unlabelled[0]}; release pairs")
    if known := patients_labels(cases, schema, work / "dataset"):
        raise UserError(
            f"{source}: {len(known)} of {len(cases)} label maps are a patient's as they are, such as {known[0]}, which "
            f"are not released; take pairs of the source {TRAINING}, whose labels are warped, or {DRAWN}"
        )
    about = description(work, place, schema, rows, licence)
    with output_folder(target, overwrite, [work, source]) as folder:
        names = [f"synthetic_{number:04d}" for number in range(1, len(cases) + 1)]
        for name, case in zip(names, cases, strict=True):
            write_pair(folder, name, case, schema)
        write_documents(folder, names, schema, about)
        if found := patients_named(folder, work / "dataset"):
            raise UserError(
                f"nothing was released, as the name of a patient or case is in it: {found}; rename it there"
            )
        sums = "".join(f"{sha256(folder / name)}  {name}\n" for name in sorted(files_in(folder)))
        with atomic_write(folder / SUMS) as temporary:
            temporary.write_text(sums)
    print(f"{target}: {len(cases)} pairs to share; whoever gets them runs `lldm3d verify`")


def chosen_pairs(work: Path, pairs: str | None) -> tuple[str, str, int]:
    """Method, source of labels and seed of the pairs. Raises UserError where there are none of that name."""
    path = work / "comparison" / "comparison.json"
    if pairs is None:
        return first_evaluation(work, read_json(path) if path.is_file() else {})
    found = re.fullmatch(r"([^/]+)/([^/]+)/seed_(\d+)", pairs)
    if not found or not (work / "pairs" / pairs / "dataset.json").is_file():
        there = [
            str(one.parent.relative_to(work / "pairs")) for one in sorted(work.glob("pairs/*/*/seed_*/dataset.json"))
        ]
        raise UserError(f"--pairs {pairs}: no such pairs in {work / 'pairs'}; there are {', '.join(there) or 'none'}")
    return found[1], found[2], int(found[3])


def patients_labels(cases: list[Case], schema: Schema, dataset: Path) -> list[str]:
    """Names of the pairs whose label map is that of a real case, whatever its source; empty ones are no one's."""
    real = [case for split in SPLITS for case in load_cases(dataset, split) if case.label]
    known = {read_pair(case, load_schema(dataset)).label.tobytes() for case in real}
    labels = ((case.name, read_pair(case, schema).label) for case in cases)
    return [name for name, label in labels if label.any() and label.tobytes() in known]


def releasable(work: Path, place: tuple[str, str, int]) -> list[dict]:
    """The rows of the evaluation of the pairs. Raises UserError where there is none, it judged others, or found
    copies."""
    if place[1] in (UNWARPED, TEST, RECONSTRUCTED, *EDITED):
        raise UserError(
            f"{pairs_dir(work, *place)}: shows labels or scans of patients as they are, which are not released; take "
            f"pairs of the source {TRAINING}, whose labels are warped, or {DRAWN}"
        )
    path = evaluation_dir(work, *place) / "metrics.json"
    content = read_metrics(path) if path.is_file() else {}
    found = near_copies_share(content)
    if found is None:
        raise UserError(
            f"{path}: the copies of patients were not measured; run the stage `evaluate` with held-out cases"
        )
    if found[0] > MAX_COPIES:
        raise UserError(
            f"{path}: {found[0]:.1%} of {found[1]} pairs are near copies of training cases, at most {MAX_COPIES:.0%} "
            "may be released; draw others from a model that saw more patients or trained shorter"
        )
    pairs = pairs_dir(work, *place)
    manifest = pairs / "manifest.json"
    settings = read_description(manifest).get("settings") if manifest.is_file() else {}
    start = (settings or {}).get("start", GENERATED)
    if start != GENERATED:
        raise UserError(f"{manifest}: each pair began from a slice of a patient (start {start}), which is not released")
    if content.get("judged") != content_hash(load_cases(pairs, "training")):
        said = "judged other pairs than" if "judged" in content else "does not say that it judged"
        raise UserError(
            f"{path}: {said} those in {pairs}; delete it and call `lldm3d run --workdir {quoted(work)}`, which "
            "judges them"
        )
    return content["rows"]


def description(work: Path, place: tuple[str, str, int], schema: Schema, rows: list[dict], licence: str | None) -> dict:
    """What the documents of a release say. Raises UserError where neither user nor training data name a licence."""
    content, manifest = read_json(work / "dataset" / "dataset.json"), pairs_dir(work, *place) / "manifest.json"
    source = content.get("licence") or content.get("license")
    if not (licence or source):
        raise UserError(f"{work / 'dataset/dataset.json'}: names no licence of the training data; give --licence")
    method, labels, seed = place
    made = read_json(manifest) if manifest.is_file() else {}
    lines = study_lines(read_scores(work))
    return {
        "licence": licence or str(source),
        "training": f"{content['name']}, licence {source or 'not stated'}, by {content.get('reference', 'unknown')}",
        "patients": {split: len({case.patient for case in load_cases(work / "dataset", split)}) for split in SPLITS},
        "method": f"{load_method(method).title} ({source_title(labels).lower()}; seed {seed})",
        "labels": source_title(labels),
        "models": made.get("checkpoints", {}),
        "figures": [row for key, compared in FIGURES.items() for row in find_rows(rows, key, compared)],
        "answers": answers(rows, lines),
        "copies": find_row(rows, Metric.NEAR_COPIES_SHARE)["value"],
        "modality": str(modalities(content).get("0", "unknown")),
    }


def write_pair(folder: Path, name: str, case: Case, schema: Schema) -> None:
    """Image and label under a new name and with new headers, each with a sidecar: what their files said stays away."""
    scan = read_pair(case, schema)
    for kind, volume in (("image", scan.image), ("label", scan.label)):
        nifti = nib.Nifti1Image(np.asfortranarray(volume), scan.affine)
        nifti.header.set_xyzt_units("mm")
        nifti.header["descrip"] = MARK
        path = folder / f"{kind}sTr/{name}.nii.gz"
        with atomic_write(path) as temporary:
            temporary.write_bytes(deflate.gzip_compress(nifti.to_bytes(), 6))
        write_json(path.with_name(f"{name}.json"), {"synthetic": True, "generator": f"3D-LLDM {__version__}"})


def write_documents(folder: Path, names: list[str], schema: Schema, about: dict) -> None:
    """`dataset.json`, a table of the pairs, data sheet, data card, licence and Croissant metadata."""
    pairs = [{"name": name} | {kind: f"{kind}sTr/{name}.nii.gz" for kind in ("image", "label")} for name in names]
    write_csv(folder / PAIRS, ("name", "image", "label"), pairs)
    title = f"Synthetic {schema.name.removesuffix(' (synthetic)')}"
    write_json(folder / "dataset.json", {
        **{"name": title, "description": "Synthetic pairs of image and label by 3D-LLDM", "licence": about["licence"]},
        **{"modality": {"0": about["modality"]}, "labels": {str(k): name for k, name in enumerate(schema.class_names)}},
        **{"roi_size": list(schema.roi_size), "spacing": list(schema.spacing), "orientation": schema.orientation},
        **{"tubular": list(schema.tubular), "lesions": list(schema.lesions), "inside": schema.inside},
        **{"numTraining": len(pairs), "numTest": 0, "validation": [], "test": []},
        "training": [{"image": f"./{pair['image']}", "label": f"./{pair['label']}"} for pair in pairs],
    })  # fmt: skip
    sheet = data_sheet(title, len(names), schema, about)
    card = {"license": "other", "license_name": about["licence"], "pretty_name": title}
    card |= {"task_categories": ["image-segmentation"], "tags": ["medical", "synthetic", "3d"]}
    front = "".join(f"{key}: {json.dumps(value)}\n" for key, value in card.items())
    texts = {
        "DATASHEET.md": sheet,
        "README.md": f"---\n{front}---\n\n{sheet}",
        "LICENSE": f"{title}: {about['licence']}\n\nLearnt from {about['training']}.\n",
    }
    for name, text in texts.items():
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text)
    write_json(folder / CROISSANT, croissant(folder, title, about))


def data_sheet(title: str, number: int, schema: Schema, about: dict) -> str:
    """What the data are, of what they were made, how good they are, and their known faults, as Markdown."""
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    environment.filters["number"] = format_number
    template = environment.from_string(package_text("export/data_sheet.md"))
    made = {"day": date.today().isoformat(), "version": __version__, "limit": MAX_COPIES}
    return template.render(about, title=title, number=number, schema=schema, **made)


def croissant(folder: Path, title: str, about: dict) -> dict:
    """The files of a release as Croissant 1.0 (docs.mlcommons.org/croissant) describes them."""
    media = {".gz": "application/gzip", ".json": "application/json", ".csv": "text/csv", ".md": "text/markdown"}
    files = [
        {
            **{"@type": "cr:FileObject", "@id": name, "name": name, "contentUrl": name},
            **{"encodingFormat": media.get(Path(name).suffix, "text/plain"), "sha256": sha256(folder / name)},
        }
        for name in sorted(files_in(folder))
    ]
    fields = [
        {
            **{"@type": "cr:Field", "@id": f"pairs/{column}", "name": column, "dataType": "sc:Text"},
            "source": {"fileObject": {"@id": PAIRS}, "extract": {"column": column}},
        }
        for column in ("name", "image", "label")
    ]
    return {
        "@context": json.loads(package_text("export/croissant_context.json")),
        **{"@type": "sc:Dataset", "conformsTo": "http://mlcommons.org/croissant/1.0", "name": title},
        "description": f"Synthetic pairs of 3D medical image and label map by {about['method']}, for research.",
        **{"license": about["licence"], "version": "1.0.0", "datePublished": date.today().isoformat()},
        **{"url": "https://arxiv.org/abs/2603.23845", "citeAs": "arXiv:2603.23845"},
        "distribution": files,
        "recordSet": [{"@type": "cr:RecordSet", "@id": "pairs", "name": "pairs", "field": fields}],
    }


def patients_named(folder: Path, dataset: Path) -> str:
    """The first name of a patient or case of the real data that a file's name, text or header holds; "" without one.

    Names of few digits are no sign: they are in every number.
    """
    known = {name for split in SPLITS for case in load_cases(dataset, split) for name in (case.patient, case.name)}
    known = sorted(name for name in known if re.search("[a-zA-Z]{2}|[0-9]{5}", name))
    if not known:
        return ""
    pattern = re.compile(rf"(?<![a-zA-Z0-9])(?:{'|'.join(map(re.escape, known))})(?![a-zA-Z0-9])", re.IGNORECASE)
    for name in sorted(files_in(folder)):
        content = header_bytes(folder / name) if name.endswith(".nii.gz") else (folder / name).read_bytes()
        for text in (name, content.decode(errors="replace")):
            if found := pattern.search(text):
                return f"{found.group()!r} in {name}"
    return ""


def header_bytes(path: Path) -> bytes:
    """The header of a NIfTI file."""
    return open_nifti(path).header.binaryblock


def verify(folder: str) -> None:
    """Check a release that was received: checksums, completeness, and that each volume says it is synthetic.

    Args:
        folder: what `lldm3d release` made.

    Raises:
        UserError: with all that is wrong.
    """
    place = Path(folder)
    if not (place / SUMS).is_file():
        raise UserError(f"{place}: holds no {SUMS}; give the folder that `lldm3d release` made")
    if faults := list(release_faults(place)):
        more = f"; and {len(faults) - 10} more" if faults[10:] else ""
        raise UserError(f"{place}: {len(faults)} faults: {'; '.join(faults[:10])}{more}; ask for the folder again")
    if not (pairs := load_cases(place, "training")):
        raise UserError(f"{place}: its dataset.json lists no pairs; ask for the folder again")
    print(f"{place}: {len(pairs)} pairs, as they were released")


def release_faults(folder: Path) -> Iterator[str]:
    """What is missing, changed, added or not marked as synthetic."""
    lines = [line.partition("  ")[::2] for line in (folder / SUMS).read_text(errors="replace").splitlines()]
    sums = {name: digest for digest, name in lines}
    for name in sorted({*sums} - {*files_in(folder)}):
        yield f"{name} is missing"
    for name in sorted({*files_in(folder)} - {*sums} - {SUMS, MARKER}):
        yield f"{name} does not belong there"
    for name in sorted({*sums} & {*files_in(folder)}):
        path = folder / name
        if not path.is_file():  # to read a pipe would wait for ever
            yield f"{name} is no file"
        elif sha256(path) != sums[name]:
            yield f"{name} has changed"
        elif name.endswith(".nii.gz") and not says_synthetic(path):
            yield f"{name} does not say that it is synthetic"


def says_synthetic(path: Path) -> bool:
    """Whether the header of a volume and its sidecar say so."""
    sidecar = path.with_name(path.name.replace(".nii.gz", ".json"))
    try:
        marked = open_nifti(path).header["descrip"].item().decode(errors="replace") == MARK
    except Exception:  # nibabel, gzip and zlib each raise their own kinds
        return False
    return marked and sidecar.is_file() and read_description(sidecar).get("synthetic") is True
