"""Files between jobs: what is missing, damaged, of another training or an old version is refused with the remedy."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from lldm3d.errors import UserError
from lldm3d.files import read_json, save_checkpoint, save_nifti, write_json
from lldm3d.pipeline.checks import (
    check_gates,
    check_inputs,
    depends_on,
    fingerprint,
    finish,
    is_done,
    mark_done,
    put_back,
    same_beginning,
    set_aside,
)
from lldm3d.pipeline.stage import stage
from lldm3d.pipeline.stages import Job
from lldm3d.pipeline.training import go_on_or_start

FOLDER = "methods/lldm/seed_0"
DATASET = "dataset/dataset.json"


def training(name: str, *after: str) -> Job:
    reads = (DATASET, *(f"{FOLDER}/{other}/finished.json" for other in after))
    return Job("train", f"{FOLDER}/{name}", reads, (f"{FOLDER}/{name}/finished.json",))


AUTOENCODER, LATENTS, LDM = (
    training("autoencoder_image"),
    training("latents", "autoencoder_image"),
    training("image_ldm", "latents"),
)


@pytest.fixture
def work(tmp_path, tiny_dataset) -> Path:
    """A work directory in which an autoencoder and the latents of its codec are finished."""
    shutil.copytree(tiny_dataset, tmp_path / "dataset")
    save_checkpoint(tmp_path / AUTOENCODER.name / "codec.pt", {"kind": "image"})
    finish(tmp_path, AUTOENCODER)
    write_json(tmp_path / LATENTS.name / "encoded/latents.json", {"roi_size": [16] * 3})
    finish(tmp_path, LATENTS)
    return tmp_path


def test_what_is_finished_lets_the_next_one_begin(work):
    for job in (AUTOENCODER, LATENTS, LDM):
        check_inputs(work, job)
    (work / AUTOENCODER.name / "state.pt").write_bytes(b"of a later training")  # no result
    check_inputs(work, LATENTS)


def test_a_missing_input_names_file_and_stage(work):
    shutil.rmtree(work / AUTOENCODER.name)
    with pytest.raises(UserError, match=f"finished.json: no such file.*run the stage '{AUTOENCODER.name}' first"):
        check_inputs(work, LATENTS)
    shutil.rmtree(work / "dataset")
    with pytest.raises(UserError, match="dataset.json: no such file, but .*/latents reads it; .* 'prepare' first"):
        check_inputs(work, LATENTS)


def test_a_changed_a_torn_and_a_lost_codec_are_refused_with_file_stage_and_remedy(work):
    codec = work / AUTOENCODER.name / "codec.pt"
    remedy = f"delete .*finished.json and run the stage '{AUTOENCODER.name}' again"
    codec.write_bytes(codec.read_bytes()[:-10])
    with pytest.raises(UserError, match=f"codec.pt: is not what .* damaged or of another training; {remedy}"):
        check_inputs(work, LATENTS)
    codec.unlink()
    with pytest.raises(UserError, match=f"codec.pt: no such file, though .* lists it; {remedy}"):
        check_inputs(work, LATENTS)


def test_latents_of_an_earlier_codec_and_of_other_data_are_refused(work):
    content = read_json(work / DATASET)
    write_json(work / DATASET, content | {"tasks": {"liver": {"liver": ["liver"]}}})
    check_inputs(work, LDM)  # its cases are the same
    write_json(work / DATASET, content | {"spacing": [2, 2, 2]})
    with pytest.raises(UserError, match="latents: was made with another version of .*dataset.json; delete"):
        check_inputs(work, LDM)
    write_json(work / DATASET, content)
    save_checkpoint(work / AUTOENCODER.name / "codec.pt", {"kind": "label"})
    finish(work, AUTOENCODER)
    with pytest.raises(UserError, match=f"latents: was made with another version of .*{AUTOENCODER.name}/finished"):
        check_inputs(work, LDM)


def test_a_work_directory_of_an_earlier_version_is_refused_with_the_remedy(work):
    (work / "run.yaml").write_text(yaml.safe_dump({"profile": "demo", "data": None, "settings": {}}))
    with pytest.raises(UserError, match="run.yaml: .* before 0.8.*another --workdir, or delete .*run.yaml"):
        stage(str(work), "prepare")


def test_a_state_is_gone_on_from_only_where_settings_and_inputs_are_the_same(work):
    begun = ({"epochs": 3, "output_dir": str(work / "here")}, LATENTS.reads)
    assert not same_beginning(work, LATENTS.name, *begun)
    assert same_beginning(work, LATENTS.name, *begun)
    assert not same_beginning(work, LATENTS.name, {**begun[0], "epochs": 4}, begun[1])
    assert same_beginning(work, LATENTS.name, {**begun[0], "epochs": 4}, begun[1])
    save_checkpoint(work / AUTOENCODER.name / "codec.pt", {"kind": "another"})
    finish(work, AUTOENCODER)
    assert not same_beginning(work, LATENTS.name, {**begun[0], "epochs": 4}, begun[1])


def test_a_training_of_other_settings_starts_anew_and_its_earlier_state_is_kept_aside(work, capsys):
    state = work / LATENTS.name / "state.pt"
    go_on_or_start(work, LATENTS.name, {"epochs": 3}, LATENTS.reads)
    assert not capsys.readouterr().out, "the first training has nothing to go on from"
    state.write_bytes(b"of three epochs")
    half = state.with_name(".partial-ab.pt")  # as a kill leaves it
    half.touch()
    go_on_or_start(work, LATENTS.name, {"epochs": 3}, LATENTS.reads)
    assert not half.exists() and state.is_file() and "goes on from here" in capsys.readouterr().out
    go_on_or_start(work, LATENTS.name, {"epochs": 4}, LATENTS.reads)
    assert not state.exists() and state.with_name("state.old.pt").read_bytes() == b"of three epochs"
    assert "training starts anew" in capsys.readouterr().out


def test_a_finished_model_comes_back_when_a_slip_is_taken_back(work):
    """`epochs: many` in a profile, or a wrong profile for some seconds."""
    codec, slip = work / AUTOENCODER.name / "codec.pt", replace(AUTOENCODER, digest="many")
    good = codec.read_bytes()
    mark_done(work, AUTOENCODER)
    for _ in range(2):
        assert not is_done(work, slip) and not put_back(work, slip, depends_on(work, slip))
        set_aside(work, slip, depends_on(work, slip))
        save_checkpoint(codec, {"kind": "of some seconds"})
    assert not is_done(work, AUTOENCODER)
    assert put_back(work, AUTOENCODER, depends_on(work, AUTOENCODER))
    assert codec.read_bytes() == good and is_done(work, AUTOENCODER)
    set_aside(work, slip, depends_on(work, slip))
    save_checkpoint(codec, {"kind": "another"})
    finish(work, slip)
    mark_done(work, slip)
    assert is_done(work, slip) and not put_back(work, AUTOENCODER, depends_on(work, AUTOENCODER))


def test_a_kill_while_a_model_is_put_back_or_set_aside_loses_nothing(work):
    mark_done(work, AUTOENCODER)
    slip, codec = replace(AUTOENCODER, digest="slip"), work / AUTOENCODER.name / "codec.pt"
    good = codec.read_bytes()
    aside, record = work / ".replaced" / AUTOENCODER.name, work / f".replaced/{AUTOENCODER.name}.json"
    set_aside(work, slip, depends_on(work, slip))
    aside.rename(work / AUTOENCODER.name)  # and killed here
    assert record.is_file() and put_back(work, AUTOENCODER, depends_on(work, AUTOENCODER))
    assert codec.read_bytes() == good and is_done(work, AUTOENCODER) and not record.exists()


def test_a_task_that_merges_other_classes_is_learnt_anew(work):
    job = Job("segment", "segment/vein", (DATASET,), ("segment/vein/metrics.csv",), values={"task": "vein"})
    (work / job.name).mkdir(parents=True)
    (work / job.writes[0]).write_text("case,dice\n")
    about = read_json(work / DATASET)
    for merged, done in (("vessel", True), ("tumour", False)):
        write_json(work / DATASET, about | {"tasks": {"vein": {"vein": [merged]}}})
        if done:
            mark_done(work, job)
        assert is_done(work, job) is done
    record = work / ".done/segment/vein.json"
    write_json(record, {key: value for key, value in read_json(record).items() if key != "task"})
    assert is_done(work, job), "as a version before 0.21 noted it"


PAIRS = Job("pairs", "pairs/lldm/drawn/seed_0", (LDM.writes[0],), ("pairs/lldm/drawn/seed_0/dataset.json",))
SEGMENT = Job("segment", "segment/R+S/seed_0", PAIRS.writes, ("segment/R+S/seed_0/metrics.csv",))


def draw(folder: Path, brightness: float, name: str = "scan.nii.gz") -> Path:
    """One pair without a label, of always the same name."""
    save_nifti(folder / name, np.full((4, 4, 4), brightness, np.float32), np.eye(4))
    write_json(folder / "dataset.json", {"training": [{"image": name}], "labels": {"0": "background"}})
    return folder / "dataset.json"


@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.nii"])
def test_pairs_that_were_drawn_otherwise_under_the_same_names_are_learnt_anew(name, work):
    (work / SEGMENT.name).mkdir(parents=True)
    (work / SEGMENT.writes[0]).write_text("case,dice\n")
    for brightness, same in ((0, False), (0, True), (1, False)):
        draw(work / PAIRS.name, brightness, name)
        mark_done(work, replace(PAIRS, digest=f"{brightness} {same}"))  # what they were made by does not matter
        assert is_done(work, SEGMENT) is same
        assert same_beginning(work, SEGMENT.name, {}, SEGMENT.reads) is same
        mark_done(work, SEGMENT)


def test_pairs_elsewhere_and_simulated_scans_are_known_by_their_volumes(work, tmp_path_factory):
    elsewhere = draw(tmp_path_factory.mktemp("pairs"), 0)
    path = draw(work / "data", 0)
    prepare = Job("prepare", "prepare", ("data/dataset.json",), (DATASET,))
    segment = replace(SEGMENT, reads=(str(elsewhere),), writes=(DATASET,))
    for job, listed in ((prepare, path), (segment, elsewhere)):
        mark_done(work, job)
        assert is_done(work, job)
        draw(listed.parent, 1)
        assert not is_done(work, job)


def test_pairs_whose_volumes_are_gone_and_broken_records_are_not_done(work):
    draw(work / PAIRS.name, 0)
    mark_done(work, PAIRS)
    assert is_done(work, PAIRS)
    (work / PAIRS.name / "scan.nii.gz").unlink()
    assert not is_done(work, PAIRS)
    draw(work / PAIRS.name, 0)
    (work / f".done/{PAIRS.name}.json").write_text("{")
    assert not is_done(work, PAIRS)


def test_what_version_0_16_did_is_done(work):
    """It did not look at volumes."""
    inputs = {name: fingerprint(work / name) for name in LATENTS.reads}
    write_json(work / f".done/{LATENTS.name}.json", {"settings": "", "inputs": inputs})
    assert is_done(work, LATENTS)


def test_a_model_that_its_owner_deleted_is_trained_anew(work):
    """With other settings than its record says, which then went to be set aside with it."""
    mark_done(work, AUTOENCODER)
    shutil.rmtree(work / AUTOENCODER.name)
    other = replace(AUTOENCODER, digest="other")
    set_aside(work, other, depends_on(work, other))
    assert not put_back(work, AUTOENCODER, depends_on(work, AUTOENCODER))


GATES = {"autoencoder_image": {"gate": {"psnr": 20}}, "autoencoder_label": {"gate": {"mean_dice": 0.7}}, "latents": {}}


def write_metrics(folder: Path, psnr: float | None, dice: float) -> None:
    for name, content in (("autoencoder_image", {"psnr": psnr}), ("autoencoder_label", {"mean_dice": dice})):
        write_json(folder / name / "metrics.json", content)


def test_the_gate_lets_good_autoencoders_pass(tmp_path):
    write_metrics(tmp_path, psnr=20.0, dice=0.9)
    check_gates(tmp_path, GATES)


def test_the_gate_names_value_threshold_file_and_remedy_of_both(tmp_path):
    write_metrics(tmp_path, psnr=None, dice=0.65)  # NaN is no JSON, and is written as null
    with pytest.raises(UserError) as error:
        check_gates(tmp_path, GATES)
    image, label = str(error.value).splitlines()
    assert "autoencoder_image/metrics.json: psnr is missing, below the gate of 20" in image
    assert "autoencoder_label/metrics.json: mean_dice is 0.65, below the gate of 0.7" in label
    assert "train autoencoder_label longer (raise its epochs)" in label and "lower its gate" in label
