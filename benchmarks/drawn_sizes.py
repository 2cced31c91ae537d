"""Sizes of drawn labels beside those that their network was told, before and after they are brought into their form.

    python -m benchmarks.drawn_sizes --workdir W --n 112

Of the label network of `haar_ldm` in a work directory, or of `--method_dir`; draws no images. Volumes in voxels,
lengths in voxels of the centreline, numbers in pieces. Prints JSON.
"""

import json
from pathlib import Path

import fire
import numpy as np
import torch

from benchmarks.machine import describe
from lldm3d.data.labels import VOLUME, class_sizes
from lldm3d.diffusion.noise import RectifiedFlow
from lldm3d.pairs.sampling import LatentSampler, load_system
from lldm3d.pairs.sizes import told_kinds, told_pieces, told_sizes

BATCH = 16


def summary(values: np.ndarray) -> dict[str, float]:
    return {"mean": round(float(values.mean()), 2), "std": round(float(values.std()), 2)}


def main(workdir: str = "", method_dir: str = "", n: int = 112, steps: int = 20, seed: int = 0) -> None:
    folder = Path(method_dir or Path(workdir) / "methods/haar_ldm/seed_0")
    paths = {"codecs": {"label": str(folder / "autoencoder_label/codec.pt")}}
    system = load_system("cpu", "rectified_flow", **paths, networks={"label_ldm": str(folder / "label_ldm/model.pt")})
    checkpoint, codec = system.checkpoints["label_ldm"], system.codecs["label"]
    names, kinds = codec.class_names, told_kinds(checkpoint)
    sampler = LatentSampler(
        codec, system.networks["label_ldm"], RectifiedFlow(steps), checkpoint["latent_shape"]["label"], seed,
        sizes=told_sizes(checkpoint), pieces=told_pieces(checkpoint),
    )  # fmt: skip
    found = {"told": [], "as drawn": [], "in form": []}
    with torch.inference_mode():
        for first in range(0, n, BATCH):
            indices = list(range(first, min(first + BATCH, n)))
            latent = sampler.draw(indices)
            found["told"] += sampler.draw_sizes(indices).tolist()
            for key, forms in (("as drawn", None), ("in form", sampler.draw_forms(indices))):
                labels = sampler.decode(latent, forms=forms)
                found[key] += [class_sizes(label, names, kinds).tolist() for label in labels]
    result = {}
    for place, (name, kind) in enumerate(kinds):
        power = 3 if kind == VOLUME else 1
        columns = {key: np.array(table)[:, place] ** power for key, table in found.items()}
        training = np.array(checkpoint["sizes"])[:, place] ** power
        result[f"{kind}, {name}"] = {
            "training labels": summary(training),
            **{key: summary(values) for key, values in columns.items()},
            "correlation of told and in form": round(float(np.corrcoef(columns["told"], columns["in form"])[0, 1]), 2),
        }
    print(json.dumps({"sizes": result, "n": n, "steps": steps, "seed": seed, "machine": describe()}, indent=1))


if __name__ == "__main__":
    fire.Fire(main)
