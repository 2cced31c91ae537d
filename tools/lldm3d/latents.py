"""The cached latents: mean and sigma of every case, computed once and drawn afresh in each step."""

from collections.abc import Iterator
from pathlib import Path

import torch
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, RandAffined, ToTensord
from monai.utils import convert_to_tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from lldm3d.codec import Codec, load_codec
from lldm3d.data.dataset import SPLITS, Schema, load_cases, load_schema
from lldm3d.data.folder import whole_folder
from lldm3d.data.sources import stem
from lldm3d.errors import UserError
from lldm3d.files import load_checkpoint, read_json, save_checkpoint, sha256, write_json


def read_case(case: dict) -> dict[str, torch.Tensor]:
    """Image and label of a prepared case, each [1, X, Y, Z] float32."""
    keys = ("image", "label")
    read = Compose(
        [LoadImaged(keys), EnsureChannelFirstd(keys, channel_dim="no_channel"), ToTensord(keys, track_meta=False)]
    )
    volumes = read(case)
    return {key: volumes[key].float() for key in keys}


def augment(degrees: float, scale: float, shift: float) -> RandAffined:
    """A small random rotation (degrees), scaling (fraction) and shift (voxels); anatomy stays anatomy, so no flips."""
    angle = degrees / 180 * torch.pi
    return RandAffined(
        keys=("image", "label"),
        prob=1.0,
        rotate_range=(angle,) * 3,
        scale_range=(scale,) * 3,
        translate_range=(shift,) * 3,
        mode=("bilinear", "nearest"),
        padding_mode="reflection",  # where "border" would draw streaks along the edges of a crop
    )


@torch.no_grad()
def encode_case(volumes: dict[str, torch.Tensor], codecs: dict[str, Codec]) -> dict:
    """Mean and sigma of image and label, float32 [C, x, y, z], and the label itself, uint8 [1, X, Y, Z]."""
    volumes = {key: convert_to_tensor(volume, track_meta=False) for key, volume in volumes.items()}
    entry: dict[str, torch.Tensor] = {"label": volumes["label"].to(torch.uint8)}
    for kind, codec in codecs.items():
        mean, sigma = codec.encode(volumes[kind][None].to(codec.latent_mean.device))
        entry[f"{kind}_mean"], entry[f"{kind}_sigma"] = mean[0].cpu(), sigma[0].cpu()
    return entry


def encode(
    dataset_dir: str,
    image_codec: str,
    label_codec: str,
    output_dir: str,
    views: int = 1,
    degrees: float = 5.0,
    scale: float = 0.05,
    shift: float = 2.0,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Encode every case of a prepared data set: `<output_dir>/<split>/<case>.pt` and `latents.json`.

    Args:
        dataset_dir: prepared data set.
        image_codec: `codec.pt` of the image autoencoder.
        label_codec: `codec.pt` of the label autoencoder.
        output_dir: folder to make, whole or not at all.
        views: entries for each training case; the first is the case itself, the others are augmented.
        degrees, scale, shift: ranges of the augmentation (degrees, fraction, voxels).
        seed: seed of the augmentation.
        overwrite: replace an existing folder.

    Raises:
        UserError: when the codecs belong to other classes, or `output_dir` exists.
    """
    target = Path(output_dir)
    if target.exists() and not overwrite:
        raise UserError(f"{target}: exists; choose another --output_dir or pass --overwrite")
    paths = {"image": image_codec, "label": label_codec}
    schema = load_schema(dataset_dir)
    codecs = load_codecs(paths, schema, dataset_dir)
    transform = augment(degrees, scale, shift)
    with whole_folder(target) as folder:
        for split in SPLITS:
            number_of_views = views if split == "training" else 1
            for number, case in enumerate(tqdm(load_cases(dataset_dir, split), f"latents of {split}", mininterval=1)):
                name = stem(Path(case["image"]))
                for view, volumes in enumerate(views_of(case, number_of_views, transform, seed + 1000 * number)):
                    entry = encode_case(volumes, codecs)
                    save_checkpoint(folder / split / f"{name}_{view}.pt", entry)
        description = {
            "class_names": list(schema.class_names),
            "latent_shape": {kind: list(entry[f"{kind}_mean"].shape) for kind in codecs},
            "spacing": list(schema.spacing),
            "roi_size": list(schema.roi_size),
            "codecs": {kind: sha256(path) for kind, path in paths.items()},
            "views": views,
        }
        write_json(folder / "latents.json", description)


def load_codecs(paths: dict[str, str], schema: Schema, dataset_dir: str) -> dict[str, Codec]:
    """The codec of each kind, on the GPU if there is one. Raises UserError where it belongs to other classes."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    codecs = {kind: load_codec(path, kind).to(device) for kind, path in paths.items()}
    class_names = list(schema.class_names)
    for kind, codec in codecs.items():
        if codec.class_names != class_names:
            raise UserError(
                f"{paths[kind]}: was trained on the classes {codec.class_names}, but {dataset_dir} has "
                f"{class_names}; train the {kind} autoencoder on this data set"
            )
    return codecs


def views_of(case: dict, views: int, transform: RandAffined, seed: int) -> Iterator[dict[str, torch.Tensor]]:
    """The case as it is, then `views` - 1 augmented copies of it; the file is read once."""
    volumes = read_case(case)
    yield volumes
    for view in range(1, views):
        yield transform.set_random_state(seed + view)(dict(volumes))


class LatentDataset(Dataset):
    """The cached latents of one split, held in memory.

    An item has "image_mean", "image_sigma", "label_mean", "label_sigma" [C, x, y, z], "label" [1, X, Y, Z] and "index".

    Args:
        dataset_dir: folder made by `lldm3d encode`.
        split: "training", "validation" or "test".

    Raises:
        UserError: where the folder holds no such latents.
    """

    def __init__(self, dataset_dir: str, split: str) -> None:
        read_json(Path(dataset_dir) / "latents.json")
        self.data = sorted(str(path) for path in Path(dataset_dir, split).glob("*.pt"))
        if not self.data:
            raise UserError(f"{dataset_dir}: has no latents of the split {split!r}; make them with `lldm3d encode`")
        self.items = [load_checkpoint(path, made_by="latents") for path in self.data]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor | int]:
        return {**self.items[index], "index": index}
