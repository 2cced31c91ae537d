"""Packed bundles: fetched from a server by MONAI itself, they hold the weights and run without this checkout."""

import functools
import hashlib
import http.server
import json
import logging
import os
import runpy
import shutil
import subprocess
import sys
import threading
import zipfile
from contextlib import chdir
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from monai.bundle import ConfigParser, download, load, scripts
from monai.bundle import run as run_config
from monai.transforms import SaveImaged
from tests.in_process import do_stages, write_run

from lldm3d.bundle import bundle_names, bundle_path
from lldm3d.data.dataset import load_cases
from lldm3d.errors import UserError
from lldm3d.evaluation.metrics import Compared, Metric, Row
from lldm3d.export.package import pack, read_paths
from lldm3d.files import load_checkpoint, read_json, save_checkpoint
from lldm3d.methods.registry import load_method

from .conftest import CLASS_NAMES, FIRST, METHOD, SEGMENTERS, STAGES

ROOT = Path(__file__).parents[2]
GENERATIVE = {"autoencoder": f"{METHOD}/autoencoder_image/codec.pt"}
GENERATIVE |= {name: f"{METHOD}/{name}/model.pt" for name in ("label_ldm", "image_ldm", "controlnet")}
SEGMENTATION = {
    f"steps_{name}_multi_R_real_seed_0": f"segment/steps/{name}/multi/R/real/seed_0/model.pt" for name in SEGMENTERS
}
WEIGHTS = {**GENERATIVE, **SEGMENTATION}
TRACED = ("seg_dynunet", "seg_swinunetr")  # their ckpt_export needs use_trace, see docs/how-to/share.md


@pytest.fixture(scope="module")
def zips(tiny_chain, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("zips")
    pack(str(folder), workdir=str(tiny_chain), url="https://example.org/release")
    return folder


@pytest.fixture(scope="module")
def server(zips):
    """The address of a web server that offers the zips."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(zips))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()


@pytest.fixture(scope="module")
def bundles(zips, server, tmp_path_factory) -> Path:
    """All zips of the chain, fetched and unpacked by `monai.bundle.download`."""
    folder = tmp_path_factory.mktemp("bundles")
    for path in zips.glob("*.zip"):
        name = path.name.rsplit("_v", 1)[0]
        download(name=name, url=f"{server}/{path.name}", bundle_dir=folder, progress=False)
    return folder


def own_weights(path: Path) -> dict:
    content = load_checkpoint(path, made_by="test")
    return content.get("model") or content.get("autoencoder") or content


def test_a_chain_gives_its_generative_bundles_and_its_segmentations(zips):
    mixed = f"steps_{FIRST}_multi_0.5R_2S_lldm_seed_0"
    assert {path.name.rsplit("_v", 1)[0] for path in zips.glob("*.zip")} == {*WEIGHTS, mixed}


def test_a_folder_whose_name_has_signs_of_the_parser_is_found_as_it_is(tmp_path):
    folder = tmp_path / "Data #1 @seed %x.yaml $(1)"
    assert read_paths(bundle_path("autoencoder"), folder) == {"ckpt_path": folder / "autoencoder_image/codec.pt"}


def test_the_index_has_the_checksum_and_address_of_each_zip_as_the_model_zoo_does(zips):
    index = read_json(zips / "model_info.json")
    assert set(index) == {path.stem for path in zips.glob("*.zip")}
    for name, entry in index.items():
        assert entry["checksum"] == hashlib.sha1((zips / f"{name}.zip").read_bytes()).hexdigest()
        assert entry["source"] == f"https://example.org/release/{name}.zip"


@pytest.mark.parametrize("name", WEIGHTS)
def test_monai_loads_the_network_with_the_chain_s_weights(name, bundles, tiny_chain):
    network = load(name, bundle_dir=bundles, device="cpu")
    expected = own_weights(tiny_chain / WEIGHTS[name])
    assert expected.keys() == network.state_dict().keys()
    assert all(torch.equal(value, expected[key]) for key, value in network.state_dict().items())


def test_load_fetches_a_release_by_itself(zips, server, tmp_path, monkeypatch, tiny_chain):
    """`load(source="github")`, with the one function that forms GitHub's address turned to the local server."""
    monkeypatch.setattr(scripts, "_get_git_release_url", lambda owner, repo, tag_name, filename: f"{server}/{filename}")
    version = next(zips.glob("label_ldm_v*.zip")).stem.rsplit("_v", 1)[1]
    network = load("label_ldm", version=version, bundle_dir=tmp_path, source="github", repo="a/b/c", device="cpu")
    expected = own_weights(tiny_chain / WEIGHTS["label_ldm"])
    assert all(torch.equal(value, expected[key]) for key, value in network.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("name", WEIGHTS)
def test_the_independent_conformance_check_passes_with_weights(name, bundles, tiny_chain, tmp_path, monkeypatch):
    """Also verify_metadata, verify_net_in_out and ckpt_export; docs/how-to/share.md says which are excused."""
    script = ROOT.parent / "shared" / "bundle_conformance.py"
    if not script.is_file():
        pytest.skip("../shared/bundle_conformance.py does not exist")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(logging, "disable", lambda *_: None)
    monkeypatch.chdir(tiny_chain)  # `dataset` and `latents` are looked for in the working directory
    excused = name in GENERATIVE or name.startswith(tuple(f"steps_{network}" for network in TRACED))
    overrides = {"train": {}, "infer": {}, "__exclude__": ["ckpt_export"] if excused else []}
    if name == "controlnet":
        overrides["train"]["image_ldm_path"] = str(tiny_chain / METHOD / "image_ldm/model.pt")
    (tmp_path / "overrides.json").write_text(json.dumps({name: overrides}))
    options = {"schema_dir": str(ROOT / "tests/bundles"), "overrides": str(tmp_path / "overrides.json")}
    options |= {"pna": [1, 1, 1], "no_dynamic": False, "no_export": False}
    rows = runpy.run_path(str(script))["check_one"](str(bundles / name), SimpleNamespace(**options))
    assert [row for row in rows if row[0] == "FAIL"] == []
    passed = {row[2] for row in rows if row[0] == "PASS"}
    assert {"monai.bundle verify_metadata", "monai.bundle.load[train]", "weights:strict[inference]"} <= passed
    assert name in GENERATIVE or "net:network_data_format:verify_net_in_out" in passed
    assert excused or "ckpt_export" in passed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["controlnet", *list(SEGMENTATION)[:1]])
def test_an_unpacked_bundle_runs_by_the_command_in_its_config(name, bundles, tiny_dataset, tmp_path):
    copy = bundles / name / "lldm3d/__init__.py"
    assert copy.is_file() == (name in GENERATIVE)
    if copy.is_file():
        copy.write_text(copy.read_text() + '\nprint("the copy in the zip")\n')
    command = [sys.executable, "-m", "monai.bundle", "run", "inferring", "--config_file", "configs/inference.yaml"]
    command += [f"--output_dir={tmp_path}", "--device=$torch.device('cpu')"]
    command += ["--num_cases=1"] if name in GENERATIVE else [f"--dataset_dir={tiny_dataset}"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=bundles / name, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert ("the copy in the zip" in done.stdout) == (name in GENERATIVE)
    assert list(tmp_path.rglob("*.nii.gz"))


@pytest.mark.parametrize("name", WEIGHTS)
def test_what_it_was_trained_with_is_the_default(name, bundles):
    for config in ("train.yaml", "train.json", "inference.json"):
        text = (bundles / name / "configs" / config).read_text()
        content = json.loads(text) if config.endswith("json") else yaml.safe_load(text)
        assert content.get("class_names", CLASS_NAMES) == CLASS_NAMES
        if name in STAGES:
            expected = STAGES[name][1]
            assert {key: content[key] for key in expected if key in content} == {
                key: value for key, value in expected.items() if key in content
            }
    head = (bundles / name / "configs/train.yaml").read_text().splitlines()
    assert head[1].startswith("#   python -m monai.bundle run training")


@pytest.mark.parametrize("name", WEIGHTS)
def test_no_path_of_this_machine_travels(name, bundles, tiny_chain):
    files = [file for file in (bundles / name).rglob("*") if file.suffix in (".yaml", ".json", ".md")]
    assert len(files) > 5
    for file in files:
        assert str(tiny_chain) not in file.read_text(), file
        assert file.suffix == ".md" or "../../work" not in file.read_text(), file


def test_the_readme_tells_whether_copies_of_patients_were_measured(zips, tiny_chain, tmp_path, capsys):
    readme = zipfile.ZipFile(next(zips.glob("image_ldm_v*.zip"))).read("image_ldm/docs/README.md").decode()
    assert "Copies of patients: not measured" in readme and "No weights come with" not in readme
    row = Row(Metric.NEAR_COPIES_SHARE, Compared.SYNTHETIC_TRAINING, 0.125, n=8).as_dict()
    work = tmp_path / "work"
    work.symlink_to(tiny_chain)
    metrics = tiny_chain / "evaluation/lldm/drawn/seed_0/metrics.json"
    metrics.parent.mkdir(parents=True)
    metrics.write_text(json.dumps({"rows": [row]}))
    try:
        pack(str(tmp_path / "zips"), workdir=str(work), stages=f"{METHOD}/image_ldm")
    finally:
        shutil.rmtree(tiny_chain / "evaluation")
    assert "of 8 pairs drawn with these models, 12.5% lie nearer" in capsys.readouterr().out


def test_the_same_weights_make_the_same_checksum(zips, tiny_chain, tmp_path):
    pack(str(tmp_path), workdir=str(tiny_chain), stages=(f"{METHOD}/label_ldm",))
    mine, theirs = (read_json(folder / "model_info.json") for folder in (tmp_path, zips))
    assert [theirs[name]["checksum"] for name in mine] == [entry["checksum"] for entry in mine.values()]
    assert len(mine) == 1


def test_one_bundle_with_the_weights_of_one_training(tiny_chain, tmp_path):
    name, stage = FIRST, f"segment/steps/{FIRST}/multi/R/real/seed_0"
    pack(str(tmp_path), bundle=name, weights=str(tiny_chain / stage / "model.pt"))
    archive = zipfile.ZipFile(next(tmp_path.glob("*.zip")))
    assert yaml.safe_load(archive.read(f"{name}/configs/inference.yaml"))["class_names"] == CLASS_NAMES
    assert f"{name}/models/model.pt" in archive.namelist()


def test_without_weights_every_bundle_is_packed(tmp_path):
    pack(str(tmp_path))
    names = {path.name.rsplit("_v", 1)[0] for path in tmp_path.glob("*.zip")}
    assert names == {Path(name).name for name in bundle_names()}
    assert not [file for path in tmp_path.glob("*.zip") for file in zipfile.ZipFile(path).namelist() if ".pt" in file]


def test_weights_that_do_not_fit_are_refused_with_the_mend(tiny_chain, tmp_path):
    weights = tmp_path / "here" / "model.pt"
    save_checkpoint(weights, load_checkpoint(tiny_chain / SEGMENTATION[f"steps_{FIRST}_multi_R_real_seed_0"], "test"))
    with pytest.raises(UserError, match=rf"{weights}: does not fit .* into {weights.parent}/overrides.yaml"):
        pack(str(tmp_path / "zips"), bundle=FIRST, weights=str(weights))
    codec = tiny_chain / METHOD / "autoencoder_image/codec.pt"
    with pytest.raises(UserError, match=f"{codec}: does not fit the network_def of seg_unet"):
        pack(str(tmp_path / "zips"), bundle="seg_unet", weights=str(codec))
    assert not list((tmp_path / "zips").glob("*"))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"workdir": "W", "bundle": "seg_unet"}, "leave out --bundle"),
        ({"stages": "label_ldm"}, "give its --workdir"),
        ({"weights": "model.pt"}, "give the --bundle"),
        ({"workdir": "W", "stages": "segment/none"}, "no trained stage of .* begins so; there are .*label_ldm"),
        ({"bundle": "seg_unet", "weights": "nowhere/model.pt"}, "nowhere/model.pt: no such checkpoint"),
        ({"workdir": "/nowhere"}, "holds no trained stage"),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(options, message, tiny_chain, tmp_path):
    options = {key: str(tiny_chain) if value == "W" else value for key, value in options.items()}
    with pytest.raises(UserError, match=message):
        pack(str(tmp_path), **options)
    assert not list(tmp_path.iterdir())


def test_a_zip_of_the_same_version_is_replaced_only_when_told(tmp_path):
    pack(str(tmp_path), bundle="label_ldm")
    with pytest.raises(UserError, match="label_ldm_v.*zip exists; .* --overwrite"):
        pack(str(tmp_path), bundle="label_ldm")
    pack(str(tmp_path), bundle="label_ldm", overwrite=True)


@pytest.mark.parametrize("name", SEGMENTATION)
def test_monai_label_finds_all_that_it_reads(name, bundles, tiny_dataset):
    """What `BundleInferTask` of MONAI Label 0.8.5 takes, from inference.json and metadata.json alone, and runs."""
    parser = ConfigParser()
    parser.read_config(bundles / name / "configs/inference.json")
    parser.config.update({"bundle_root": str(bundles / name), "device": "cpu"})
    output = next(iter(read_json(bundles / name / "configs/metadata.json")["network_data_format"]["outputs"].items()))
    network, before, inferer, after = (
        parser.get_parsed_content(key) for key in ("network_def", "preprocessing", "inferer", "postprocessing")
    )
    network.load_state_dict(torch.load(bundles / name / "models/model.pt", weights_only=True))
    data = {"image": str(tiny_dataset / "imagesTr/case_06.nii.gz")}
    for transform in before.transforms:
        data = transform(data)
    with torch.no_grad():
        data[output[0]] = inferer(data["image"][None], network.eval())[0]
    for transform in after.transforms:
        data = data if isinstance(transform, SaveImaged) else transform(data)
    assert list(output[1]["channel_def"].values()) == CLASS_NAMES
    assert data["pred"].shape == (1, 16, 16, 16) and set(data["pred"].unique().tolist()) <= {0, 1, 2}


@pytest.fixture(scope="module")
def variants(tiny_dataset, tmp_path_factory) -> Path:
    """A work directory with methods that lay configs over their bundle's inference, trained for two steps."""
    work = tmp_path_factory.mktemp("variants")
    shutil.copytree(tiny_dataset, work / "dataset")
    write_run(work, ["haar_ldm", "pix2pix3d"], ["drawn", "training"])
    trainings = {name: load_method(name).trainings for name in ("haar_ldm", "pix2pix3d")}
    do_stages(work, *(f"methods/{name}/seed_0/{training}" for name, own in trainings.items() for training in own))
    return work


def test_a_method_is_packed_under_its_name_with_all_that_its_inference_reads(variants, tiny_dataset, tmp_path):
    pack(str(tmp_path / "zips"), workdir=str(variants))
    for path in (tmp_path / "zips").glob("*.zip"):
        shutil.unpack_archive(path, tmp_path)
    label = str(load_cases(tiny_dataset, "training")[0].label)
    drawing = ["configs/inference.yaml", "configs/draw_labels.yaml"]
    for name, configs, wanted in (
        ("haar_ldm", drawing, {"num_cases": 2}),
        ("pix2pix3d", drawing[:1], {"label_paths": [label]}),
    ):
        folder = tmp_path / name
        readme = (folder / "docs/README.md").read_text()
        assert "Holds trained weights" in readme and "No weights come" not in readme
        assert "work/demo" not in "".join(path.read_text() for path in folder.glob("configs/*.yaml"))
        with chdir(folder):
            run_config("inferring", config_file=configs, output_dir=str(tmp_path / f"of_{name}"), **wanted)
        assert len(list((tmp_path / f"of_{name}").rglob("*.nii.gz"))) == (4 if name == "haar_ldm" else 2)
    assert all(entry["source"] == "" for entry in read_json(tmp_path / "zips/model_info.json").values())
