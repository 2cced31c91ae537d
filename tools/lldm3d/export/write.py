"""`lldm3d export`."""

from dataclasses import replace
from pathlib import Path

from lldm3d.bundle import literal
from lldm3d.children import quoted
from lldm3d.data.dataset import ALL, SPLITS, axes_of, load_cases, load_schema, read_description
from lldm3d.data.regimes import parse_regime
from lldm3d.data.volumes import lies_along
from lldm3d.errors import UserError
from lldm3d.export.auto3dseg import write_auto3dseg
from lldm3d.export.bids import write_bids
from lldm3d.export.dicom import write_dicom
from lldm3d.export.nnunet import check_name, write_nnunet
from lldm3d.files import output_folder, require_replaceable, write_json
from lldm3d.study.scores import data_list

FORMATS = ("decathlon", "nnunet", "auto3dseg", "bids", "dicom")
INCOMPLETE = ("decathlon", "nnunet")  # which take labels that leave voxels out
COPIED = ("nnunet", "bids", "dicom")  # files are copied, along one set of axes; others are listed where they lie


def export(
    real: str,
    output_dir: str,
    synthetic: str | None = None,
    regime: str = "R",
    task: str = ALL,
    format: str = "decathlon",
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Write the cases of a regime for another program; validation and test cases are real always.

    Args:
        real: prepared data set.
        output_dir: the new folder; for nnunet its name is `Dataset<three digits>_<Name>`.
        synthetic: data set of synthetic pairs, for regimes with S.
        regime: R, S, R+S, 0.1R+S ...
        task: which classes the network tells apart; one of the data set (`lldm3d tasks`).
        format: decathlon (dataset.json with absolute paths), nnunet (v2 raw, with copies of the files), auto3dseg (a
            list with absolute paths, and the input.yaml of MONAI's AutoRunner), bids (copies of the files, with
            labels as a derivative; who is synthetic stands in participants.tsv), or dicom (of a regime without R:
            a series of MR or CT with a SEG for each pair, numbered and marked as synthetic).
        seed: of the choice of patients and pairs.
        overwrite: replace an earlier export.

    Raises:
        UserError: for an unknown format, regime or task, too few pairs, no validation cases, or a folder that exists.
    """
    target = Path(output_dir)
    if format not in FORMATS:
        raise UserError(f"--format {format!r} does not exist; choose one of {', '.join(FORMATS)}")
    if seed < 0:
        raise UserError(f"--seed must be a whole number of at least 0, got {seed}")
    if format == "nnunet":
        check_name(target)
    counted = parse_regime(regime)
    if format == "dicom" and counted.real:
        raise UserError(f"--format dicom writes synthetic pairs alone, and --regime {regime} has real cases; take S")
    if format == "dicom" and synthetic and not is_synthetic(synthetic):
        raise UserError(f"{synthetic}: shows patients, whom --format dicom would mark as synthetic; give drawn pairs")
    inputs = [folder for folder in (real, synthetic) if folder]
    require_replaceable(target, overwrite, inputs)
    if format != "decathlon" and any(phase.times > 1 for phase in counted.phases):
        once = replace(counted, phases=tuple(phase._replace(times=1) for phase in counted.phases)).name
        raise UserError(
            f"--regime {regime} counts real cases several times, as only --format decathlon can; take {once}"
        )
    if synthetic and not counted.synthetic:
        print(f"the regime {regime} has no synthetic pairs: those of {synthetic} are left out")
    schema, content = load_schema(real), data_list(real, synthetic, regime, seed)
    schema, chosen = replace(schema, left_out="left_out" in content), schema.task(task)
    if schema.left_out and format not in INCOMPLETE:
        raise UserError(
            f"{synthetic}: its labels leave voxels out, and --format {format} knows no such labels; take "
            f"{' or '.join(INCOMPLETE)}, or the pairs that it was made from"
        )
    if not content["validation"]:
        raise UserError(f"{real}: has no validation cases, which other programs choose by; prepare it with some")
    if format not in COPIED:
        require_own_axes(content)
    with output_folder(target, overwrite, inputs) as folder:
        if format == "nnunet":
            write_nnunet(content, schema, chosen, folder)
        elif format == "bids":
            made = {Path(case.image).resolve() for case in load_cases(synthetic, "training")} if synthetic else set()
            write_bids(content, schema, chosen, made, not synthetic or is_synthetic(synthetic), regime, folder)
        elif format == "dicom":
            write_dicom(content, schema, chosen, folder)
        elif format == "auto3dseg":
            write_auto3dseg(content, chosen, folder, target)
        else:
            write_json(folder / "dataset.json", content)
    written = SPLITS[:1] if format == "dicom" else SPLITS
    print(f"{target}: {regime}, {', '.join(f'{len(content[split])} {split}' for split in written)} cases")
    if format == "decathlon":
        names, targets = (quoted(str(literal(list(of)))) for of in (chosen.class_names, chosen.targets))
        print(f"for a bundle: --class_names {names} --targets {targets}")


def is_synthetic(pairs: str) -> bool:
    """Whether a folder of pairs shows no patients; so does any that says nothing, as those of other programs."""
    path = Path(pairs) / "dataset.json"
    return not path.is_file() or read_description(path).get("synthetic", True)


def require_own_axes(content: dict) -> None:
    """Raise UserError where a list would name files along several axes, which not every program turns."""
    axes = axes_of(content.get("orientation"))
    for case in content["training"]:
        if not lies_along(case["image"], axes) or not lies_along(case["label"], axes):
            raise UserError(
                f"{case['image']}: is stored along other axes than the real cases; --format nnunet writes all along one"
            )
