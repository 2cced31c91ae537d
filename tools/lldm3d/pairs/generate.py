"""`lldm3d generate`: pairs of image and label, or images alone, by any trained method."""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from lldm3d.children import quoted
from lldm3d.data.dataset import Schema, load_schema
from lldm3d.errors import UserError
from lldm3d.files import passing_folder, read_json, read_yaml
from lldm3d.locks import locked
from lldm3d.methods.registry import OURS, Method, load_method, method_names
from lldm3d.pairs.drawing import draw_pairs
from lldm3d.pairs.edits import paste_pairs, write_edited_labels
from lldm3d.pairs.folder import data_of_models, require_ours
from lldm3d.pairs.own_labels import CLASSES, own_labels
from lldm3d.pairs.reconstruction import reconstruct_pairs
from lldm3d.pairs.sizes import drawn_sizes
from lldm3d.pairs.sources import (
    DRAWN,
    EDITED,
    JOINED,
    KINDS,
    RECONSTRUCTED,
    SHAPES,
    TEST,
    TRAINING,
    UNWARPED,
    WRITTEN,
    LabelFile,
    LabelSource,
    edit_settings,
    label_files,
    labels_in,
    parse_source,
    real_labels,
    shapes_path,
)
from lldm3d.pairs.warping import write_warped_pairs

ASKED = ("volumes", "numbers")  # what drawn labels alone can be asked for


def generate(
    workdir: str,
    output_dir: str,
    method: str | None = None,
    source: str | None = None,
    label: str | None = None,
    label_values: str | None = None,
    n: int | None = None,
    seed: int = 0,
    model_seed: int | None = None,
    strength: float = 1.0,
    first: int = 0,
    processes: int = 1,
    overlays: Sequence[str] = (),
    reference: str | None = None,
    overwrite: bool = False,
    **settings: object,
) -> None:
    """Draw pairs of image and label with a method that a work directory has trained; an interrupted call goes on.

    Args:
        workdir: work directory of `lldm3d run`.
        output_dir: folder for the pairs: imagesTr, labelsTr, dataset.json and manifest.json.
        method: which draws, such as lldm or cond_ldm; default: the first of the run.
        source: of the labels: drawn (the default), training (real ones, smoothly warped), unwarped (the same as they
            are), test (held-out real ones), or a folder; reconstructed, the training pairs through the method's image
            codec; ellipsoids, real_shapes or lngen, training labels with new lesions.
        label: instead, a NIfTI label map of your own, or several, separated by commas. Their pairs have the axes of
            the data set, at the place of the label.
        label_values: what the values of your own labels are: classes (of the prepared data set) or source (of the raw
            data); default: what they allow.
        n: number of pairs; default: one drawn label, or as many as the source has labels.
        seed: of all cases; case i is the same whatever n, the batch size or a restart.
        model_seed: of the training whose models draw; default: the first one that is there.
        strength: of the warp of training labels; 0 leaves them as they are.
        first: the first of n drawn pairs, so that several calls, each with a folder of its own, share a large number.
        processes: on this machine, that share the pairs, each with a GPU of its own if there are any.
        overlays: further configs of the method's bundle, such as ddpm.yaml, instead of those of the run.
        reference: of gem3d with --start other_patient or own, the scan or slice from which all volumes begin: the name
            of a case, or a NIfTI file.
        overwrite: replace pairs that were drawn with other settings or models.
        settings: further ids of the method's inference config, such as guidance_scale, num_inference_steps, batch_size,
            and of drawn labels volumes and numbers, such as "{HCC: 2}" lesions; default: what the run draws by, unless
            overlays are given.

    Raises:
        UserError: for an option that is not allowed, a method that is not trained, a label that does not fit, or a
            folder that holds something else.
        ChildError: when the drawing fails.
    """
    settings |= {"reference": reference} if reference is not None else {}
    check_numbers({"n": 1 if n is None else n, "processes": processes}, {"first": first, "seed": seed}, strength)
    work, target = Path(workdir).resolve(), Path(output_dir).resolve()
    found = load_method(method or first_method(work))
    models, source = trained_folder(work, found, model_seed), source or found.sources[0]
    refuse_unused(found, source, label, {
        "source": label and source != found.sources[0],
        "label": label and found.edits,
        "n": n is not None and source == RECONSTRUCTED,
        "first": first and (label or source != DRAWN or found.needs_drawn_labels),
        "strength": strength != 1 and (label or source != TRAINING),
        "label_values": label_values and not label and source in KINDS,
        "overlays": overlays and source == RECONSTRUCTED,
        "processes": processes > 1 and found.edits,
        **dict.fromkeys(settings, source == RECONSTRUCTED),
        **{key: key in settings and (label or source != DRAWN or not found.draws_labels) for key in ASKED},
    })  # fmt: skip
    if source == RECONSTRUCTED:
        return reconstruct_pairs(found, models, seen_data(work, models), target, seed, overwrite)
    require_ours(target)
    if not overlays:
        by_run, overlays = settings_of_run(work, found.name)
        settings = by_run | settings
    with ExitStack() as held:
        lock = target.with_name(f".{target.name}.lock")
        held.enter_context(locked(lock, "the folder of the pairs"))
        held.callback(lock.unlink, missing_ok=True)
        if label:
            labels = labels_of_files(label, n, load_schema(work / "dataset"), label_values)
        else:  # warped labels lie beside the pairs until these are drawn: a folder that is refused stays as it is
            folder = held.enter_context(passing_folder(target.parent)) if source in WRITTEN else None
            parsed = parsed_source(found, source)
            labels = source_labels(work, found, models, parsed, n, folder, seed, strength, label_values)
        if found.edits and not found.trainings:
            return paste_pairs(found, seen_data(work, models), target, labels, seed, overwrite)
        check_trained(work, found, models, given=labels is not None)
        if labels is not None and not found.takes_labels:
            raise UserError(f"{found.name} draws images without labels; leave out --label and --source {source!r}")
        draw_pairs(found, models, work / "dataset", target, labels, n or 1, first, seed, settings, overlays, processes,
                   overwrite=overwrite)  # fmt: skip
        if any(asked := [settings.get(key) or {} for key in ASKED]):
            print(drawn_sizes(target, *asked))


def check_numbers(positive: dict[str, object], others: dict[str, object], strength: object) -> None:
    """Raises UserError for options that are no whole numbers of at least 1, or 0, or a strength below 0."""
    for least, options in ((1, positive), (0, others)):
        for name, value in options.items():
            if type(value) is not int or not least <= value < 2**31:
                raise UserError(
                    f"--{name} must be a whole number of at least {least}, got {value!r} (at most 2**31 - 1)"
                )
    if not (isinstance(strength, int | float) and 0 <= strength < math.inf):
        raise UserError(f"--strength must be a number of at least 0, got {strength!r}")


def refuse_unused(method: Method, source: str, label: str | None, unused: dict[str, object]) -> None:
    """Raises UserError for options that change nothing, by whether each is one."""
    if wrong := [f"--{name}" for name, given in unused.items() if given]:
        of = "labels of your own" if label else f"the source {source} and the method {method.name}"
        raise UserError(f"{', '.join(wrong)} changes nothing for {of}; leave it out")


def parsed_source(method: Method, text: str) -> LabelSource:
    """A source of labels. Raises UserError where a method that edits scans does not take it."""
    parsed = parse_source(text)
    if method.edits and parsed.kind not in method.sources:
        raise UserError(f"{method.name} edits real scans; give --source {', '.join(method.sources)}, got {text!r}")
    return parsed


def first_method(work: Path) -> str:
    """The method that a run of the work directory trains first; ours where none is named."""
    return (read_run_yaml(work).get("methods") or [OURS])[0]


def read_run_yaml(work: Path) -> dict:
    """What `lldm3d run` noted of a work directory; {} where it did not make it."""
    path = work / "run.yaml"
    return read_yaml(path, "it is of `lldm3d run`") if path.is_file() else {}


def settings_of_run(work: Path, method: str) -> tuple[dict, list[str]]:
    """Ids of the inference, and overlays, by which a run of the work directory draws with a method; it prints them."""
    methods = read_run_yaml(work).get("settings", {}).get("methods", {})
    section = {key: value for key, value in methods.get(method, {}).get("inference", {}).items() if key != "processes"}
    if section:
        print(f"lldm3d: draws as the run does: {', '.join(f'{key} {value}' for key, value in section.items())}")
    overlays = section.pop("overlays", [])
    return section, overlays


def check_trained(work: Path, method: Method, models: Path, given: bool) -> None:
    """Raises UserError where labels are to be drawn by a method of which only what draws images was trained."""
    drawing = set(method.trainings) - set(method.used(given=True)) if not given else ()
    if missing := [name for name in drawing if not (models / name / "model.pt").is_file()]:
        raise UserError(
            f"{models}: draws images alone, as {', '.join(missing)} was not trained; give --source training or "
            f"--label, or train it with `lldm3d run --workdir {quoted(work)} --methods {method.name} --sources drawn`"
        )


def trained_folder(work: Path, method: Method, seed: int | None) -> Path:
    """W/methods/<method>/seed_<k>. Raises UserError where the method is to be trained, and is not."""
    folder = work / "methods" / method.name
    if not method.trainings:
        return folder / f"seed_{seed or 0}"
    found = [folder / f"seed_{seed}"] if seed is not None else sorted(folder.glob("seed_*"))
    last = list(method.trainings)[-1]
    for candidate in found:
        if any(candidate.glob(f"{last}/model.pt")):
            return candidate
    raise UserError(
        f"{folder}: holds no trained {method.name}{'' if seed is None else f' of seed {seed}'}; train it with "
        f"`lldm3d run --workdir {quoted(work)} --methods {method.name}`"
    )


def seen_data(work: Path, models: Path) -> Path:
    """The data set that a method's models learnt from; where it has none, what a run lets methods of this seed see."""
    limited = work / "seen" / models.name
    return data_of_models(models) or (limited if limited.is_dir() else work / "dataset")


def labels_of_files(text: str, n: int | None, schema: Schema, label_values: str | None) -> list[LabelFile]:
    """Label maps of the user's own: a file, or several, separated by commas; arguments as of `generate`."""
    paths = [Path(name) for name in ([text] if Path(text).is_file() else text.split(","))]
    for path in paths:
        if not path.is_file():
            raise UserError(f"--label {path}: no such file; give a NIfTI label map")
    if n not in (None, len(paths)):
        raise UserError(f"--n {n}, but --label names {len(paths)}; leave out --n")
    return own_labels(label_files(paths), schema, label_values)


def source_labels(
    work: Path,
    method: Method,
    models: Path,
    source: LabelSource,
    n: int | None,
    folder: Path | None = None,
    seed: int = 0,
    strength: float = 1.0,
    label_values: str | None = None,
) -> list[LabelFile] | None:
    """The labels of a source; None where the method draws them itself, or images without any.

    Args:
        models: folder of the method's trainings; drawn labels are those of 3D-LLDM, or another method that
            draws labels, trained with the same seed.
        n: how many; None: all that there are, of training labels as many as there are cases.
        folder: receives warped labels of training cases.
        label_values: of a folder's labels, see `generate`.
    """
    if source.kind == DRAWN:
        if method.draws_labels or not method.takes_labels:
            return None
        folders = {name: work / "pairs" / name / DRAWN / models.name for name in method_names()}
        drawing = [name for name in folders if load_method(name).draws_labels]
        drawn = next((folders[name] for name in drawing if (folders[name] / "dataset.json").is_file()), None)
        if drawn is None:
            raise UserError(
                f"{folders[OURS]}: holds no drawn labels for {method.name}, which draws none itself; draw them with "
                f"`lldm3d run --workdir {quoted(work)} --methods {OURS},{method.name} --sources drawn`, or give "
                "--source training"
            )
        return limited(labels_in(drawn), n, source)
    seen = seen_data(work, models)  # not more labels than the models have seen
    if source.kind == TRAINING:
        return write_warped_pairs(seen, folder, n or len(real_labels(seen, TRAINING)), seed, strength)
    if source.kind in EDITED:
        settings = edit_settings(read_run_yaml(work).get("settings", {}).get("methods", {}))
        settings["shapes"] = shapes_path(work, models.name) if source.kind == SHAPES else None
        return write_edited_labels(seen, folder, source.kind, n or len(real_labels(seen, TRAINING)), seed, **settings)
    if source.kind in JOINED:
        raise UserError(f"pairs of the source {source.kind} are not drawn: add it to --sources of `lldm3d run`")
    real = {TEST: (work / "dataset", TEST), UNWARPED: (seen, TRAINING)}  # source, and data set and split
    if source.kind in real:
        return limited(real_labels(*real[source.kind]), n, source)
    schema = load_schema(work / "dataset")
    if has_classes_of(schema, source.folder):
        label_values = label_values or CLASSES
    return own_labels(limited(labels_in(source.folder), n, source), schema, label_values)


def has_classes_of(schema: Schema, folder: str) -> bool:
    """Whether a folder of labels says that its values are the classes of the data set, as our own pairs do."""
    path = Path(folder) / "dataset.json"
    return path.is_file() and read_json(path).get("labels") == {str(k): v for k, v in enumerate(schema.class_names)}


def limited(labels: list[LabelFile], n: int | None, source: LabelSource) -> list[LabelFile]:
    """The first `n` labels. Raises UserError where there are fewer."""
    if n is not None and n > len(labels):
        raise UserError(f"{n} pairs are wanted, but the source {source.folder or source.kind} has {len(labels)} labels")
    return labels[:n]
