"""What a label autoencoder keeps of thin vessels: Dice and clDice of tubes by radius, after encoding and decoding.

    python -m benchmarks.tubes --workdir work/demo

In each held-out label map the vessels are replaced by one curved tube through the organ that contains them; the tube is
encoded, decoded and compared. Nearest-neighbour shrinking by the codec's stride, which MONAI's ControlNet inferer does
to the label, stands beside it. Prints JSON.
"""

import json
from pathlib import Path

import fire
import numpy as np
import torch
from scipy.interpolate import make_interp_spline
from scipy.ndimage import distance_transform_edt

from benchmarks.machine import describe
from benchmarks.plans import FOLDER
from lldm3d.codec.codec import Codec, load_codec
from lldm3d.codec.quality import cldice, reconstruct
from lldm3d.data.dataset import Schema, load_cases, load_schema
from lldm3d.files import load_nifti, sha256


def tube(organ: np.ndarray, radius: float, rng: np.random.Generator) -> np.ndarray:
    """A smooth tube of `radius` voxels through four random points of the organ [X, Y, Z], cut to the organ."""
    inside = np.argwhere(organ)
    points = inside[rng.choice(len(inside), 4, replace=False)]
    points = points[np.argsort(points[:, 0])]  # so that it does not turn back
    line = make_interp_spline(np.linspace(0, 1, 4), points, k=3)(np.linspace(0, 1, 400)).round().astype(int)
    line = line[((line >= 0) & (line < organ.shape)).all(1)]
    away = np.ones(organ.shape, bool)
    away[tuple(line.T)] = False
    return (distance_transform_edt(away) <= radius) & organ


def dice(pred: np.ndarray, truth: np.ndarray) -> float:
    return float(2 * (pred & truth).sum() / (pred.sum() + truth.sum()))


def shrink(mask: np.ndarray, stride: int) -> np.ndarray:
    """Nearest neighbour down by `stride` and up again."""
    volume = torch.from_numpy(mask)[None, None].float()
    small = torch.nn.functional.interpolate(volume, scale_factor=1 / stride, mode="nearest")
    return torch.nn.functional.interpolate(small, size=mask.shape, mode="nearest")[0, 0].bool().numpy()


def measure(codec: Codec, schema: Schema, cases: list[dict], radius: float, rng: np.random.Generator) -> dict:
    """Mean Dice and clDice of one tube in each case, by the codec and by nearest neighbour."""
    vessel = schema.class_names.index(schema.tubular[0])
    organ_name = schema.inside.get(schema.tubular[0], schema.class_names[1])
    rows = []
    for case in cases:
        label, _ = load_nifti(case.label)
        organ = np.isin(label, [schema.class_names.index(organ_name), *map(schema.class_names.index, schema.tubular)])
        truth = tube(organ, radius, rng)
        volume = np.where(organ, schema.class_names.index(organ_name), label)
        volume[truth] = vessel
        found = reconstruct(codec, torch.from_numpy(volume.astype(np.uint8))[None, None], "cpu")[0, 0].numpy() == vessel
        near = shrink(truth, codec.stride)
        rows.append([dice(found, truth), cldice(found, truth), dice(near, truth), cldice(near, truth)])
    names = ("dice", "cldice", "nearest_neighbour_dice", "nearest_neighbour_cldice")
    return dict(zip(names, np.mean(rows, axis=0).round(3).tolist(), strict=True)) | {"n": len(rows)}


def main(workdir: str, seed: int = 0) -> None:
    work = Path(workdir)
    schema, path = load_schema(work / "dataset"), work / FOLDER / "autoencoder_label/codec.pt"
    codec, rng = load_codec(path, "label"), np.random.default_rng(seed)
    cases = load_cases(work / "dataset", "validation") + load_cases(work / "dataset", "test")
    result = {f"radius_{radius}_voxels": measure(codec, schema, cases, radius, rng) for radius in (1, 2)}
    print(json.dumps({**result, "stride": codec.stride, "codec": sha256(path)[:12], "machine": describe()}, indent=1))


if __name__ == "__main__":
    fire.Fire(main)
