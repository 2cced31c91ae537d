"""The segmentation bundles differ by their network alone: a comparison of them is one of networks."""

import re
from collections.abc import Iterator

import pytest
import yaml

from lldm3d.bundle import bundle_names, bundle_path

PATTERN = "seg_unet"  # the bundle that the others are copies of
SEGMENTATIONS = [name for name in bundle_names() if name.startswith("seg_")]
OWN = {"network_def", "divisor"}
FURTHER = {("seg_dynunet", "train.yaml"): {"deep_supervision", "loss"}}  # its network has several outputs in training
COPIES = ("configs/evaluate.yaml", "configs/multi_gpu.yaml", "configs/logging.conf", "LICENSE")
SHARED = ("network_def", "divisor", "window", "roi_size", "class_names")  # of training and inference


@pytest.mark.parametrize("bundle", SEGMENTATIONS)
def test_bundles_differ_by_their_network_alone(bundle):
    faults = [*different_parts(bundle), *different_files(bundle), *different_networks(bundle)]
    assert not faults, f"{bundle}: " + "; ".join(faults)


def blocks(bundle: str, file: str) -> dict[str, str]:
    """{top-level key: its lines, with comments} of a config; the header has the key "" and no first line, a title."""
    parts = re.split(r"^(\w+):", (bundle_path(bundle) / "configs" / file).read_text(), flags=re.MULTILINE)
    return {"": parts[0].split("\n", 1)[1], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def different_parts(bundle: str) -> Iterator[str]:
    for file in ("train.yaml", "inference.yaml"):
        ours, theirs = blocks(bundle, file), blocks(PATTERN, file)
        own = OWN | FURTHER.get((bundle, file), set())
        wrong = [key for key in {**theirs, **ours} if key not in own and ours.get(key) != theirs.get(key)]
        if wrong:
            yield (
                f"configs/{file} differs from that of {PATTERN} in {wrong} ('': its header): copy these parts from "
                f"the one where they are right to all of {SEGMENTATIONS}; only the title and {sorted(own)} may differ"
            )


def different_files(bundle: str) -> Iterator[str]:
    """Copies, and in the document all that follows the heading "Data"."""
    for file in COPIES:
        ours, theirs = bundle_path(bundle) / file, bundle_path(PATTERN) / file
        if ours.read_bytes() != theirs.read_bytes():
            yield f"fix it with `cp {theirs} {ours}`, or the other way round"
    after = [(bundle_path(name) / "docs/README.md").read_text().partition("## Data")[2] for name in (bundle, PATTERN)]
    if after[0] != after[1]:
        yield f"copy all from '## Data' on from docs/README.md of {PATTERN}, or back"


def different_networks(bundle: str) -> Iterator[str]:
    folder = bundle_path(bundle) / "configs"
    train, inference = (yaml.safe_load((folder / file).read_text()) for file in ("train.yaml", "inference.yaml"))
    if wrong := [key for key in SHARED if train[key] != inference[key]]:
        yield f"copy {wrong} from configs/train.yaml to configs/inference.yaml, or the other way round"


OVERLAYS = {"multi_gpu": "image_ldm", "multi_gpu_autoencoder": "autoencoder"}


@pytest.mark.parametrize(
    "bundle", [name for name in bundle_names() if name.startswith("baselines/") or name == "cond_ldm"]
)
def test_the_overlays_of_several_processes_are_copies(bundle):
    """But for the command in the header; that of a GAN has two networks."""
    for name, source in OVERLAYS.items():
        path, pattern = bundle_path(bundle) / f"configs/{name}.yaml", bundle_path(source) / "configs/multi_gpu.yaml"
        if path.is_file() and not bundle.endswith("gan"):
            ours, theirs = (file.read_text().partition("+imports")[2] for file in (path, pattern))
            assert ours == theirs, f"copy all from '+imports' on from {pattern} to {path}, or the other way round"
