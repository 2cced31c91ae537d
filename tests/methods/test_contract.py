"""The one contract that every method holds: it trains, draws for each source of labels, and says what it drew.

It also holds for a method that is a folder of three files (`cut_out`, in conftest.py); and all of it on data whose
class names, case names and folders are traps for the parser of configs.
"""

from collections.abc import Iterable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from tests.in_process import bundles_run_here, do_stages, write_profile

from lldm3d.codec.codec import load_codec
from lldm3d.data.dataset import load_cases, load_schema
from lldm3d.errors import UserError
from lldm3d.evaluation.metrics import read_csv
from lldm3d.files import read_json, sha256
from lldm3d.methods.registry import load_method, method_names
from lldm3d.pairs.generate import generate
from lldm3d.pipeline.profile import load_profile

from .conftest import GUEST

NAMES = [*(name for name in method_names() if not load_method(name).edits), GUEST]  # edits: tests/lesions
OURS = (
    "lldm",
    "cond_ldm",
    "haar_ldm",
    GUEST,
)  # draw for every source; of others the way from label to image is the same
FIRST = {load_method(name).bundle: name for name in reversed(NAMES[:-1])}.values()  # of the methods of a bundle
TAKING = [name for name in OURS if name == GUEST or load_method(name).takes_labels]
CODED = [name for name in method_names() if "reconstructed" in load_method(name).sources]


def quick_first(names: Iterable[str]) -> list:
    """The methods, of which the variants of a bundle are tested with the slow ones."""
    quick = {*FIRST, *OURS}
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


def sources_of(name: str) -> tuple[str, ...]:
    """For which a method's pairs are tested."""
    if name in OURS:
        return ("drawn", "training", "unwarped", "test", "folder", *(["reconstructed"] if name in CODED else []))
    method = load_method(name)
    return ("training",) if method.takes_labels and not method.draws_labels else ("drawn",)


METHODS = quick_first(NAMES)
DRAWS = [(name, source) for name in NAMES if name in {*FIRST, *OURS} for source in sources_of(name)]
SLOW = [(name, source) for name in NAMES if name not in {*FIRST, *OURS} for source in sources_of(name)]
DRAWS += [pytest.param(*pair, marks=pytest.mark.slow) for pair in SLOW]
CASES = {"folder": 1, "unwarped": 4, "reconstructed": 4}  # of others 2
SPLIT = {"training": "training", "unwarped": "training", "reconstructed": "training", "test": "test"}

pytestmark = pytest.mark.usefixtures("with_guest")


def volumes(folder):
    """The volumes of a folder, by name."""
    return {path.name: nib.load(path) for path in sorted(folder.glob("*.nii.gz"))}


def given_labels(work, method, source):
    """The paths of the labels that a method draws for, by name."""
    if source == "training":
        return {path.name: path for path in (work / "labels/training/seed_0/labelsTr").glob("*.nii.gz")}
    if source in SPLIT:
        return {f"{case.name}.nii.gz": case.label for case in load_cases(work / "dataset", SPLIT[source])}
    if source == "folder":
        return {path.name: path for path in (work / "own").iterdir()}
    return {path.name: path for path in (work / "pairs/lldm/drawn/seed_0/labelsTr").iterdir()}


@pytest.mark.parametrize("name", METHODS)
def test_each_training_leaves_what_the_next_one_reads(trained, mark, name):
    folder = trained(name) / "methods" / name / "seed_0"
    for training in load_method(name).trainings:
        files = read_json(folder / training / "finished.json")["files"]
        assert files and all(sha256(folder / training / file) == value for file, value in files.items())
        for file in (file for file in files if file.endswith(".pt")):
            assert torch.load(folder / training / file, weights_only=True)
    assert not mark.exists(), "the name of a class was run as code"


@pytest.mark.parametrize(("name", "source"), DRAWS)
def test_pairs_are_images_on_the_grid_of_the_data_and_their_labels(trained, drawn, mark, name, source):
    work, method, folder = trained(name), load_method(name), drawn(name, source)
    schema, real = load_schema(work / "dataset"), nib.load(load_cases(work / "dataset", "training")[0].image)
    images, labels = volumes(folder / "imagesTr"), volumes(folder / "labelsTr")
    assert len(images) == CASES.get(source, 2)
    for image in images.values():
        voxels = image.get_fdata()
        assert image.shape == schema.roi_size and np.isfinite(voxels).all() and 0 <= voxels.min() <= voxels.max() <= 1
        if source != "drawn":  # what is drawn has no place in the scanner
            np.testing.assert_allclose(image.affine, real.affine)
        np.testing.assert_allclose(nib.affines.voxel_sizes(image.affine), schema.spacing)
    if method.takes_labels and not (source == "drawn" and method.draws_labels):
        given = given_labels(work, name, source)
        assert labels.keys() == images.keys() <= given.keys()
        for file, label in labels.items():
            before = nib.load(given[file])
            np.testing.assert_array_equal(np.asanyarray(label.dataobj), np.asanyarray(before.dataobj))
            np.testing.assert_allclose(label.affine, before.affine)
    elif method.draws_labels:
        assert labels.keys() == images.keys()
        assert all(0 <= label.get_fdata().max() < len(schema.class_names) for label in labels.values())
    else:
        assert not labels
    assert not mark.exists(), "the name of a class was run as code"


@pytest.mark.parametrize(("name", "source"), DRAWS)
def test_pairs_say_what_they_are(trained, drawn, name, source):
    work, folder = trained(name), drawn(name, source)
    listed, schema = load_cases(folder, "training"), load_schema(folder)
    assert schema.class_names == load_schema(work / "dataset").class_names
    manifest, cost = read_json(folder / "manifest.json"), read_json(folder / "cost.json")
    assert [case["name"] for case in manifest["cases"]] == [case.name for case in listed]
    assert manifest["method"] == name and all(case["seed"] == 0 for case in manifest["cases"])
    models = work / "methods" / name / "seed_0"
    assert manifest["checkpoints"] and all(
        sha256(models / file) == value for file, value in manifest["checkpoints"].items()
    )
    assert cost["volumes"] == len(listed) and cost["seconds"] > 0
    if load_method(name).takes_labels and not (source == "drawn" and load_method(name).draws_labels):
        for case, pair in zip(manifest["cases"], listed, strict=True):
            assert case["label"] == f"{pair.name}.nii.gz"
            assert case["label_sha256"] == sha256(given_labels(work, name, source)[case["label"]])
    if source in SPLIT:
        assert {case.patient for case in listed} <= {
            case.patient for case in load_cases(work / "dataset", SPLIT[source])
        }


@pytest.mark.parametrize("name", quick_first(CODED))
def test_a_reconstructed_pair_is_a_real_one_after_the_codec_alone(trained, drawn, name):
    work, folder = trained(name), drawn(name, "reconstructed")
    cases = {case.name: case for case in load_cases(work / "dataset", "training")}
    file = "autoencoder_image/codec.pt"
    assert list(read_json(folder / "manifest.json")["checkpoints"]) == [file]
    codec = load_codec(work / "methods" / name / "seed_0" / file, "image")
    for pair in load_cases(folder, "training"):
        real, found = (nib.load(path).get_fdata() for path in (cases[pair.name].image, pair.image))
        mean, _ = codec.encode(torch.as_tensor(real, dtype=torch.float32)[None, None])
        np.testing.assert_allclose(found, codec.decode(mean)[0, 0], atol=5e-4)
        assert (np.abs(found - real).max() < 5e-4) == codec.lossless


@pytest.mark.parametrize("name", TAKING)
def test_pairs_of_both_sources_are_one_data_set(drawn, name):
    folder = drawn(name, "both")
    parts = [case for source in ("training", "drawn") for case in load_cases(drawn(name, source), "training")]
    listed = load_cases(folder, "training")
    assert [Path(case.image).resolve() for case in listed] == [Path(case.image).resolve() for case in parts]
    assert [case.patient for case in listed] == [case.patient for case in parts]
    assert read_json(folder / "cost.json")["volumes"] == len(listed) == 4


@pytest.mark.parametrize("name", quick_first(sorted({*NAMES} - {*CODED})))
def test_a_method_without_an_image_codec_offers_no_reconstruction(trained, tmp_path, name):
    with pytest.raises(UserError, match=f"{name} has no image codec"):
        generate(str(trained(name)), str(tmp_path / "out"), name, source="reconstructed")


@pytest.mark.parametrize("name", METHODS)
def test_the_command_draws_the_pairs_of_the_stage_again(trained, drawn, tmp_path, name):
    work, folder = trained(name), drawn(name, "drawn")
    settings = read_json(folder / "manifest.json")["settings"]
    with bundles_run_here():
        generate(str(work), str(tmp_path / "again"), name, n=2, seed=0, **settings)
    first, again = volumes(folder / "imagesTr"), volumes(tmp_path / "again" / "imagesTr")
    assert first.keys() == again.keys()
    for file, image in first.items():
        np.testing.assert_array_equal(image.get_fdata(), again[file].get_fdata())


def test_a_segmentation_and_an_evaluation_take_them(trained, drawn, mark):
    work, stages = trained("lldm"), "segment/steps/seg_resunet/{}/seed_0"
    drawn("lldm", "drawn")
    do_stages(work, *(stages.format(arm) for arm in ("multi/R/real", "multi/R+0.5S/lldm", "trap/R/real")))
    do_stages(work, "evaluation/lldm/drawn/seed_0")
    names = load_schema(work / "dataset").class_names
    table = read_csv(work / stages.format("multi/R+0.5S/lldm") / "metrics.csv")
    assert set(table["class"]) == set(names[1:])
    assert set(read_csv(work / stages.format("trap/R/real") / "metrics.csv")["class"]) == {f"{names[1]}#2"}
    assert read_json(work / "evaluation/lldm/drawn/seed_0/metrics.json")
    assert not mark.exists(), "a name was run as code"


@pytest.mark.parametrize("name", METHODS)
def test_a_section_of_an_unknown_training_is_answered_with_the_nearest_name(tmp_path, name):
    training = list(load_method(name).trainings)[-1]
    profile = write_profile(tmp_path / "mine.yaml", methods={name: {f"{training}s": {}}})
    with pytest.raises(UserError, match=f"methods#{name}#{training}s is unknown, did you mean {training}"):
        load_profile(str(profile))


def test_images_for_labels_are_not_asked_of_a_method_that_takes_none(trained, tmp_path):
    with pytest.raises(UserError, match="ddpm draws images without labels; leave out --label and --source"):
        generate(str(trained("ddpm")), str(tmp_path / "out"), "ddpm", source="training")
