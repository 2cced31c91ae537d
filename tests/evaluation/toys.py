"""Small scans with all that an evaluation looks at (an organ, a vessel and a lesion in it), and a network for it."""

from pathlib import Path

import numpy as np
import torch
import yaml
from monai.networks.nets import UNet
from scipy.ndimage import gaussian_filter

from lldm3d.bundle import bundle_path
from lldm3d.files import save_checkpoint, save_nifti, sha256, write_json

CLASSES = ("background", "liver", "vessel", "tumour")
SIZE, SPACING = (24, 24, 16), (2.0, 2.0, 3.0)
LEVELS = np.array([0.1, 0.5, 0.9, 0.3])  # grey of each class


def ball(centre, radius) -> np.ndarray:
    """Mask of a ball, centre and radius in voxels."""
    grid = np.indices(SIZE)
    return sum((axis - middle) ** 2 for axis, middle in zip(grid, centre, strict=True)) <= radius**2


def scan(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An image and its label."""
    rng = np.random.default_rng(seed)
    centre = np.array([12, 12, 8]) + rng.integers(-1, 2, 3)
    label = ball(centre, rng.uniform(5.5, 7)).astype(np.uint8)
    label[centre[0] - 4 : centre[0] + 4, centre[1], centre[2]] = 2
    label[ball(centre + [0, 3, 0], rng.uniform(1, 2))] = 3
    image = gaussian_filter(LEVELS[label] + rng.normal(0, 0.06, SIZE), 0.5)
    return np.clip(image, 0, 1), label


def write_dataset(folder: Path, seeds: dict[str, list[int]], change=None, **schema) -> Path:
    """A prepared data set; `change(image, label, index)` alters each case."""
    content = {
        "name": "Toy livers",
        "labels": {str(value): name for value, name in enumerate(CLASSES)},
        "roi_size": SIZE,
        "spacing": SPACING,
        "tubular": ["vessel"],
        "lesions": ["tumour"],
        "inside": {"vessel": "liver", "tumour": "liver"},
        "training": [],
        "validation": [],
        "test": [],
        **schema,
    }
    for split, chosen in seeds.items():
        for index, seed in enumerate(chosen):
            image, label = scan(seed)
            if change:
                image, label = change(image, label, index)
            content[split].append({"patient": f"{split}{index}"})
            for key, array in (("image", image.astype(np.float32)), ("label", label.astype(np.uint8))):
                name = f"{key}sTr/{split}_{index:02d}.nii.gz"
                save_nifti(folder / name, array, np.diag([*content["spacing"], 1]))
                content[split][-1][key] = f"./{name}"
    write_json(folder / "dataset.json", content)
    return folder


def write_segmenter(folder: Path, class_names=CLASSES, seed: int = 0) -> str:
    """A stage folder with a network of random weights; returns their SHA-256."""
    channels = [4, 8, 16]
    overrides = {
        "bundle_root": str(bundle_path("seg_resunet")),
        "class_names": list(class_names),
        "network_def#channels": channels,
        "network_def#strides": [2, 2],
        "roi_size": list(SIZE),
        "epochs": 1,
    }
    folder.mkdir(parents=True)
    (folder / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    torch.manual_seed(seed)
    network = UNet(3, 1, len(class_names), channels, [2, 2], num_res_units=2, norm="INSTANCE")
    save_checkpoint(folder / "model.pt", {"model": network.state_dict()})
    return sha256(folder / "model.pt")


def quicken(patch) -> None:
    """Few draws and pairs, and no bootstrap intervals: most of the time of an evaluation of small scans."""
    patch.setattr("lldm3d.evaluation.similarity.PAIRS", 6)
    patch.setattr("lldm3d.evaluation.distances.DRAWS", 20)
    for module in ("alignment", "copies", "metrics"):
        patch.setattr(f"lldm3d.evaluation.{module}.bootstrap_interval", lambda *arguments: None)
