"""FID of the slices of each plane, by networks that learn here to segment real slices of that plane, as JSON.

    python -m benchmarks.planes --dataset_dir W/dataset --folder OUT [--steps 600]

OUT is of `python -m benchmarks.slice_volumes`: OUT/<name>/pairs is a row. The papers' features are RadImageNet's, whose
weights are not at hand everywhere; these networks too see one slice at a time, so that what changes from slice to slice
shows in coronal and sagittal planes alone. Compared with real test scans, at equal N; the floor is training scans.
"""

import json
from collections.abc import Callable
from pathlib import Path

import fire
import numpy as np
import torch
from monai.losses import DiceCELoss
from monai.networks.nets import BasicUNet
from monai.utils import set_determinism
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.machine import describe
from lldm3d.data.dataset import Case, Schema, load_cases, load_schema
from lldm3d.data.scans import read_pair
from lldm3d.evaluation.distances import compare, fid
from lldm3d.evaluation.metrics import Compared
from lldm3d.files import write_json
from lldm3d.plots import PLANES

WIDTHS = (16, 16, 32, 64, 64, 16)  # of the network; it halves a slice four times
LEVELS = ("down_1", "down_2", "down_3")  # whose means over a slice are its features
BATCH = 32


def volumes(cases: list[Case], schema: Schema) -> tuple[Tensor, Tensor]:
    """Images and labels [N, 1, X, Y, Z], each axis padded to a multiple of 16 voxels."""
    scans = [read_pair(case, schema) for case in cases]
    margins = [(0, -size % 16) for size in scans[0].image.shape]
    padded = [[np.pad(item, margins) for item in (scan.image, scan.label)] for scan in scans]
    images, labels = (torch.from_numpy(np.stack(side))[:, None] for side in zip(*padded, strict=True))
    return images.float(), labels.long()


def in_plane(volume: Tensor, axis: int) -> Tensor:
    """The slices [N, S, 1, ., .] of volumes [N, 1, X, Y, Z]."""
    return volume.movedim(2 + axis, 1)


def trained(images: Tensor, labels: Tensor, num_classes: int, steps: int) -> nn.Module:
    """A network that segments slices, from slices [N, S, 1, ., .] that hold an organ."""
    set_determinism(0)
    chosen = labels.flatten(2).any(-1)
    network = BasicUNet(2, 1, num_classes, features=WIDTHS).train()
    optimizer, loss = torch.optim.AdamW(network.parameters(), 1e-3), DiceCELoss(to_onehot_y=True, softmax=True)
    data, done = TensorDataset(images[chosen], labels[chosen]), 0
    while done < steps:
        for image, label in DataLoader(data, batch_size=BATCH, shuffle=True, drop_last=True):
            optimizer.zero_grad()
            loss(network(image), label).backward()
            optimizer.step()
            done += 1
    return network.eval()


def features_by(network: nn.Module) -> Callable[[Tensor], np.ndarray]:
    """What gives the features [N, S, D] of slices [N, S, 1, ., .]."""
    found: dict[str, Tensor] = {}
    for level in LEVELS:
        network.get_submodule(level).register_forward_hook(
            lambda _, __, output, level=level: found.__setitem__(level, output.mean((-2, -1)))
        )

    @torch.no_grad()
    def features(slices: Tensor) -> np.ndarray:
        rows = []
        for volume in slices:
            network(volume)
            rows.append(torch.cat([found[level] for level in LEVELS], 1))
        return torch.stack(rows).numpy()

    return features


def main(dataset_dir: str, folder: str, steps: int = 600) -> None:
    """Train a network for each plane, compare all pairs, and write OUT/planes.json."""
    schema, out = load_schema(dataset_dir), Path(folder)
    sides = {split: volumes(load_cases(dataset_dir, split), schema) for split in ("training", "test")}
    drawn = {path.parent.name: load_cases(path, "training") for path in sorted(out.glob("*/pairs"))}
    pairs = {name: volumes(cases, schema) for name, cases in drawn.items()}
    found: dict[str, dict] = {name: {} for name in pairs}
    for plane, axis in PLANES.items():
        image, label = (in_plane(item, axis) for item in sides["training"])
        features = features_by(trained(image, label, len(schema.class_names), steps))
        real, test = features(image), features(in_plane(sides["test"][0], axis))
        for name, (images, _) in pairs.items():
            compared = compare(fid, features(in_plane(images, axis)), real, test)
            held_out = next(item for item in compared if item.compared == Compared.SYNTHETIC_TEST)
            found[name][plane] = {"fid": held_out.value, "interval": held_out.interval, "floor": held_out.floor}
    result = {"machine": describe(), "cases": len(next(iter(pairs.values()))[0]), "steps": steps, "fid": found}
    write_json(out / "planes.json", result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    fire.Fire(main)
