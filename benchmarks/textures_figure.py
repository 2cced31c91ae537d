"""The same new lesions in the same scans by each method that edits: `python -m benchmarks.textures_figure --workdir W`.

W is of `lldm3d run --profile benchmarks/lesions.yaml`. Rows: the scan as it was, then each method; columns: three
planes through the middle of a new lesion, for some lesions of several lengths.
"""

from pathlib import Path

import fire
import numpy as np

from lldm3d import plots
from lldm3d.data.dataset import load_cases, load_schema
from lldm3d.data.scans import Scan, read_pair
from lldm3d.files import read_json
from lldm3d.lesions.pool import Scans

HALF = 36.0  # mm, seen on each side of a lesion's middle


def main(
    workdir: str,
    output: str = "textures.png",
    methods: tuple[str, ...] = ("copy_paste", "lefusion", "difftumor", "haar_inpaint"),
    source: str = "real_shapes",
    lesions: int = 4,
) -> None:
    """Draw the figure from the pairs of a run."""
    work = Path(workdir)
    folders = [work / "pairs" / name / source / "seed_0" for name in methods]
    listed = read_json(folders[0] / "manifest.json")["cases"]
    alone = {case["edits"][0]["long_axis"]: case for case in listed if len(case["edits"]) == 1}
    wanted = np.linspace(min(alone), max(alone), lesions)
    chosen = [alone[min(alone, key=lambda length, ideal=ideal: abs(length - ideal))] for ideal in wanted]
    schema, real = load_schema(work / "dataset"), Scans(work / "dataset")
    pairs = [{case.name: case for case in load_cases(folder, "training")} for folder in folders]
    figure, grid = plots.dark(1 + len(methods), 3 * lesions, 3.4 * lesions, 1.1 * (1 + len(methods)) + 0.3)
    for number, case in enumerate(chosen):
        (edit,) = case["edits"]
        scans = [real.read(edit["scan"]), *(read_pair(found[case["name"]], schema) for found in pairs)]
        for row, scan in zip(grid, scans, strict=True):
            show(row[3 * number : 3 * number + 3], scan, edit["centre"], schema.spacing, scans[0])
        grid[0, 3 * number + 1].set_title(f"{edit['long_axis']:.0f} mm", color="white", fontsize=8)
    for row, name in zip(grid, ("before", *methods), strict=True):
        row[0].text(0.03, 0.97, name, color="white", fontsize=7, va="top", transform=row[0].transAxes)
    plots.save(figure, Path(output))


def show(axes: np.ndarray, scan: Scan, centre: list[int], spacing: tuple[float, float, float], like: Scan) -> None:
    """Three planes of the scan round a voxel, as bright as `like`."""
    half = np.ceil(HALF / np.array(spacing)).astype(int)
    box = tuple(slice(max(c - h, 0), c + h + 1) for c, h in zip(centre, half, strict=True))
    for ax, (plane, axis) in zip(axes, plots.PLANES.items(), strict=True):
        plots.show(ax, scan.image[box], spacing, plane, centre[axis] - box[axis].start, like=like.image[box])


if __name__ == "__main__":
    fire.Fire(main)
