import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lldm3d.data.dataset import load_schema
from lldm3d.errors import UserError
from lldm3d.files import save_checkpoint, write_json
from lldm3d.locks import locked
from lldm3d.pipeline import checks
from lldm3d.pipeline.profile import load_profile

from .conftest import lldm3d, write_profile

RS = [f"segment/steps/seg_resunet/multi/R+S/lldm/seed_{seed}" for seed in (0, 1)]
AFTER_CONTROLNET = ["controlnet", "generate", *RS, "evaluate", "study"]


def test_a_dry_run_lists_every_stage_and_keeps_the_work_directory_without_settings(tmp_path, dry_run):
    assert dry_run(tmp_path) == [
        "phantom",
        "prepare",
        "autoencoder_image",
        "autoencoder_label",
        "latents",
        "label_ldm",
        "image_ldm",
        "controlnet",
        "generate",
        "segment/steps/seg_resunet/multi/R/real/seed_0",
        "segment/steps/seg_resunet/multi/R/real/seed_1",
        *RS,
        "evaluate",
        "study",
        "report",
    ]
    assert not (tmp_path / "run.yaml").exists()


def test_until_ends_with_that_stage(tmp_path, dry_run):
    stages = dry_run(tmp_path, data={"data": str(tmp_path)}, until="latents")
    assert stages == ["prepare", "autoencoder_image", "autoencoder_label", "latents"]


def test_an_unknown_stage_names_those_that_exist(tmp_path, dry_run):
    with pytest.raises(UserError, match="'latent'.*did you mean latents?.*controlnet"):
        dry_run(tmp_path, until="latent")


def test_more_processes_of_a_stage_than_gpus_are_refused(tmp_path, dry_run):
    profile = write_profile(tmp_path / "mine.yaml", controlnet={"processes": 3}, generate={"processes": 2})
    with pytest.raises(UserError, match=r"\{'controlnet#processes': 3\}: more than the 2 GPUs at once.*--gpus"):
        dry_run(tmp_path / "work", profile=str(profile), gpus=2)


def test_what_is_done_is_not_done_again(done, dry_run):
    assert dry_run(done) == []


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"controlnet": {"learning_rate": 1e-4}}, [*AFTER_CONTROLNET, "report"]),
        ({"evaluate": {}, "gates": {"image_psnr": 0}}, []),
        (
            {"segment": {"seeds": [0, 1, 2]}},
            [
                "segment/steps/seg_resunet/multi/R/real/seed_2",
                "segment/steps/seg_resunet/multi/R+S/lldm/seed_2",
                "study",
                "report",
            ],
        ),
    ],
)
def test_a_changed_section_runs_its_stage_and_what_depends_on_it(done, dry_run, tmp_path, sections, expected):
    profile = write_profile(tmp_path / "mine.yaml", **sections)
    assert dry_run(done, profile=str(profile)) == expected


def test_a_new_codec_makes_what_depends_on_it_old(done, dry_run):
    (done / "autoencoder_label" / "codec.pt").write_bytes(b"new")
    stages = dry_run(done)
    assert stages[0] == "latents" and "segment/steps/seg_resunet/multi/R/real/seed_0" not in stages


def test_other_data_than_the_work_directory_was_made_from_is_refused(done, dry_run, tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path}.*/elsewhere.*--workdir"):
        dry_run(done, data={"data": "/elsewhere"})


def test_a_second_run_in_the_same_work_directory_is_refused(tmp_path, dry_run):
    with locked(tmp_path / ".locks" / "run.lock", "the work directory"):
        with pytest.raises(UserError, match=f"in use by process {os.getpid()}"):
            dry_run(tmp_path)


def test_a_gate_that_fails_stops_the_chain_with_the_reason(tmp_path, tiny_dataset):
    work = tmp_path / "work"
    shutil.copytree(tiny_dataset, work / "dataset")
    write_autoencoders(work, psnr=15.5)
    result = lldm3d("run", "--workdir", work, "--data", tmp_path, "--until", "latents")
    assert result.returncode == 2
    gate = load_profile("demo")["gates"]["image_psnr"]
    assert result.stderr.count(f"psnr is 15.5, below the gate image_psnr: {gate}") == 1
    assert "mean_dice" not in result.stderr and not (work / "latents" / "latents.json").exists()


def write_autoencoders(work: Path, psnr: float) -> None:
    for kind in checks.KINDS:
        names = list(load_schema(work / "dataset").class_names)
        save_checkpoint(checks.codec_path(work, kind), {"kind": kind, "class_names": names})
    write_json(work / "autoencoder_image" / "metrics.json", {"psnr": psnr})
    write_json(work / "autoencoder_label" / "metrics.json", {"mean_dice": 0.95})


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_only_the_cores_that_the_process_may_use_are_counted():
    code = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); "
        "from lldm3d.processes import usable_cores; print(usable_cores())"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "1\n"
