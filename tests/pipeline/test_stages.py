"""The jobs of a run follow from its plan: their names, their order, what they read, and what makes them run again."""

import numpy as np
import pytest
from tests.in_process import write_profile

from lldm3d.errors import UserError
from lldm3d.files import save_nifti, write_json
from lldm3d.pairs.sources import folder_name
from lldm3d.pipeline.plan import Plan, check_plan, require_takers
from lldm3d.pipeline.run import planned
from lldm3d.pipeline.stages import STAGES, all_jobs, find_job, rule_name, selected_jobs
from lldm3d.pipeline.training import paced

from .conftest import plan_of

LLDM = "methods/lldm/seed_0"
TRAININGS = ["autoencoder_image", "autoencoder_label", "latents", "label_ldm", "image_ldm", "controlnet"]
R, RS = ([f"segment/steps/seg_resunet/multi/{regime}/seed_0"] for regime in ("R/real", "R+S/lldm"))
DRAWN = "pairs/lldm/drawn/seed_0"
AFTER_PAIRS = [*RS, "evaluation/lldm/drawn/seed_0", "study", "comparison", "report"]


def names(plan: Plan, **options) -> list[str]:
    return [job.name for job in selected_jobs(plan, **options)]


def changed(before: Plan, after: Plan) -> list[str]:
    """The jobs of `after` that a run does again: new or of other settings, or reading what such a job writes."""
    known, stale, written = {job.name: job.digest for job in all_jobs(before)}, [], set()
    for job in all_jobs(after):
        if known.get(job.name) != job.digest or written & set(job.reads):
            stale.append(job.name)
            written |= set(job.writes)
    return stale


def test_a_run_without_data_is_every_stage_of_one_method_in_order(tmp_path):
    trainings = [f"{LLDM}/{training}" for training in TRAININGS]
    assert names(plan_of(tmp_path, data=False)) == ["phantom", "prepare", *trainings, *R, DRAWN, *AFTER_PAIRS]


def test_each_job_reads_only_what_earlier_ones_write(tmp_path):
    profile = write_profile(tmp_path / "two.yaml", methods={"seeds": [0, 1]}, segment={"regimes": ["R", "S", "S>0.1R"]})
    options = {"methods": ["lldm", "cond_ldm", "ddpm"], "sources": ["drawn", "training", "test"]}
    options["seen"] = {"label_fraction": 0.5}
    plan, written = plan_of(tmp_path, profile, data=False, **options), set()
    for job in all_jobs(plan):
        assert set(job.reads) <= written, job.name
        assert not written & set(job.writes), f"{job.name} writes what another job wrote"
        written |= set(job.writes)
    assert len({rule_name(job.name) for job in all_jobs(plan)}) == len(all_jobs(plan))
    assert {job.stage for job in all_jobs(plan)} == {stage.name for stage in STAGES}


def test_each_source_reads_only_what_it_needs(tmp_path):
    plan = plan_of(tmp_path, methods=["lldm", "ddpm"], sources=["both", "reconstructed", "unwarped"])
    reads = {job.name.split("/")[2]: job.reads for job in all_jobs(plan) if job.name.startswith("pairs/lldm/")}
    assert list(reads) == ["reconstructed", "unwarped", "training", "drawn", "both"]
    assert reads["reconstructed"] == ("dataset/dataset.json", f"{LLDM}/autoencoder_image/finished.json")
    assert reads["both"] == ("pairs/lldm/training/seed_0/dataset.json", f"{DRAWN}/dataset.json")
    assert f"{LLDM}/controlnet/finished.json" in reads["unwarped"]
    assert [name for name in names(plan) if name.startswith("pairs/ddpm/")] == ["pairs/ddpm/drawn/seed_0"]


def test_other_settings_of_drawing_leave_reconstructed_pairs_as_they_are(tmp_path):
    profile = write_profile(tmp_path / "mine.yaml", methods={"lldm": {"inference": {"guidance_scale": 2}}})
    before, after = (plan_of(tmp_path, of, sources=["unwarped", "reconstructed"]) for of in ("demo", profile))
    stale = [name for name in changed(before, after) if name.startswith("pairs/")]
    assert stale == ["pairs/lldm/unwarped/seed_0"]


def test_a_ladder_is_r_and_s_of_each_rung_at_equal_steps_and_to_convergence(tmp_path):
    plan = plan_of(tmp_path, methods=["lldm", "cond_ldm", "ddpm"], ladder=True)
    check_plan(plan)
    assert plan.sources == ("drawn", "reconstructed", "unwarped", "training"), "the report shows the drawn ones first"
    rungs = ["reconstructed", "unwarped", "training"]
    ours, theirs = ([*(f"{name}-{rung}" for rung in rungs), name] for name in ("lldm", "cond_ldm"))
    found = [name.split("/") for name in names(plan) if name.startswith("segment/") and name.endswith("seed_0")]
    for until in ("steps", "convergence"):
        arms = [(parts[4], parts[5]) for parts in found if parts[1] == until]
        assert arms == [("R", "real"), *(("S", pairs) for pairs in [*ours, *theirs])]


def test_a_ladder_keeps_the_axes_that_are_given(tmp_path):
    plan = plan_of(tmp_path, ladder=True, grid={"until": ["steps"], "pairs": ["lldm/both"]})
    assert plan.settings["segment"]["until"] == ["steps"] and plan.pairs == {"lldm/both": "lldm-both"}
    assert plan.sources == ("drawn", "both") and "labels/training/seed_0" in names(plan)


def test_regimes_that_are_given_stand_beside_those_of_the_ladder(tmp_path):
    plan = plan_of(tmp_path, ladder=True, grid={"regimes": ["R", "R+S"]})
    assert plan.settings["segment"]["regimes"] == ["R", "S", "R+S"]


def test_a_source_that_no_method_of_the_run_has_is_refused(tmp_path, capsys):
    plan = plan_of(tmp_path, methods=["haar_ldm", "ddpm"])
    require_takers(plan, ["training", "pseudo_labelled"])
    assert capsys.readouterr().out == ""
    require_takers(plan, ["training"])
    assert "ddpm has no pairs of the source training; it takes drawn" in capsys.readouterr().out
    with pytest.raises(UserError, match="--sources pseudo_labelled: no method of this run .*haar_ldm has drawn, "):
        require_takers(plan_of(tmp_path, methods=["haar_ldm"]), ["pseudo_labelled"])


def test_several_methods_share_data_labels_and_tables(tmp_path):
    plan = plan_of(tmp_path, methods=["lldm", "cond_ldm", "ddpm"], sources=["drawn", "training"])
    found = names(plan)
    assert [name for name in found if name.startswith("pairs/")] == [
        DRAWN,
        "pairs/lldm/training/seed_0",
        "pairs/cond_ldm/drawn/seed_0",
        "pairs/cond_ldm/training/seed_0",
        "pairs/ddpm/drawn/seed_0",
    ]
    assert found.count("labels/training/seed_0") == found.count("comparison") == 1
    assert f"{DRAWN}/dataset.json" in find_job(plan, "pairs/cond_ldm/drawn/seed_0").reads, "on the labels of lldm"
    segments = [name for name in found if name.startswith("segment/") and name.endswith("seed_0")]
    assert [name.split("/")[4:6] for name in segments] == [["R", "real"], ["R+S", "lldm"], ["R+S", "cond_ldm"]]


def test_until_is_a_stage_a_training_or_one_job_with_all_that_it_needs(tmp_path):
    plan = plan_of(tmp_path)
    assert names(plan, until="latents") == ["prepare", *(f"{LLDM}/{name}" for name in TRAININGS[:3])]
    assert names(plan, until=f"{LLDM}/autoencoder_label") == ["prepare", f"{LLDM}/autoencoder_label"]
    assert names(plan, until="segment")[-3:] == [*R, DRAWN, *RS]
    assert names(plan, until="pairs")[-1] == DRAWN


def test_an_unknown_stage_is_answered_with_the_nearest_name(tmp_path):
    with pytest.raises(UserError, match="'latent'.*did you mean latents?.*controlnet"):
        names(plan_of(tmp_path), until="latent")
    with pytest.raises(UserError, match="no stage 'pairs/lldm/drawn' here: did you mean pairs/lldm/drawn/seed_0"):
        find_job(plan_of(tmp_path), "pairs/lldm/drawn")


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({}, []),
        ({"methods": {"lldm": {"controlnet": {"learning_rate": 1e-4}}}}, [f"{LLDM}/controlnet", DRAWN, *AFTER_PAIRS]),
        ({"methods": {"lldm": {"autoencoder_label": {"gate": {"mean_dice": 0}, "processes": 2}}}}, []),
        ({"methods": {"lldm": {"inference": {"guidance_scale": 2}}}}, [DRAWN, *AFTER_PAIRS]),
        ({"segment": {"seeds": [0, 1]}}, [R[0][:-1] + "1", RS[0][:-1] + "1", "study", "comparison", "report"]),
        ({"evaluate": {"radiomics": False}}, ["evaluation/lldm/drawn/seed_0", "comparison", "report"]),
        ({"methods": {"minutes": 7}}, []),  # of each of several methods; here is one
        ({"cluster": {"all": {"runtime": 5}}}, []),
    ],
)
def test_a_changed_section_makes_its_jobs_run_again_and_what_depends_on_them(tmp_path, sections, expected):
    profile = write_profile(tmp_path / "mine.yaml", **sections)
    assert changed(plan_of(tmp_path), plan_of(tmp_path, profile)) == expected


def test_patience_makes_only_trainings_until_convergence_run_again(tmp_path):
    def plan(patience: int) -> Plan:
        segment = {"until": ["steps", "convergence"], "patience": patience}
        profile = write_profile(tmp_path / "mine.yaml", segment=segment)
        return plan_of(tmp_path, profile)

    stale = [name for name in changed(plan(5), plan(6)) if name.startswith("segment/")]
    assert len(stale) == 2 and all(name.startswith("segment/convergence/") for name in stale)


def test_a_new_budget_of_several_methods_trains_them_anew(tmp_path):
    def plan(minutes: float) -> Plan:
        profile = write_profile(tmp_path / "mine.yaml", methods={"minutes": minutes})
        return plan_of(tmp_path, profile, methods=["lldm", "ddpm"])

    stale = changed(plan(1), plan(2))
    assert f"{LLDM}/autoencoder_image" in stale and "methods/ddpm/seed_0/diffusion" in stale


def test_a_method_that_takes_labels_needs_one_that_draws_them_or_another_source(tmp_path):
    with pytest.raises(UserError, match="cond_ldm draws images on labels that lldm draws; add lldm, or .*training"):
        check_plan(plan_of(tmp_path, methods=["cond_ldm"]))
    plan = plan_of(tmp_path, methods=["cond_ldm"], sources=["training"])
    check_plan(plan)
    assert plan.pairs == {"cond_ldm/training": "cond_ldm-training"}, "a segmentation learns from what is drawn"


def test_any_method_that_draws_labels_draws_them_for_the_others(tmp_path):
    plan = plan_of(tmp_path, methods=["haar_ldm", "cond_ldm"])
    check_plan(plan)
    reads = find_job(plan, "pairs/cond_ldm/drawn/seed_0").reads
    assert "pairs/haar_ldm/drawn/seed_0/dataset.json" in reads
    reads = find_job(plan_of(tmp_path, methods=["haar_ldm", "cond_ldm", "lldm"]), "pairs/cond_ldm/drawn/seed_0").reads
    assert f"{DRAWN}/dataset.json" in reads, "ours, where it is trained"


def test_what_draws_labels_is_trained_only_where_some_are_drawn(tmp_path):
    def trained(*sources):
        jobs = all_jobs(plan_of(tmp_path, methods=["haar_ldm"], sources=sources))
        return [job.values["training"] for job in jobs if job.stage == "train"]

    assert trained("training", "test") == ["autoencoder_image", "autoencoder_label", "latents", "diffusion"]
    assert "label_ldm" in trained("drawn") and "label_ldm" in trained("training", "drawn")
    plan = plan_of(tmp_path, methods=["haar_ldm"], sources=["training", "drawn"])
    reads = find_job(plan, "pairs/haar_ldm/training/seed_0").reads
    assert not [name for name in reads if "label_ldm" in name], "drawn labels change no pairs of given ones"


def test_a_profile_may_name_the_methods_and_sources_of_a_run(tmp_path):
    profile = write_profile(tmp_path / "mine.yaml", methods={"names": ["haar_ldm"], "sources": ["training", "drawn"]})
    plan = plan_of(tmp_path, profile, methods=None, sources=None)
    assert plan.methods == ("haar_ldm",) and plan.sources == ("training", "drawn")
    assert plan_of(tmp_path, profile, methods=["lldm"]).methods == ("lldm",)


def test_pairs_that_no_method_of_the_run_draws_and_those_of_test_labels_are_refused(tmp_path):
    profile = write_profile(tmp_path / "mine.yaml", segment={"pairs": ["lldm/training"]})
    with pytest.raises(UserError, match="segment#pairs: lldm/training is drawn by no method and source of this run"):
        check_plan(plan_of(tmp_path, profile))
    profile = write_profile(tmp_path / "mine.yaml", segment={"pairs": ["lldm/test"]})
    with pytest.raises(UserError, match="lldm/test shows the labels of test cases; a segmentation must not learn them"):
        check_plan(plan_of(tmp_path, profile, sources=["drawn", "test"]))


def test_more_pairs_than_there_are_real_labels_are_refused_before_anything_runs(tmp_path):
    profile = write_profile(tmp_path / "mine.yaml", segment={"regimes": ["R", "R+2S"], "pairs": ["lldm/unwarped"]})
    with pytest.raises(UserError, match="lldm/unwarped has one pair for each training case, but .* R, R.2S"):
        check_plan(plan_of(tmp_path, profile, sources=["unwarped"]))


def test_methods_without_labels_are_compared_by_themselves(tmp_path):
    plan = plan_of(tmp_path, methods=["ddpm", "ha_gan"])
    check_plan(plan)
    assert {name.split("/")[4] for name in names(plan) if name.startswith("segment/")} == {"R"}


@pytest.mark.parametrize("source", ["refined", "left_out"])
def test_pairs_that_networks_vote_on_wait_for_them_and_are_what_segmentations_learn_from(source, tmp_path):
    profile = write_profile(tmp_path / "two.yaml", segment={"seeds": [0, 1]})
    plan = plan_of(tmp_path, profile, sources=[source])
    assert plan.sources == (source,) and list(plan.pairs) == [f"lldm/{source}"]
    folder = f"pairs/lldm/{source}/seed_0"
    votes = [f"segment/steps/seg_resunet/multi/R/real/seed_{seed}/metrics.csv" for seed in (0, 1)]
    assert find_job(plan, folder).reads == ("pairs/lldm/training/seed_0/dataset.json", *votes)
    second = find_job(plan, f"segment/steps/seg_resunet/multi/R+S/lldm-{source}/seed_1")
    assert f"{folder}/dataset.json" in second.reads
    assert [name for name in names(plan) if name.startswith("evaluation/")] == ["evaluation/lldm/training/seed_0"]
    check_plan(plan)


def test_a_control_of_warped_real_scans_stands_beside_the_pairs_of_the_methods(tmp_path):
    plan = plan_of(tmp_path, "small", sources=["training"])
    assert list(plan.pairs) == ["lldm/training", "warped"]
    arm = find_job(plan, "segment/steps/seg_resunet/multi/4xR+4S/warped/seed_1")
    assert "labels/training/seed_0/dataset.json" in arm.reads
    assert "labels/training/seed_0/dataset.json" in find_job(plan, "labels/training/seed_0").writes
    check_plan(plan)
    drawn = plan_of(tmp_path, sources=["drawn"], grid={"pairs": ["lldm", "warped"]})
    assert "labels/training/seed_0" in names(drawn), "also where no image is drawn for them"
    check_plan(drawn)
    assert list(plan_of(tmp_path, "small", grid={"pairs": ["lldm"]}).pairs) == ["lldm"]


def test_images_without_labels_are_judged_by_the_dice_that_they_bring_with_labels_that_networks_see(tmp_path):
    profile = write_profile(tmp_path / "two.yaml", segment={"seeds": [0, 1]})
    plan = plan_of(tmp_path, profile, methods=["lldm", "ddpm"], sources=["training", "pseudo_labelled"])
    assert list(plan.pairs) == ["lldm/training", "ddpm/pseudo_labelled"]
    drawn, folder = "pairs/ddpm/drawn/seed_0", "pairs/ddpm/pseudo_labelled/seed_0"
    found = names(plan)
    made = [name for name in found if name.startswith("pairs/")]
    assert made == ["pairs/lldm/training/seed_0", drawn, folder], "lldm draws no labels for it"
    votes = [f"segment/steps/seg_resunet/multi/R/real/seed_{seed}/metrics.csv" for seed in (0, 1)]
    assert find_job(plan, folder).reads == (f"{drawn}/dataset.json", *votes)
    assert "segment/steps/seg_resunet/multi/R+S/ddpm-pseudo_labelled/seed_1" in found
    evaluated = {name.removeprefix("evaluation/") for name in found if name.startswith("evaluation/")}
    assert evaluated == {"lldm/training/seed_0", "ddpm/drawn/seed_0"}
    check_plan(plan)
    with pytest.raises(UserError, match="segmentations in regime R or more have to vote"):
        check_plan(plan_of(tmp_path, methods=["ddpm"], sources=["pseudo_labelled"]))


def test_labels_are_mended_by_two_networks_or_more_and_by_none_that_sees_more_than_the_methods(tmp_path):
    with pytest.raises(UserError, match="--sources refined: 2 segmentations in regime R or more have to vote"):
        check_plan(plan_of(tmp_path, sources=["refined"]))
    profile = write_profile(tmp_path / "two.yaml", segment={"seeds": [0, 1]})
    with pytest.raises(UserError, match="--sources refined: its networks see all labels"):
        check_plan(plan_of(tmp_path, profile, sources=["refined"], seen={"label_fraction": 0.1}))
    with pytest.raises(UserError, match="--sources left_out: .* `lldm3d refine --regime 0.1R --contradicted left_out`"):
        check_plan(plan_of(tmp_path, profile, sources=["left_out"], seen={"label_fraction": 0.1}))
    with pytest.raises(UserError, match="take --sources drawn, then `lldm3d pseudo_label --regime 0.1R` on these"):
        check_plan(plan_of(tmp_path, profile, sources=["pseudo_labelled"], seen={"label_fraction": 0.1}))


def test_what_an_input_holds_is_part_of_what_is_made_from_it(tmp_path):
    label, names = tmp_path / "labels/one.nii.gz", tmp_path / "map.yaml"

    def digests(value: int, lesion: str) -> dict[str, str]:
        names.write_text(f"classes: {{liver: {value}}}\n")
        save_nifti(label, np.full((2, 2, 2), value, np.uint8), np.eye(4))
        profile = write_profile(tmp_path / "mine.yaml", methods={"lesion": lesion})
        source, given = {"data": str(tmp_path), "label_map": str(names)}, {"sources": [str(label.parent)]}
        plan = Plan.of(planned(tmp_path / "none", str(profile), source, methods=["lefusion"]))
        drawn = find_job(plan_of(tmp_path, **given), f"pairs/lldm/{folder_name(label.parent)}/seed_0")
        jobs = [find_job(plan, "prepare"), find_job(plan, "methods/lefusion/seed_0/texture"), drawn]
        return {job.name: job.digest for job in jobs}

    first, same, other = digests(1, "HCC"), digests(1, "HCC"), digests(2, "cyst")
    assert first == same and not set(first.values()) & set(other.values())


def test_a_training_by_minutes_takes_the_fastest_pace_of_its_pilot(tmp_path):
    def run(overrides: dict, folder) -> None:
        assert overrides["epochs"] * overrides["epoch_length"] == 32 < overrides["val_interval"] * 8
        write_json(folder / "metrics.json", {"seconds": [30, 46, 50, 62]})  # other work beside the first and the third

    assert paced(tmp_path, 2, 4, run, "settings") == {"epochs": 4, "epoch_length": 60}  # 240 steps of half a second
    assert paced(tmp_path, 2, 4, lambda *_: pytest.fail("measured twice"), "settings")["epoch_length"] == 60
