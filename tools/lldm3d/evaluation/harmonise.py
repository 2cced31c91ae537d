"""`lldm3d harmonise`: a whole data set redrawn to the look of one slice (GEM-3D's counterfactual of contrast)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from lldm3d import plots
from lldm3d.data.dataset import SPLITS, Case, Schema, load_cases, load_schema
from lldm3d.data.scans import Scan, read_pair
from lldm3d.errors import UserError
from lldm3d.evaluation.features import load_segmenter
from lldm3d.evaluation.filtering import agreement_of, ensemble
from lldm3d.files import write_json
from lldm3d.methods.registry import load_method
from lldm3d.pairs.drawing import draw_pairs
from lldm3d.pairs.generate import settings_of_run, trained_folder
from lldm3d.pairs.own_labels import CLASSES, own_labels
from lldm3d.pairs.sources import LabelFile
from lldm3d.pairs.start_slices import OTHER
from lldm3d.statistics import bootstrap_interval

METHOD, SHOWN = "gem3d", 4  # cases in the figure


def harmonise(
    workdir: str,
    reference: str,
    output_dir: str,
    data: str | None = None,
    n: int | None = None,
    seed: int = 0,
    model_seed: int | None = None,
    overwrite: bool = False,
    **settings: object,
) -> None:
    """Draw all labelled cases of a data set anew, each from one reference slice, so that they look alike.

    The cases keep their labels. `harmonise.json` has, before and after, how much the mean intensity of each class
    varies over the cases, and the Dice of networks of regime R with the labels where the work directory has some;
    `harmonise.png` shows some cases and `spread.png` the means. An interrupted call goes on.

    Args:
        workdir: work directory of `lldm3d run` in which gem3d is trained.
        reference: name of a case, or a NIfTI scan or slice, with intensities from 0 to 1 as prepared scans have.
        output_dir: folder for the pairs.
        data: the prepared data set that is drawn anew; default: that of the work directory.
        n: how many of its cases; default: all.
        seed: of all cases.
        model_seed: of the training whose models draw; default: the first one that is there.
        overwrite: replace pairs that were drawn otherwise.
        settings: further ids of gem3d's inference config, such as num_inference_steps, start_slice.

    Raises:
        UserError: where gem3d is not trained, or reference or data do not fit it.
    """
    work, target, source = Path(workdir).resolve(), Path(output_dir).resolve(), Path(data or Path(workdir) / "dataset")
    method, schema = load_method(METHOD), load_schema(source)
    models = trained_folder(work, method, model_seed)
    if wrong := {"start", "reference"} & settings.keys():
        raise UserError(f"--{sorted(wrong)[0]}: is given by --reference of this command; leave it out")
    if schema.class_names != load_schema(work / "dataset").class_names:
        raise UserError(
            f"{source}: has the classes {list(schema.class_names)}, of which {METHOD} of {work} learnt others"
        )
    every = [case for split in SPLITS for case in load_cases(source, split)]
    reference = next((case.image for case in every if case.name == reference), reference)
    if n is not None and n < 1:
        raise UserError(f"--n must be at least 1, got {n}")
    cases = [case for case in every if case.label][:n]
    if not cases:
        raise UserError(f"{source}: has no labelled case to draw anew")
    files = own_labels([LabelFile(case.label, case.name, case.patient) for case in cases], schema, CLASSES)
    by_run, overlays = settings_of_run(work, METHOD)
    settings = by_run | {"start": OTHER, "reference": reference, **settings}
    draw_pairs(method, models, work / "dataset", target, files, 1, 0, seed, settings, overlays, overwrite=overwrite)
    write_comparison_with(work, target, cases, schema, reference)


def write_comparison_with(work: Path, target: Path, before: list[Case], schema: Schema, reference: str) -> None:
    """Write figures of the redrawn cases in `target` beside those that they were."""
    after = load_cases(target, "training")
    means = {name: means_by_class(cases, schema) for name, cases in (("before", before), ("after", after))}
    networks = [load_segmenter(path, schema.class_names) for path in ensemble(str(work), least=0)]
    content = {"reference": reference, "cases": len(before), "spread": {}, "dice": None}
    for number, name in enumerate(schema.class_names[1:]):
        content["spread"][name] = {when: spread(values[:, number]) for when, values in means.items()}
    if networks:
        scores = ([agreement_of(case, schema, networks) for case in cases] for cases in (before, after))
        content["dice"] = dict(zip(means, map(float, map(np.mean, scores)), strict=True))
    write_json(target / "harmonise.json", content)
    plots.save(harmonised_figure(before, after, schema), target / "harmonise.png")
    plots.save(spread_figure(means, schema.class_names[1:]), target / "spread.png")
    for name, found in content["spread"].items():
        if None not in (first := [found[when]["std"] for when in found]):
            print(f"{name}: spread of its mean intensity over cases {first[0]:.3f} before, {first[1]:.3f} after")
    if content["dice"]:
        print("Dice with the labels: {before:.3f} before, {after:.3f} after".format(**content["dice"]))


def means_by_class(cases: list[Case], schema: Schema) -> np.ndarray:
    """The mean intensity of each class but the background in each case [N, K - 1]; NaN where a case lacks it."""
    return np.array([scan_means(read_pair(case, schema), len(schema.class_names)) for case in cases])


def scan_means(scan: Scan, classes: int) -> list[float]:
    masks = [scan.label == value for value in range(1, classes)]
    return [float(scan.image[mask].mean()) if mask.any() else np.nan for mask in masks]


def spread(values: np.ndarray) -> dict:
    """Standard deviation and mean over the cases, with the interval of the former; None of fewer than two."""
    known = values[~np.isnan(values)]
    if len(known) < 2:
        return {"n": len(known), "mean": None, "std": None, "interval": None}
    return {
        "n": len(known),
        "mean": float(known.mean()),
        "std": float(known.std(ddof=1)),
        "interval": bootstrap_interval(lambda drawn: float(drawn.std(ddof=1)), known),
    }


def harmonised_figure(before: list[Case], after: list[Case], schema: Schema) -> Figure:
    """Some cases before and after in three planes."""
    shown = min(SHOWN, len(before))
    figure, grid = plots.dark(shown, 6, 11, 1.9 * shown)
    for row, pair in zip(grid, zip(before[:shown], after[:shown], strict=True), strict=True):
        for number, scan in enumerate(read_pair(case, schema) for case in pair):
            for axes, (plane, axis) in zip(row[number::2], plots.PLANES.items(), strict=True):
                plots.show(axes, scan.image, schema.spacing, plane, plots.best_slice(scan.label, axis))
    for number, axes in enumerate(grid[0]):
        title = f"{list(plots.PLANES)[number // 2]}, {['before', 'after'][number % 2]}"
        axes.set_title(title, color="white", fontsize=8)
    return figure


def spread_figure(means: dict[str, np.ndarray], class_names: Sequence[str]) -> Figure:
    """The mean intensity of each class in each case, before and after."""
    figure, grid = plots.light(1, len(class_names), 2.2 * len(class_names) + 0.6, 3)
    for number, (axes, name) in enumerate(zip(grid[0], class_names, strict=True)):
        pairs = np.stack([values[:, number] for values in means.values()])
        axes.plot([0, 1], pairs, color=plots.GREY, linewidth=0.4)
        for place, (values, colour) in enumerate(zip(pairs, (plots.REAL, plots.SYNTHETIC), strict=True)):
            axes.plot(np.full(len(values), place), values, ".", color=colour)
        axes.set(xticks=[0, 1], xticklabels=list(means), xlim=(-0.5, 1.5), title=name)
    grid[0, 0].set_ylabel("mean intensity in a case")
    return figure
