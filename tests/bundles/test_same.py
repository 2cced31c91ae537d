"""The segmentation bundles differ by their network alone: a comparison of them is one of networks."""

import re

import pytest
import yaml

from lldm3d.bundle import bundle_names, bundle_path

PATTERN = "seg_unet"  # the bundle that the others are copies of
OTHERS = [name for name in bundle_names() if name.startswith("seg_") and name != PATTERN]
OWN = {"network_def", "divisor"}
FURTHER = {("seg_dynunet", "train.yaml"): {"deep_supervision", "loss"}}  # its network has several outputs in training


def blocks(bundle: str, file: str) -> dict[str, str]:
    """{top-level key: its lines, with comments} of a config; the header has the key "" and no first line, a title."""
    parts = re.split(r"^(\w+):", (bundle_path(bundle) / "configs" / file).read_text(), flags=re.MULTILINE)
    return {"": parts[0].split("\n", 1)[1], **dict(zip(parts[1::2], parts[2::2], strict=True))}


@pytest.mark.parametrize("file", ["train.yaml", "inference.yaml"])
@pytest.mark.parametrize("bundle", OTHERS)
def test_bundles_differ_by_their_network_alone(bundle, file):
    ours, theirs = blocks(bundle, file), blocks(PATTERN, file)
    own = OWN | FURTHER.get((bundle, file), set())
    wrong = [key or "the header" for key in {**theirs, **ours} if key not in own and ours.get(key) != theirs.get(key)]
    assert not wrong, (
        f"bundles/{bundle}/configs/{file} differs from bundles/{PATTERN}/configs/{file} in {wrong}: copy these parts "
        f"from the one where they are right to all of {[PATTERN, *OTHERS]}; only the title and {sorted(own)} may differ"
    )


@pytest.mark.parametrize("file", ["configs/evaluate.yaml", "configs/multi_gpu.yaml", "configs/logging.conf", "LICENSE"])
@pytest.mark.parametrize("bundle", OTHERS)
def test_the_other_files_are_copies(bundle, file):
    ours, theirs = bundle_path(bundle) / file, bundle_path(PATTERN) / file
    assert ours.read_bytes() == theirs.read_bytes(), f"mend it with `cp {theirs} {ours}`, or the other way round"


@pytest.mark.parametrize("bundle", [PATTERN, *OTHERS])
def test_inference_has_the_network_of_the_training(bundle):
    train, inference = (
        yaml.safe_load((bundle_path(bundle) / "configs" / file).read_text())
        for file in ("train.yaml", "inference.yaml")
    )
    wrong = [
        key for key in ("network_def", "divisor", "window", "roi_size", "class_names") if train[key] != inference[key]
    ]
    assert not wrong, (
        f"{bundle}: copy {wrong} from configs/train.yaml to configs/inference.yaml, or the other way round"
    )


@pytest.mark.parametrize("bundle", OTHERS)
def test_the_documents_differ_in_what_is_said_of_the_network(bundle):
    """All that follows the heading "Data" is the same."""
    shared = [(bundle_path(name) / "docs/README.md").read_text().partition("## Data")[2] for name in (bundle, PATTERN)]
    assert shared[0] == shared[1], f"copy all from '## Data' on from docs/README.md of {PATTERN} to {bundle}, or back"


COPIES = {"multi_gpu": "image_ldm", "multi_gpu_autoencoder": "autoencoder"}


@pytest.mark.parametrize(
    "bundle, name",
    [
        ("baselines/ddpm", "multi_gpu"),
        *((bundle, name) for bundle in ("baselines/ldm_vae", "baselines/ldm_vqvae") for name in COPIES),
    ],
)
def test_the_overlays_of_several_processes_are_copies(bundle, name):
    """But for the command in the header."""
    path, pattern = bundle_path(bundle) / f"configs/{name}.yaml", bundle_path(COPIES[name]) / "configs/multi_gpu.yaml"
    ours, theirs = (file.read_text().partition("+imports")[2] for file in (path, pattern))
    assert ours == theirs, f"copy all from '+imports' on from {pattern} to {path}, or the other way round"
