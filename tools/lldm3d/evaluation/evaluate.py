"""Judge a synthetic data set against the real one: the command `lldm3d evaluate`."""

from dataclasses import replace
from pathlib import Path

from lldm3d import __version__
from lldm3d.data.dataset import SPLITS, Schema, load_cases, load_schema
from lldm3d.errors import Refused, UserError
from lldm3d.evaluation import figures
from lldm3d.evaluation.alignment import alignment_rows
from lldm3d.evaluation.copies import Nearest, copied_share, copy_rows, nearest_neighbours, worst
from lldm3d.evaluation.diversity import diversity_rows
from lldm3d.evaluation.external import check_command, external_rows
from lldm3d.evaluation.fidelity import fidelity_rows
from lldm3d.evaluation.labels import label_rows, write_statistics
from lldm3d.evaluation.manifold import manifold_rows
from lldm3d.evaluation.medicalnet import MedicalNet, load_medicalnet
from lldm3d.evaluation.network import Segmenter, load_segmenter
from lldm3d.evaluation.paired import paired_rows
from lldm3d.evaluation.rows import Row, write_csv
from lldm3d.evaluation.scans import check_counts, check_sides
from lldm3d.evaluation.survey import Survey, survey
from lldm3d.files import write_json

FORMAT = 2  # of metrics.json: raised when a key or the name of a metric changes; 1 had no `format`


def evaluate(
    real: str | Path,
    synthetic: str | Path,
    segmenter: str | Path,
    output_dir: str | Path,
    medicalnet: str | Path | None = None,
    segmenter_command: str | None = None,
    max_copies: float | None = None,
    overwrite: bool = False,
) -> None:
    """Write `metrics.json`, `metrics.csv`, `label_statistics.csv` and `figures/*.png` into `output_dir`.

    Args:
        real: prepared data set.
        synthetic: generated data set in the same layout, all cases in its training split.
        segmenter: stage folder of a segmentation network trained on `real` alone (regime R), or its model.pt.
        output_dir: folder of the results.
        medicalnet: weights of a MedicalNet ResNet, for fidelity and diversity as it sees them.
        segmenter_command: a further segmenter for the alignment: a command with `{images}` and `{labels}` in it.
        max_copies: largest share of near copies that the data may hold.
        overwrite: replace an evaluation that is there.

    Raises:
        UserError: where the data sets cannot be compared, a file is unusable, or results are there already.
        Refused: after all is written, where more than `max_copies` of the cases are near copies.
    """
    real, synthetic, output_dir = Path(real), Path(synthetic), Path(output_dir)
    check_options(output_dir, segmenter_command, max_copies, overwrite)
    schema, cases = open_sides(real, synthetic, gated=max_copies is not None)
    network = load_segmenter(segmenter, schema.class_names)
    further = load_medicalnet(medicalnet) if medicalnet is not None else None
    sides = {
        split: survey(
            split, items, schema, network, split in ("test", "synthetic"), blur=split == "training", further=further
        )
        for split, items in cases.items()
    }
    rows, spaces = judge(sides, schema, network)
    if further:
        rows += further_rows(sides, further)
    if segmenter_command is not None:
        rows += external_rows(segmenter_command, sides["synthetic"], sides["test"], schema)
    nearest = worst(spaces, sides["synthetic"], sides["training"])
    write_statistics(output_dir / "label_statistics.csv", sides)
    figures.write(output_dir / "figures", sides, spaces, nearest, rows, schema)
    write_csv(output_dir / "metrics.csv", rows)
    write_json(output_dir / "metrics.json", summary(real, synthetic, sides, identity(network), rows, nearest))
    if max_copies is not None:
        refuse_copies(spaces, max_copies, synthetic, output_dir)


def check_options(output_dir: Path, segmenter_command: str | None, max_copies: float | None, overwrite: bool) -> None:
    """Raises UserError for what is wrong before any file is read."""
    if max_copies is not None and not (type(max_copies) in (int, float) and 0 <= max_copies < 1):
        raise UserError(f"--max_copies {max_copies!r}: a share from 0 to below 1 is needed, such as 0.01")
    if (output_dir / "metrics.json").exists() and not overwrite:
        raise UserError(f"{output_dir}: holds an evaluation already; choose another folder, or add --overwrite")
    if segmenter_command is not None:
        check_command(segmenter_command)


def open_sides(real: Path, synthetic: Path, gated: bool) -> tuple[Schema, dict[str, list[dict]]]:
    """What both data sets share, and the cases of each side. Raises UserError where they cannot be compared."""
    schema = load_schema(real)
    check_sides(schema, load_schema(synthetic), real, synthetic)
    cases = {"synthetic": load_cases(synthetic, "training")}  # first, as the likeliest to be refused
    cases |= {split: load_cases(real, split) for split in SPLITS}
    check_counts(cases["training"], cases["synthetic"], real, synthetic)
    if gated and len(cases["validation"] + cases["test"]) < 2:
        raise UserError(f"{real}: --max_copies needs at least 2 held-out cases (validation and test) to compare with")
    return schema, cases


def refuse_copies(spaces: list[Nearest], max_copies: float, synthetic: Path, output_dir: Path) -> None:
    """Raises Refused where more than `max_copies` of the cases are near copies."""
    share = copied_share(spaces)
    if share > max_copies:
        raise Refused(
            f"{synthetic}: {share:.1%} of the cases are near copies of training cases, at most {max_copies:.1%} are "
            f"allowed; {output_dir / 'metrics.json'} names the nearest pairs. Do not release these data"
        )


def judge(sides: dict[str, Survey], schema: Schema, network: Segmenter) -> tuple[list[Row], list[Nearest]]:
    """All rows, and the nearest training cases. `sides` has training (blurred too), validation, test and synthetic."""
    ours, training, test = sides["synthetic"], sides["training"], sides["test"]
    seen_by = identity(network)
    spaces = nearest_neighbours(ours, training, [sides["validation"], test], schema.roi_size)
    rows = [
        *fidelity_rows(ours, training, test, seen_by),
        *manifold_rows(ours, training, test, seen_by),
        *diversity_rows(ours.cases, training.cases, schema, network.device),
        *label_rows(ours, training, test, schema),
        *alignment_rows(ours, test, schema, seen_by),
        *copy_rows(spaces, seen_by),
        *paired_rows(ours, [training, sides["validation"], test], schema, network.device),
    ]
    return rows, spaces


def further_rows(sides: dict[str, Survey], network: MedicalNet) -> list[Row]:
    """Fidelity and diversity as a further network sees them, named after it."""
    seen = [sides[side].further if len(sides[side]) else sides[side] for side in ("synthetic", "training", "test")]
    seen_by = {"network": network.name, "weights": network.weights}
    rows = [*fidelity_rows(*seen, seen_by), *manifold_rows(*seen, seen_by)]
    return [replace(row, name=f"{row.name}, {network.name}") for row in rows]


def identity(network: Segmenter) -> dict[str, str]:
    """What a figure that depends on the network carries with it."""
    return {"network": f"{network.name}:{network.layer}", "weights": network.weights}


def summary(
    real: Path, synthetic: Path, sides: dict[str, Survey], seen_by: dict[str, str], rows: list[Row], nearest: list[dict]
) -> dict:
    """The content of `metrics.json`."""
    return {
        "format": FORMAT,
        "version": __version__,
        "real": str(real.resolve()),
        "synthetic": str(synthetic.resolve()),
        "cases": {side: len(found) for side, found in sides.items()},
        **seen_by,
        "rows": [row.plain() for row in rows],
        "nearest": nearest,
    }
