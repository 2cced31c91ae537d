"""The cached latents: mean and sigma of every case, computed once and drawn afresh in each step."""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from monai.networks.nets import AutoencoderKL
from monai.utils import convert_to_tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from lldm3d.codec.codec import Codec, load_codec
from lldm3d.data.dataset import SPLITS, Case, Schema, load_cases, load_schema
from lldm3d.data.labels import class_sizes, pieces_of, size_kinds
from lldm3d.data.scans import read_pair
from lldm3d.data.warping import warp_pair
from lldm3d.errors import UserError
from lldm3d.files import output_folder, read_json, require_replaceable, sha256, write_json

QUANTILES = 21  # of the training images' gains, in latents.json and checkpoints
LEAST_GAIN = 0.05  # of the mean one: what is darker is as good as empty, and stays as it is
TENSORS = ("image_mean", "image_sigma", "label_mean", "label_sigma", "label")  # one file of each split holds each


def read_case(case: Case, schema: Schema) -> dict[str, torch.Tensor]:
    """Image and label, if it has one, of a prepared case, each [1, X, Y, Z] float32. Raises as `read_pair` does."""
    scan = read_pair(case, schema)
    volumes = {key: getattr(scan, key) for key in ("image", "label")}
    return {key: torch.from_numpy(np.float32(volume))[None] for key, volume in volumes.items() if volume is not None}


@torch.no_grad()
def encode_case(
    volumes: dict[str, torch.Tensor], codecs: dict[str, Codec], kinds: Sequence[Sequence[str]]
) -> dict[str, torch.Tensor]:
    """Mean and sigma of image and label, float32 [C, x, y, z], the label itself, uint8 [1, X, Y, Z], and its sizes of
    these kinds (`class_sizes`).

    Codecs that lose nothing have no sigma. A case without a label has the image's alone; "labelled" says which it is.
    """
    volumes = {key: convert_to_tensor(volume, track_meta=False) for key, volume in volumes.items()}
    entry: dict[str, torch.Tensor] = {"labelled": torch.tensor("label" in volumes)}
    if "label" in volumes:
        entry["label"] = volumes["label"].to(torch.uint8)
    for kind, codec in codecs.items():
        if kind not in volumes:
            continue
        mean, sigma = codec.encode(volumes[kind][None].to(codec.latent_mean.device))
        entry[f"{kind}_mean"] = mean[0].cpu()
        if kind == "label":
            entry["sizes"] = class_sizes(volumes["label"], codec.class_names, kinds)
        if not codec.lossless:
            entry[f"{kind}_sigma"] = sigma[0].cpu()
    return entry


@torch.no_grad()
def first_batch_scale(autoencoder: AutoencoderKL, volumes: Iterable[torch.Tensor], device: torch.device | str) -> float:
    """The stock recipe's scale of latents: one over the standard deviation of those of a batch, all channels together.

    `volumes` are images [1, X, Y, Z] of the batch; the autoencoder is trained, on the device.
    """
    noise = torch.Generator().manual_seed(0)  # a resumed training must find the same scale
    codes = [autoencoder.encode(volume[None].to(device)) for volume in volumes]
    drawn = [mean + sigma * torch.randn(mean.shape, generator=noise).to(device) for mean, sigma in codes]
    return 1 / torch.cat(drawn).std().item()


def encode(
    dataset_dir: str,
    image_codec: str,
    output_dir: str,
    label_codec: str | None = None,
    views: int = 1,
    strength: float = 1.0,
    seed: int = 0,
    even_gains: bool = False,
    overwrite: bool = False,
) -> None:
    """Encode every case of a prepared data set: `<output_dir>/<split>/<tensor>.npy` and `latents.json`.

    Args:
        dataset_dir: prepared data set.
        image_codec: `codec.pt` of the image autoencoder.
        output_dir: folder to make, whole or not at all.
        label_codec: `codec.pt` of the label autoencoder; without it images alone are encoded.
        views: entries for each training case; the first is the case itself, the others are warped.
        strength: of the warp, as of the training labels for which pairs are drawn.
        seed: of the warps.
        even_gains: bring each image to the mean gain (`gain_of`) of the training images, and keep the quantiles of
            their gains, so that drawn images get such ones: what scales a whole scan a network with normalisation
            hardly learns, and draws the average. For codecs without loss, and grey values without a unit.
        overwrite: replace an existing folder.

    Raises:
        UserError: when the codecs belong to other classes, the image codec has a loss where gains are evened, or
            `output_dir` holds anything but earlier latents.
    """
    paths = {kind: path for kind, path in (("image", image_codec), ("label", label_codec)) if path}
    inputs = [dataset_dir, *paths.values()]
    if not (views >= 1 and seed >= 0 and 0 <= strength < math.inf):
        raise UserError(f"--views {views} must be 1 or more, --seed {seed} and --strength {strength} 0 or more")
    require_replaceable(output_dir, overwrite, inputs)
    schema = load_schema(dataset_dir)
    codecs = load_codecs(paths, schema, dataset_dir)
    if even_gains and not codecs["image"].lossless:
        raise UserError(f"{image_codec}: loses what is brighter than it has learnt; leave out even_gains")
    gains = training_gains(dataset_dir, schema) if even_gains and schema.intensity != "window" else []
    mean = np.mean(gains) if gains else None
    kinds = size_kinds(schema.class_names, schema.tubular, schema.lesions)
    with output_folder(output_dir, overwrite, inputs) as folder:
        for split in SPLITS:
            cases, entries = load_cases(dataset_dir, split), views if split == "training" else 1
            (folder / split).mkdir()
            seeds = range(seed, seed + 1000 * len(cases), 1000)
            pairs = zip(cases, seeds, strict=True)
            volumes = chain.from_iterable(views_of(*pair, schema, entries, strength) for pair in pairs)
            volumes = tqdm(volumes, f"latents of {split}", mininterval=1)
            evened = (with_gain(item, mean) if gains else item for item in volumes)
            encoded = (encode_case(item, codecs, kinds) for item in evened)
            write_split(folder / split, encoded, len(cases) * entries)
        description = {
            "class_names": list(schema.class_names),
            "latent_shape": {kind: list(mapped(folder / f"training/{kind}_mean.npy").shape[1:]) for kind in codecs},
            "gains": np.quantile(gains / mean, np.linspace(0, 1, QUANTILES)).tolist() if gains else None,
            "size_kinds": kinds,
            "spacing": list(schema.spacing),
            "roi_size": list(schema.roi_size),
            "codecs": {kind: sha256(path) for kind, path in paths.items()},
            "lossless": [kind for kind, codec in codecs.items() if codec.lossless],
            "views": views,
        }
        write_json(folder / "latents.json", description)


def gain_of(image: torch.Tensor) -> float:
    """Mean of the voxels that are not below the mean of all: how bright a scan is, whatever its share of air."""
    return image[image >= image.mean()].mean().item()


def training_gains(dataset_dir: str, schema: Schema) -> list[float]:
    """The gain of each training image that is not as good as empty."""
    found = [gain_of(read_case(case, schema)["image"]) for case in load_cases(dataset_dir, "training")]
    return [gain for gain in found if gain > LEAST_GAIN * np.mean(found)]


def with_gain(volumes: dict[str, torch.Tensor], gain: float) -> dict[str, torch.Tensor]:
    """A case whose image has this gain; one that is as good as empty stays so."""
    own = gain_of(volumes["image"])
    return volumes | {"image": volumes["image"] * (gain / own)} if own > LEAST_GAIN * gain else volumes


def write_split(folder: Path, entries: Iterator[dict[str, torch.Tensor]], count: int) -> None:
    """Write `count` entries, one after another, into a file for each of their tensors: `<name>.npy` [count, ...].

    What an entry lacks is 0 there.
    """
    files: dict[str, np.memmap] = {}
    for index, entry in enumerate(entries):
        for name, tensor in entry.items():
            if name not in files:
                dtype, shape = tensor.numpy().dtype, (count, *tensor.shape)
                files[name] = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, shape)
            files[name][index] = tensor


def mapped(path: Path) -> np.memmap:
    """The array of a file, not read but mapped: pages come from the disk when they are used, and processes share them.

    Raises UserError where there is no such file.
    """
    if not path.is_file():
        folder, split = path.parents[1], path.parent
        earlier = " (those there are of an earlier version)" if any(split.glob("*.pt")) else ""
        raise UserError(
            f"{folder}: has no latents {path.name} of the split {split.name!r}{earlier}; make them with "
            f"`lldm3d encode`, or in a chain delete {folder / 'latents.json'} and run it again"
        )
    return np.load(path, mmap_mode="c")  # copy on write: torch takes no array that is read-only


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


def views_of(case: Case, seed: int, schema: Schema, views: int, strength: float) -> Iterator[dict[str, torch.Tensor]]:
    """The case as it is, then `views` - 1 warped copies of it; the file is read once."""
    volumes = read_case(case, schema)
    yield volumes
    image, label = (volumes[key][0].numpy() if key in volumes else None for key in ("image", "label"))
    for view in range(1, views):
        warped = warp_pair(image, label, len(schema.class_names), [seed, view], strength, schema.thin)
        pairs = zip(("image", "label"), warped, strict=True)
        yield {key: torch.from_numpy(np.float32(volume))[None] for key, volume in pairs if volume is not None}


def count_pieces(latents_dir: str, tubular: Sequence[str]) -> dict[int, list[int]]:
    """By the index of each tubular class in how many pieces it is in each training label that has it."""
    names = read_json(Path(latents_dir) / "latents.json")["class_names"]
    labels, counts = mapped(Path(latents_dir, "training", "label.npy"))[:, 0], {}
    for value in map(names.index, tubular):
        counts[value] = [count for count in (pieces_of(np.asarray(label), value)[1] for label in labels) if count]
    return {value: found for value, found in counts.items() if found}


class LatentDataset(Dataset):
    """The cached latents of one split, mapped from their files: they fill no memory, and none is read before a step.

    An item has the tensors `keys` and its "index". Means and sigmas are [C, x, y, z], "label" is [1, X, Y, Z], and the
    entries of a case lie side by side. Where some entries have no label, each item says in "labelled" whether it has
    one; what it lacks is 0.

    Args:
        dataset_dir: folder made by `lldm3d encode`.
        split: "training", "validation" or "test".
        keys: what is read, of `TENSORS` and "sizes"; the label at full size is most of it. Codecs that lose nothing
            left no sigma.
        labelled_only: leave out entries without a label.

    Raises:
        UserError: where the folder holds no such latents.
    """

    def __init__(
        self, dataset_dir: str, split: str, keys: Sequence[str] = TENSORS, labelled_only: bool = False
    ) -> None:
        without = {f"{kind}_sigma" for kind in read_json(Path(dataset_dir) / "latents.json").get("lossless", [])}
        keys = [key for key in keys if key not in without]
        self.arrays = {key: mapped(Path(dataset_dir, split, f"{key}.npy")) for key in keys}
        path, count = Path(dataset_dir, split, "labelled.npy"), min(len(array) for array in self.arrays.values())
        labelled = np.load(path) if path.is_file() else np.ones(count, bool)  # before 0.9 all were
        self.entries = np.flatnonzero(labelled) if labelled_only else np.arange(count)
        self.labelled = labelled[self.entries]
        self.gains = read_json(Path(dataset_dir) / "latents.json").get("gains")  # of drawn images; since 0.18

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor | int | bool]:
        item = {key: torch.from_numpy(array[self.entries[index]]) for key, array in self.arrays.items()}
        known = {} if self.labelled.all() else {"labelled": bool(self.labelled[index])}
        return {**item, **known, "index": index}
