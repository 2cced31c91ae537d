"""Judge a synthetic data set against the real one: the command `lldm3d evaluate`."""

from collections.abc import Callable
from pathlib import Path

from lldm3d import __version__
from lldm3d.data.dataset import Schema
from lldm3d.errors import Refused, UserError
from lldm3d.evaluation import figures
from lldm3d.evaluation.alignment import alignment_rows, check_command, external_rows
from lldm3d.evaluation.copies import Nearest, copied_share, copy_rows, nearest_neighbours, worst
from lldm3d.evaluation.distances import fidelity_rows, manifold_rows
from lldm3d.evaluation.features import load_segmenter
from lldm3d.evaluation.labels import label_rows, write_statistics
from lldm3d.evaluation.metrics import HIGHER, Row, write_csv
from lldm3d.evaluation.observer import Cache, Observer, look_once, survey
from lldm3d.evaluation.pretrained import Radiomics, load_medicalnet, load_radimagenet, plane_means
from lldm3d.evaluation.records import Record, Survey
from lldm3d.evaluation.scans import open_sides
from lldm3d.evaluation.similarity import diversity_rows, paired_rows
from lldm3d.files import write_json
from lldm3d.processes import device, place, wait_for_all

FORMAT = 3  # of metrics.json: raised when a key or the name of a metric changes
SCORED, BLURRED = ("test", "synthetic"), ("training",)  # sides


def evaluate(
    real: str | Path,
    synthetic: str | Path,
    output_dir: str | Path,
    segmenter: str | Path | None = None,
    medicalnet: str | Path | None = None,
    radimagenet: str | Path | None = None,
    radiomics: bool = False,
    segmenter_command: str | None = None,
    max_copies: float | None = None,
    cache_dir: str | Path | None = None,
    overwrite: bool = False,
) -> None:
    """Write `metrics.json`, `metrics.csv`, `label_statistics.csv` and `figures/*.png` into `output_dir`.

    What is seen of each case is kept in `cache_dir`, so that an interrupted evaluation goes on and a further one of the
    same real data looks at them no more. The processes that torchrun starts share the cases.

    Args:
        real: prepared data set, or a folder of scans.
        synthetic: generated data set in the same layout, all cases in its training split; or a folder of scans.
        output_dir: folder of the results.
        segmenter: stage folder of a segmentation network trained on `real` alone (regime R), or its model.pt.
        medicalnet: weights of a MedicalNet ResNet, for fidelity and diversity as it sees them.
        radimagenet: weights of RadImageNet's ResNet-50, for fidelity in slices of each plane.
        radiomics: also compare radiomic features.
        segmenter_command: a further segmenter for the alignment: a command with `{images}` and `{labels}` in it.
        max_copies: largest share of near copies that the data may hold.
        cache_dir: where findings of each case are kept for further evaluations; default: `cache` in `output_dir`.
        overwrite: replace an evaluation that is there.

    Raises:
        UserError: where the data sets cannot be compared, a file is unusable, or results are there already.
        Refused: after all is written, where more than `max_copies` of the cases are near copies.
    """
    real, synthetic, output_dir = Path(real), Path(synthetic), Path(output_dir)
    check_options(output_dir, segmenter_command, max_copies, overwrite)
    schema, cases = open_sides(real, synthetic)
    check_needs(real, synthetic, cases, segmenter_command, max_copies)
    observer = open_observer(schema, real, segmenter, medicalnet, radimagenet, radiomics)
    sides = look_at(cases, Cache(observer, Path(cache_dir or output_dir / "cache")))
    if sides is None:
        return
    rows, spaces = judge(sides, observer)
    if segmenter_command is not None:
        rows += external_rows(segmenter_command, sides["synthetic"], sides["test"], schema)
    nearest = worst(spaces, sides["synthetic"], sides["training"])
    write_statistics(output_dir / "label_statistics.csv", sides)
    figures.write(output_dir / "figures", sides, spaces, nearest, rows, observer)
    write_csv(output_dir / "metrics.csv", rows)
    write_json(output_dir / "metrics.json", summary(real, synthetic, sides, observer, rows, nearest))
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


def check_needs(
    real: Path, synthetic: Path, cases: dict, segmenter_command: str | None, max_copies: float | None
) -> None:
    """Raises UserError where an option needs what the data sets do not have."""
    if max_copies is not None and len(cases["validation"] + cases["test"]) < 2:
        raise UserError(f"{real}: --max_copies needs at least 2 held-out cases (validation and test) to compare with")
    if segmenter_command is not None and not all(case["label"] for case in cases["synthetic"]):
        raise UserError(f"{synthetic}: --segmenter_command needs labels, and a real data set that names their classes")


def open_observer(
    schema: Schema,
    real: Path,
    segmenter: str | Path | None,
    medicalnet: str | Path | None,
    radimagenet: str | Path | None,
    radiomics: bool,
) -> Observer:
    """Load the networks that were given. Raises UserError where one cannot be used."""
    if segmenter is not None and not schema.class_names:
        raise UserError(f"{real}: --segmenter needs a prepared data set that names the classes; run `lldm3d prepare`")
    extractors = [
        *([load_medicalnet(medicalnet)] if medicalnet is not None else []),
        *([load_radimagenet(radimagenet)] if radimagenet is not None else []),
        *([Radiomics()] if radiomics else []),
    ]
    network = load_segmenter(segmenter, schema.class_names) if segmenter is not None else None
    return Observer(schema, network, tuple(extractors))


def look_at(cases: dict[str, list[dict]], cache: Cache) -> dict[str, Survey] | None:
    """The survey of each side; None in all processes but the first, which has their findings from the cache."""
    number, processes = place()
    for side, items in cases.items():
        look_once(side, items[number::processes], cache, side in SCORED, side in BLURRED)
    wait_for_all()
    return surveys(cases, cache) if number == 0 else None


def surveys(cases: dict[str, list[dict]], look: Callable[..., Record]) -> dict[str, Survey]:
    return {side: survey(side, items, look, side in SCORED, side in BLURRED) for side, items in cases.items()}


def judge(sides: dict[str, Survey], observer: Observer) -> tuple[list[Row], list[Nearest]]:
    """All rows, and the nearest training cases. `sides` has training (blurred too), validation, test and synthetic."""
    ours, training, validation, test = (sides[side] for side in ("synthetic", "training", "validation", "test"))
    schema, spaces = observer.schema, observer.spaces
    near = [space for space in spaces if space.neighbours]
    first = near[0] if near else None
    nearest = nearest_neighbours(ours, training, [validation, test], schema.roi_size, first)
    rows = [
        *plane_means(fidelity_rows(ours, training, test, spaces)),
        *manifold_rows(ours, training, test, near),
        *diversity_rows(ours.cases, training.cases, schema, device()),
        *label_rows(ours, training, test, schema),
        *aligned(ours, test, observer),
        *copy_rows(nearest, first),
        *paired_rows(ours, [training, validation, test], schema, device()),
    ]
    return rows, nearest


def aligned(synthetic: Survey, test: Survey, observer: Observer) -> list[Row]:
    """The rows of alignment, or one that says what is missing."""
    if not synthetic.scores:
        missing = "a segmentation network (--segmenter)" if observer.segmenter is None else "synthetic labels"
        between = "label of a synthetic pair / segmentation of its image"
        return [Row("alignment", "Dice", between, None, HIGHER, note=f"needs {missing}")]
    return alignment_rows(synthetic.scores, test.scores, observer.schema, observer.spaces[0].identity)


def refuse_copies(spaces: list[Nearest], max_copies: float, synthetic: Path, output_dir: Path) -> None:
    """Raises Refused where more than `max_copies` of the cases are near copies."""
    share = copied_share(spaces)
    if share > max_copies:
        raise Refused(
            f"{synthetic}: {share:.1%} of the cases are near copies of training cases, at most {max_copies:.1%} are "
            f"allowed; {output_dir / 'metrics.json'} names the nearest pairs. Do not release these data"
        )


def summary(
    real: Path, synthetic: Path, sides: dict[str, Survey], observer: Observer, rows: list[Row], nearest: list[dict]
) -> dict:
    """The content of `metrics.json`."""
    return {
        "format": FORMAT,
        "version": __version__,
        "real": str(real.resolve()),
        "synthetic": str(synthetic.resolve()),
        "cases": {side: len(found) for side, found in sides.items()},
        "networks": [{"space": space.name, **space.identity} for space in observer.spaces],
        "rows": [row.plain() for row in rows],
        "nearest": nearest,
    }
