"""Real training scans with new lesions: their labels as a source, and copy-paste as the method that paints them."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from ignite.engine import Engine
from torch.utils.data import Dataset

from lldm3d.data.dataset import stem
from lldm3d.data.scans import Scan
from lldm3d.errors import UserError
from lldm3d.files import save_nifti, write_json
from lldm3d.lesions.editor import Edit, Editor, LongAxis, MaskSource, open_editor
from lldm3d.methods.registry import Method
from lldm3d.pairs.folder import claim, pair_manifest, write_dataset_json
from lldm3d.pairs.sampling import seeded_generator
from lldm3d.pairs.sources import LabelFile
from lldm3d.pairs.writer import CaseWriter
from lldm3d.processes import in_processes
from lldm3d.training.handlers import Meter, ProgressBar


def write_edited_labels(
    dataset_dir: str | Path,
    output_dir: str | Path,
    source: MaskSource,
    n: int,
    seed: int = 0,
    lesion: str | None = None,
    organ: Sequence[str] | None = None,
    long_axis: LongAxis = "own",
    shapes: str | Path | None = None,
) -> list[LabelFile]:
    """Write `n` labels of real training cases with new lesions; `labels.json` lists them with their edits.

    The cases are taken in turn; one in which no drawn lesion found room is left out. Shapes, places and lengths are
    those of the lesions of the same training cases.

    Args:
        source: of the lesions' masks.
        lesion: its class; organ: the classes that it may cover; see `lldm3d.lesions.pool.lesion_classes`.
        long_axis: of a lesion: the shape's own, or drawn uniformly over the range of the real ones.
        shapes: file of drawn masks, for the source lngen.

    Raises:
        UserError: where the data set has no such class or no lesion, or there is no room for any.
    """
    folder, organ = Path(output_dir).resolve(), tuple(organ) if organ else None
    opened = (dataset_dir, lesion, organ, shapes)
    editor = open_editor(*opened)
    names, found = list(editor.own.scans.cases), []
    _ = editor.pool.lesions  # once, before processes are forked
    draw = partial(
        write_edited_label, folder=folder, opened=opened, source=source, seed=seed, uniform=long_axis == "uniform"
    )
    for begin in range(0, 10 * n, n):
        items = [(index, names[index % len(names)], index // len(names)) for index in range(begin, begin + n)]
        new = [file for file in in_processes(draw, items, "adding lesions") if file]
        found += new
        if not new or len(found) >= n:
            break
    if len(found) < n:
        raise UserError(
            f"{dataset_dir}: found room for new lesions in {len(found)} scans, wanted {n}; name more classes as organ "
            "that a lesion may cover, or long_axis: own"
        )
    for file in found[n:]:
        Path(file.path).unlink()
    settings = {"lesion": lesion, "organ": organ, "long_axis": long_axis}
    write_json(folder / "labels.json", {**settings, "labels": [asdict(file) for file in found[:n]]})
    return found[:n]


def write_edited_label(
    item: tuple[int, str, int], folder: Path, opened: tuple, source: MaskSource, seed: int, uniform: bool
) -> LabelFile | None:
    """Write the label of one scan with new lesions; None where they found no room.

    Args:
        item: number of all, from which the edits follow; the scan; how often it was taken before.
        opened: arguments of `open_editor`.
    """
    (index, scan, before), editor = item, open_editor(*opened)
    edits = editor.draw(np.random.default_rng([seed, index]), scan, source, uniform)
    if not edits:
        return None
    case, name = editor.own.scans.cases[scan], f"{scan}_{source}{before:02d}"
    pair = editor.own.scans.read(scan)
    path = folder / f"labelsTr/{name}.nii.gz"
    save_nifti(path, editor.label(pair.label, edits), pair.affine)
    return LabelFile(str(path), name, case.patient, edits=[edit.as_row() for edit in edits])


def paste_pairs(
    method: Method, dataset_dir: Path, target: Path, labels: Sequence[LabelFile], seed: int, overwrite: bool = False
) -> None:
    """Write the edited scans of labels, each new lesion a real one's copy; an interrupted call goes on.

    Raises UserError for a folder that holds something else.
    """
    names = [label.name for label in labels]
    claim(target, pair_manifest(method, None, labels, names, seed, {}, (), seen=dataset_dir), overwrite)
    left = [label for label in labels if not (target / "imagesTr" / f"{label.name}.nii.gz").is_file()]
    if left:
        engine = Engine(partial(edited_pair, dataset_dir))
        for handler in (
            ProgressBar("copy-paste"),
            CaseWriter(target, exact=True),
            Meter(target / "cost.json", [], "cpu"),
        ):
            handler.attach(engine)
        engine.run(left)
    about = f"Real training scans, edited by {method.title}: patients, with lesions that they do not have."
    write_dataset_json(target, dataset_dir, about, names, [label.patient for label in labels], "edited")


class EditedCases(Dataset):
    """The scans that are still to be edited, by a trained method: "name", "index" and "edits" of each.

    Args:
        label_paths: the labels, whose names the pairs bear.
        edits: of each, rows of `lldm3d.lesions.editor.Edit`.
        output_dir: cases whose image lies there already are left out.
    """

    def __init__(self, label_paths: Sequence[str], edits: Sequence[Sequence[dict]], output_dir: str) -> None:
        items = enumerate(zip(map(stem, label_paths), edits, strict=True))
        self.items = [{"name": name, "index": index, "edits": rows} for index, (name, rows) in items]
        self.items = [item for item in self.items if not Path(output_dir, f"imagesTr/{item['name']}.nii.gz").is_file()]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict:
        return self.items[index]


class EditGeneration:
    """The update of an engine that edits a scan of `EditedCases` by a painter, such as that of LeFusion.

    Args:
        paint: called with the editor, image, label, edit and a generator of random numbers.
        dataset_dir: whose scans are edited.
        seed: of all cases; what is random in an edit follows from it, the case's number and the edit's alone.
        device: of the generators.
    """

    def __init__(self, paint: Callable, dataset_dir: str, seed: int, device: torch.device | str) -> None:
        self.paint, self.dataset_dir, self.seed, self.device = paint, dataset_dir, seed, device

    def __call__(self, engine: Engine, item: dict) -> dict:
        edits = [Edit.of(row) for row in item["edits"]]
        editor = open_editor(self.dataset_dir, edits[0].lesion, edits[0].organ)
        return as_output(item["name"], painted(editor, edits, self.paint, self.seed, item["index"], self.device))


def painted(
    editor: Editor, edits: Sequence[Edit], paint: Callable, seed: int, index: int, device: torch.device | str
) -> Scan:
    """A scan after its edits by a painter, as `EditGeneration` takes it and its other arguments.

    Args:
        index: of the case.
    """

    def paint_one(image: np.ndarray, label: np.ndarray, edit: Edit) -> np.ndarray:
        generator = seeded_generator(seed, index, edits.index(edit), device=device)
        return paint(editor, image, label, edit, generator)

    return editor.scan(edits, paint_one)


def edited_pair(dataset_dir: Path, engine: Engine, label: LabelFile) -> dict:
    """The scan of a label by copy-paste, made from the rows of its edits alone."""
    edits = [Edit.of(row) for row in label.edits]
    return as_output(label.name, open_editor(dataset_dir, edits[0].lesion, edits[0].organ).scan(edits))


def as_output(name: str, scan: Scan) -> dict:
    """A scan as `CaseWriter` takes it."""
    volumes = {"image": scan.image, "label": scan.label}
    return {
        "name": [name],
        **{key: torch.as_tensor(np.ascontiguousarray(volume))[None, None] for key, volume in volumes.items()},
        "affine": torch.as_tensor(scan.affine)[None],
    }
