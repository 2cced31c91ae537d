"""A generator that may see few labels sees no other ones, whatever lies in the work directory."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from tests.data.raw import save, volumes, write_decathlon
from tests.in_process import do_stages, write_profile, write_run

from lldm3d.codec.latents import LatentDataset
from lldm3d.data.dataset import load_cases
from lldm3d.data.regimes import generator_saw, regime_cases, write_seen
from lldm3d.errors import UserError
from lldm3d.files import read_json, read_yaml, write_json
from lldm3d.methods.registry import load_method
from lldm3d.pairs.generate import source_labels
from lldm3d.pairs.sources import LabelSource
from lldm3d.pipeline.plan import Plan, check_plan, number_of_pairs, pairs_of
from lldm3d.pipeline.run import planned, run
from lldm3d.pipeline.stage import read_plan
from lldm3d.pipeline.stages import all_jobs
from lldm3d.study.tables import saw_text

from .conftest import DRAWN, plan_of

HALF = {"label_fraction": 0.5, "labelled_only": False, "seed": 0}
TAKING = ("lldm", "cond_ldm")  # methods that learn from labels


@pytest.fixture(scope="module")
def poisoned(made_once, tiny_dataset) -> Path:
    """A work directory in which the labels of half of the training patients alone can be read, and what uses them."""

    def make(folder: Path) -> None:
        shutil.copytree(tiny_dataset, folder / "dataset")
        few = [case.name for case in regime_cases(folder / "dataset", None, "0.5R", 0)[0]]
        for case in load_cases(folder / "dataset", "training"):
            if case.name not in few:
                Path(case.label).write_text("nobody labelled this scan")
        write_run(folder, TAKING, ["training"], methods={"n": 4, "label_fraction": 0.5})
        trainings = [f"methods/{name}/seed_0/{step}" for name in TAKING for step in load_method(name).trainings]
        pairs = [f"pairs/{name}/training/seed_0" for name in TAKING]
        do_stages(folder, "seen/seed_0", *trainings, "labels/training/seed_0", *pairs)

    return made_once("poisoned", make)


def labelled_names(dataset: Path) -> list[str]:
    return [case.name for case in load_cases(dataset, "training") if case.label]


def test_trainings_and_warped_labels_open_no_label_of_another_patient(poisoned):
    few = [case.name for case in regime_cases(poisoned / "dataset", None, "0.5R", 0)[0]]
    assert labelled_names(poisoned / "seen/seed_0") == few and len(few) == 2
    warped = {
        path.name.rpartition("_warp")[0] for path in (poisoned / "labels/training/seed_0/labelsTr").glob("*.nii.gz")
    }
    assert warped == set(few)
    for name in TAKING:
        latents = poisoned / f"methods/{name}/seed_0/latents/encoded"
        assert LatentDataset(str(latents), "training", ["image_mean", "label"]).labelled.mean() == 0.5
        assert np.load(latents / "training/image_mean.npy").any((1, 2, 3, 4)).all()  # the images of all
        assert (poisoned / f"methods/{name}/seed_0/{list(load_method(name).trainings)[-1]}/model.pt").is_file()


def test_the_pairs_say_what_their_generator_saw_and_the_command_warps_no_other_labels(poisoned, tmp_path):
    for name in TAKING:
        manifest = read_json(poisoned / f"pairs/{name}/training/seed_0/manifest.json")
        assert manifest["saw"] == HALF | {"labelled_patients": 2, "unlabelled_patients": 2}
        assert {case["patient"] for case in manifest["cases"]} == set(labelled_names(poisoned / "seen/seed_0"))
        drawing = read_yaml(poisoned / f"pairs/{name}/training/seed_0/overrides.yaml", "")
        assert drawing["dataset_dir"] == str(poisoned / "seen/seed_0"), "scans that it may look at"
    models, source = poisoned / "methods/cond_ldm/seed_0", LabelSource("training")
    labels = source_labels(poisoned, load_method("cond_ldm"), models, source, None, tmp_path)
    assert [label.patient for label in labels] == labelled_names(poisoned / "seen/seed_0")


def test_the_few_patients_are_those_of_the_regime_with_the_same_seed(tiny_dataset, tmp_path):
    for seed in (0, 1, 2):
        write_seen(tiny_dataset, tmp_path / "all", 0.25, False, seed)
        write_seen(tiny_dataset, tmp_path / "alone", 0.25, True, seed)
        few = [case.name for case in regime_cases(tiny_dataset, None, "0.25R", seed)[0]]
        assert labelled_names(tmp_path / "all") == labelled_names(tmp_path / "alone") == few
        assert (
            len(load_cases(tmp_path / "all", "training")) == 4 and len(load_cases(tmp_path / "alone", "training")) == 1
        )
        assert load_cases(tmp_path / "alone", "test") == load_cases(tiny_dataset, "test")
    assert generator_saw(tiny_dataset) == {
        **{"label_fraction": 1.0, "labelled_only": False, "labelled_patients": 4, "unlabelled_patients": 0}
    }


def test_only_a_restricted_run_chooses_patients_one_generator_for_each_segmentation(tmp_path):
    everything = plan_of(tmp_path)
    assert not [job for job in all_jobs(everything) if job.stage == "seen"]
    profile = write_profile(tmp_path / "two.yaml", segment={"seeds": [0, 1]})
    plan = plan_of(tmp_path, profile, seen={"label_fraction": 0.1})
    assert plan.seeds == plan.settings["segment"]["seeds"] == [0, 1]
    jobs = {job.name: job for job in all_jobs(plan)}
    for seed in plan.seeds:
        listed = f"seen/seed_{seed}/dataset.json"
        trainings = [name for name in jobs if name.startswith(f"methods/lldm/seed_{seed}/")]
        assert trainings and all(listed in jobs[name].reads for name in trainings)
        assert not any("dataset/dataset.json" in jobs[name].reads for name in trainings)
        assert (
            f"pairs/lldm/drawn/seed_{seed}/dataset.json"
            in jobs[f"segment/steps/seg_resunet/multi/R+S/lldm/seed_{seed}"].reads
        )
    other = {job.name: job.digest for job in all_jobs(plan_of(tmp_path, profile, seen={"label_fraction": 0.2}))}
    assert {name for name in jobs if other[name] != jobs[name].digest} == {"seen/seed_0", "seen/seed_1"}


def test_what_a_generator_may_see_is_remembered_and_can_be_a_setting_of_the_profile(tmp_path):
    data, seen = {"data": str(tmp_path)}, {"label_fraction": 0.1, "labelled_only": True}
    first = planned(tmp_path, "small", data, seen=seen)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(first))
    assert planned(tmp_path, "small", None)["settings"] == first["settings"]
    assert not Plan.of(planned(tmp_path, None, None, seen={"label_fraction": 1, "labelled_only": False})).restricted
    profile = write_profile(tmp_path / "mine.yaml", methods={"label_fraction": 0.25})
    assert plan_of(tmp_path, profile).limits == {"label_fraction": 0.25, "labelled_only": False}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_fraction": 10}, "methods#label_fraction: Input should be less than or equal to 1, got 10"),
        ({"unlabelled": "scans"}, "--unlabelled scans: needs labelled scans beside it; give --data"),
        ({"pseudo_labels": "tests"}, "tests: is no folder of `lldm3d pseudo_label`"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        run(str(tmp_path / "work"), **options)
    assert not (tmp_path / "work").exists()


def test_pairs_of_another_work_directory_are_those_of_the_same_seed(tmp_path):
    folder, plan = tmp_path / "tenth/pairs/lldm/drawn", plan_of(tmp_path)
    for seed in (0, 1):
        (folder / f"seed_{seed}").mkdir(parents=True)
    assert pairs_of(plan, str(folder), 1) == str(folder / "seed_1")
    assert pairs_of(plan, str(folder / "seed_0"), 1) == str(folder / "seed_0")


def write_pseudo_labels(tiny_dataset: Path, folder: Path, saw: dict) -> Path:
    """A folder as `lldm3d pseudo_label` makes it, of all training scans; the labels are the real ones."""
    shutil.copytree(tiny_dataset, folder)
    write_json(folder / "manifest.json", {"lldm3d": "0", "method": "pseudo_label", "saw": saw, "cases": []})
    return folder


def test_methods_see_pseudo_labels_of_the_scans_whose_labels_they_may_not_see(tiny_dataset, tmp_path):
    voted = write_pseudo_labels(tiny_dataset, tmp_path / "voted", HALF)
    write_seen(tiny_dataset, tmp_path / "seen", 0.5, False, 0, pseudo_labels=str(voted))
    few = [case.name for case in regime_cases(tiny_dataset, None, "0.5R", 0)[0]]
    cases = load_cases(tmp_path / "seen", "training")
    assert {case.name for case in cases if Path(case.label).is_relative_to(voted)} == {
        case.name for case in cases if case.name not in few
    }
    assert all(Path(case.label).is_file() for case in cases) and len(few) == 2
    saw = generator_saw(tmp_path / "seen")
    assert saw == HALF | {"labelled_patients": 2, "unlabelled_patients": 0, "pseudo_labelled_patients": 2}
    assert "the images of 2 others with labels by networks that saw no more" in saw_text(saw)


@pytest.mark.parametrize("saw", [{"label_fraction": 1.0, "labelled_only": False}, HALF | {"seed": 1}])
def test_pseudo_labels_by_networks_that_saw_more_are_refused(tiny_dataset, tmp_path, saw):
    voted = write_pseudo_labels(tiny_dataset, tmp_path / "voted", saw)
    with pytest.raises(UserError, match="let networks vote that saw no others"):
        write_seen(tiny_dataset, tmp_path / "seen", 0.5, False, 0, pseudo_labels=str(voted))
    assert not (tmp_path / "seen").exists()


def test_each_seed_of_a_run_takes_its_own_pseudo_labels(tiny_dataset, tmp_path):
    for seed in (0, 1):
        write_pseudo_labels(tiny_dataset, tmp_path / f"voted/seed_{seed}", HALF | {"seed": seed})
    profile = write_profile(tmp_path / "two.yaml", segment={"seeds": [0, 1]})
    seen = {"label_fraction": 0.5, "pseudo_labels": str(tmp_path / "voted")}
    plan = plan_of(tmp_path, profile, seen=seen)
    check_plan(plan)
    reads = {job.values["seed"]: job.reads[1] for job in all_jobs(plan) if job.stage == "seen"}
    assert reads == {seed: str(tmp_path / f"voted/seed_{seed}/dataset.json") for seed in (0, 1)}
    with pytest.raises(UserError, match="--labelled_only leaves out the scans"):
        check_plan(plan_of(tmp_path, profile, seen=seen | {"labelled_only": True}))


def test_a_run_brings_further_scans_without_labels_into_its_data_set(tmp_path):
    data, further, work = write_decathlon(tmp_path / "raw"), tmp_path / "further", tmp_path / "work"
    for number in range(5):
        save(further / f"scan_{number}.nii.gz", volumes(seed=50 + number)[0])
    source = {"data": str(data), "unlabelled": str(further)}
    work.mkdir()
    (work / "run.yaml").write_text(yaml.safe_dump(planned(work, "demo", source, **DRAWN)))
    do_stages(work, "prepare")
    assert len(load_cases(work / "dataset", "training")) == 3 + 5
    assert number_of_pairs(work, Plan.of(read_plan(work))) == 3  # as many as there are labelled cases
    assert generator_saw(work / "dataset")["unlabelled_patients"] == 5
    write_seen(work / "dataset", tmp_path / "alone", 1.0, True, 0)
    assert generator_saw(tmp_path / "alone") == {
        **{"label_fraction": 1.0, "labelled_only": True, "seed": 0, "labelled_patients": 3, "unlabelled_patients": 0}
    }
    with pytest.raises(UserError, match="this work directory was made from .*unlabelled"):
        planned(work, None, {"data": str(data)})
