"""GEM-3D's tables 1 and 2 on held-out labels: Make-A-Volume and the starts of GEM-3D, without and with moved labels.

    python -m benchmarks.slice_volumes --workdir W --output_dir OUT [--n 20] [--rotation 2.5] [--radimagenet PATH]

W is of `lldm3d run --methods gem3d,make_a_volume,gem3d_autoencoder --sources test`; `--others` judges further methods
of it, such as cond_ldm and pix2pix3d. `--segmenter DIR` is a stage of regime R; by default that of W. The row with a
true slice stands last, as it alone gets one. The paper judges training labels; these are test labels.
"""

from pathlib import Path

import fire
from matplotlib.figure import Figure

from lldm3d import plots
from lldm3d.data.dataset import load_cases, load_schema
from lldm3d.data.scans import read_pair
from lldm3d.evaluation.evaluate import evaluate
from lldm3d.evaluation.metrics import Compared, Metric
from lldm3d.files import atomic_write, read_json
from lldm3d.pairs.generate import generate

ROWS = {  # name: method, start, labels moved
    "Make-A-Volume": ("make_a_volume", None, False),
    "Make-A-Volume + MA": ("make_a_volume", None, True),
    "GEM-3D IG": ("gem3d", "generated", False),
    "GEM-3D IG + MA": ("gem3d", "generated", True),
    "GEM-3D IG, autoencoder": ("gem3d_autoencoder", "generated", False),
    "GEM-3D IC": ("gem3d", "other_patient", False),
    "GEM-3D IC + MA": ("gem3d", "other_patient", True),
    "GEM-3D, + 1 true slice": ("gem3d", "own", False),
}
SHOWN_CASES = 4  # in the figure
SHOWN = {
    Metric.FID: "FID",
    Metric.PLANE_GAP: "FID",
    Metric.PAIRED_MS_SSIM: "MS-SSIM",
    Metric.PAIRED_SSIM: "SSIM",
    Metric.PAIRED_PSNR: "PSNR",
    Metric.THROUGH_PLANE_STEP: "step",
    Metric.THROUGH_PLANE_FLICKER: "flicker",
    Metric.ALIGNMENT_DICE_RATIO: "Dice ratio",
}


def main(
    workdir: str,
    output_dir: str,
    n: int = 20,
    rotation: float = 2.5,
    segmenter: str | None = None,
    radimagenet: str | None = None,
    rows: tuple[str, ...] = (),
    others: tuple[str, ...] = (),
    **settings: object,
) -> None:
    """Draw, judge and tabulate; what is there is not done again.

    Args:
        rows: names of `ROWS`; default: all.
        others: further methods that are trained in the work directory, a row each, which come first.
        settings: of the inference configs, such as num_inference_steps.
    """
    work, out, found = Path(workdir), Path(output_dir), {}
    segmenter = segmenter or work / "segment/steps/seg_resunet/multi/R/real/seed_0"
    plan = {name: (name, None, False) for name in others} | {name: ROWS[name] for name in rows or ROWS}
    for name, (method, start, moved) in plan.items():
        folder = out / folder_of(name)
        own = {**({"start": start} if start else {}), **({"rotation": rotation} if moved else {})}
        if not (folder / "pairs/dataset.json").is_file():
            generate(str(work), str(folder / "pairs"), method, source="test", n=n, **own, **settings)
        if not (folder / "evaluation/metrics.json").is_file():
            real, judged = work / "dataset", folder / "evaluation"
            evaluate(real, folder / "pairs", judged, segmenter, radimagenet=radimagenet, cache_dir=out / "cache")
        found[name] = read_json(folder / "evaluation/metrics.json")["rows"]
    with atomic_write(out / "table.md") as path:
        path.write_text(table(found))
    folders = {name: out / folder_of(name) / "pairs" for name in plan}
    plots.save(planes_figure(work / "dataset", folders), out / "planes.png")
    print((out / "table.md").read_text())


def folder_of(name: str) -> str:
    """The folder of a row."""
    return "".join(letter if letter.isalnum() else "_" for letter in name)


def planes_figure(real: Path, drawn: dict[str, Path]) -> Figure:
    """The first test cases in three planes: the real scans, then those of each row; at least two rows."""
    schema, cases = load_schema(real), {case.name: case for case in load_cases(real, "test")}
    sides = {"real": cases} | {name: {c.name: c for c in load_cases(path, "training")} for name, path in drawn.items()}
    shown = [name for name in cases if all(name in side for side in sides.values())][:SHOWN_CASES]
    figure, grid = plots.dark(len(sides), 3 * len(shown), 2.6 * len(shown), 1.05 * len(sides))
    for row, (title, side) in zip(grid, sides.items(), strict=True):
        for number, name in enumerate(shown):
            scan, label = read_pair(side[name], schema), read_pair(cases[name], schema).label
            for axes, (plane, axis) in zip(row[3 * number :], plots.PLANES.items(), strict=False):
                plots.show(axes, scan.image, schema.spacing, plane, plots.best_slice(label, axis))
        row[0].set_title(title, color="white", fontsize=7, loc="left")
        row[0].set_zorder(1)  # above its neighbours, whose slices would cover the title
    return figure


def table(found: dict[str, list[dict]]) -> str:
    """Each method's figures with their intervals, in Markdown; floors in the last line."""
    rows = [row for row in next(iter(found.values())) if row["key"] in SHOWN]
    keys = [place(row) for row in rows if row["key"] != Metric.FID or row["compared"] == Compared.SYNTHETIC_TEST]
    heads = [" ".join([SHOWN[key], *filter(None, rest)]) for key, _, *rest in keys]
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(keys) + 1) + "|"]
    for name, rows in found.items():
        by_key = {place(row): row for row in rows}
        lines.append(f"| {name} | " + " | ".join(cell(by_key.get(key)) for key in keys) + " |")
    floors = [by_key[key]["floor"] if key in by_key else None for key in keys]
    lines.append("| floor, real scans | " + " | ".join("" if one is None else f"{one:.3f}" for one in floors) + " |")
    return "\n".join([*lines, ""])


def place(row: dict) -> tuple:
    """What tells a figure from the others."""
    return row["key"], row["compared"], row["variant"], row["class"]


def cell(row: dict | None) -> str:
    """A figure with its interval."""
    if not row or row["value"] is None:
        return ""
    low, high = row["interval_low"], row["interval_high"]
    return f"{row['value']:.3f}" + (f" [{low:.3f}, {high:.3f}]" if low is not None else "")


if __name__ == "__main__":
    fire.Fire(main)
