"""MONAI Label's server with a packed segmentation, started as docs/how-to/share.md says and asked for a label."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from lldm3d.children import stop, tail, tied_to_me
from lldm3d.export.package import pack

from .conftest import CLASS_NAMES

STAGE, CASE = "segment/steps/seg_unet/multi/R/real/seed_0", "case_06"
PATIENCE = 900  # seconds until the server answers: it imports some hundred packages
MONAILABEL = shutil.which("monailabel")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        MONAILABEL is None,
        reason="no `monailabel` in PATH; install it in an environment of its own as docs/how-to/share.md says, and add "
        "its bin to PATH",
    ),
]


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """That of another user: without this package, as the segmentation bundles are MONAI alone."""
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return kept | {"PATH": f"{Path(MONAILABEL).parent}:{kept['PATH']}"}


@pytest.fixture(scope="module")
def served(tiny_chain, tiny_dataset, environment, tmp_path_factory) -> Iterator[tuple[str, str, Path]]:
    """The address of a server, the name of its model, and the bundle's folder."""
    folder = tmp_path_factory.mktemp("label")
    pack(str(folder / "dist"), workdir=str(tiny_chain), stages=STAGE)
    download = [MONAILABEL, "apps", "--download", "--name", "monaibundle", "--output", str(folder / "apps")]
    subprocess.run(download, env=environment, check=True, capture_output=True)
    app, (packed,) = folder / "apps/monaibundle", (folder / "dist").glob("*.zip")
    with zipfile.ZipFile(packed) as content:
        content.extractall(app / "model")
    (name,) = [path.name for path in (app / "model").iterdir()]
    shutil.copytree(tiny_dataset / "imagesTr", folder / "studies")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [MONAILABEL, "start_server", "--app", app, "--studies", folder / "studies", "--host", "127.0.0.1"]
    command += [
        "--port",
        str(port),
        "--conf",
        "models",
        name,
        "--conf",
        "zoo_source",
        "local",
        "--conf",
        "sam2",
        "false",
    ]
    with open(folder / "server.log", "wb") as log:
        output = {"stdout": log, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(
            list(map(str, command)), env=environment, preexec_fn=tied_to_me(signal.SIGKILL), **output
        )
    try:
        wait_for(process, f"http://127.0.0.1:{port}/info/", folder / "server.log")
        yield f"http://127.0.0.1:{port}", name, app / "model" / name
    finally:
        stop(process)


def wait_for(process: subprocess.Popen, address: str, log: Path) -> None:
    """Until the server answers; fails with the end of its log."""
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        try:
            return urllib.request.urlopen(address, timeout=10).close()
        except OSError:
            time.sleep(1)
    pytest.fail(tail(log))


def test_the_server_offers_the_packed_bundle_with_its_classes(served):
    address, name, _ = served
    with urllib.request.urlopen(f"{address}/info/") as answer:
        model = json.load(answer)["models"][name]
    assert model["type"] == "segmentation" and model["dimension"] == 3
    assert model["labels"] == {name: value for value, name in enumerate(CLASS_NAMES) if value}


def test_a_scan_comes_back_with_the_bundle_s_label_on_its_own_grid(served, tiny_dataset, tmp_path):
    address, name, bundle = served
    request = urllib.request.Request(f"{address}/infer/{name}?image={CASE}&output=image", method="POST")
    with urllib.request.urlopen(request, timeout=600) as answer:
        (tmp_path / "label.nii.gz").write_bytes(answer.read())
    label, image = nib.load(tmp_path / "label.nii.gz"), nib.load(tiny_dataset / f"imagesTr/{CASE}.nii.gz")
    assert label.shape == image.shape and np.allclose(label.affine, image.affine)
    assert np.array_equal(label.get_fdata(), predicted(bundle, tiny_dataset / f"imagesTr/{CASE}.nii.gz"))


def predicted(bundle: Path, image: Path) -> np.ndarray:
    """What the bundle's network says of an image."""
    parser = ConfigParser()
    parser.read_config(bundle / "configs/inference.json")
    parser.update({"bundle_root": str(bundle), "device": "cpu"})
    network, before, inferer = map(parser.get_parsed_content, ("network_def", "preprocessing", "inferer"))
    network.load_state_dict(torch.load(bundle / "models/model.pt", weights_only=True))
    with torch.no_grad():
        return inferer(before({"image": str(image)})["image"][None], network.eval())[0].argmax(0).numpy()
