"""What a run tells of its whole, in its own terminal and in another one."""

import os
import threading
import time
from pathlib import Path

import pytest
import yaml

from lldm3d.errors import UserError
from lldm3d.files import write_json, write_yaml
from lldm3d.locks import RUN_LOCK, holder, locked, stage_lock
from lldm3d.pipeline.cluster import note_limits
from lldm3d.pipeline.plan import Plan
from lldm3d.pipeline.stage import do, stage
from lldm3d.pipeline.stages import Job, all_jobs, find_job
from lldm3d.pipeline.status import status
from lldm3d.pipeline.times import CONFIG, TIMES, in_words, noted, outlook, schedule

LLDM = "methods/lldm/seed_0"


@pytest.fixture
def say(capsys):
    """`say(workdir)` is what `status` prints; the work directory stays as it was."""

    def call(work: Path) -> str:
        before = {path: path.stat().st_mtime_ns for path in work.rglob("*")}
        status(str(work))
        assert {path: path.stat().st_mtime_ns for path in work.rglob("*")} == before
        return capsys.readouterr().out

    return call


def plan_in(work: Path) -> Plan:
    return Plan.of(yaml.safe_load((work / "run.yaml").read_text()))


def undo(work: Path, *names: str) -> None:
    """Let some jobs be undone."""
    for name in names:
        (work / ".done" / f"{name}.json").unlink()


def note(work: Path, name: str, **times: object) -> None:
    write_json(work / TIMES / f"{name}.json", {"goes_on": False, **times})


def test_what_is_done_is_told_with_the_time_that_it_took(done, say):
    note(done, f"{LLDM}/latents", began=1, seconds=150)
    note(done, f"{LLDM}/label_ldm", began=1, seconds=3570)
    said = say(done)
    assert "no run is at work, as all is done; the report is" in said and "14 of 14 stages done in 1 h 2 min\n" in said
    assert any(line.split() == ["train/lldm/latents", "1", "of", "1", "2", "min"] for line in said.splitlines())


def test_a_run_is_seen_from_outside(done, say):
    training = f"{LLDM}/label_ldm"
    undo(done, training, "report")
    note(done, training, began=time.time() - 60)
    write_json(done / training / "progress.json", {"epoch": 3, "epochs": 12, "seconds_left": 540})
    selected = [job.name for job in all_jobs(plan_in(done))]
    write_yaml(done / CONFIG, {"began": time.time() - 600, "selected": selected})
    with locked(done / RUN_LOCK, "it"), locked(stage_lock(done, training), "it"):
        said = say(done)
    assert f"a run is at work since {time.strftime('%Y-%m-%d')}" in said and f"10 min (process {os.getpid()} on" in said
    assert f"runs: {training}, 1 min, epoch 3 of 12 done" in said and "; about 9 min left, and" in said
    assert "left" not in say(done).splitlines()[-1] or "stopped: " in say(done)


def test_a_killed_and_a_failed_stage_are_named(done, say):
    training = f"{LLDM}/label_ldm"
    undo(done, training, "study")
    note(done, training, began=time.time() - 60)
    write_json(done / ".failures/study.json", {"stage": "study", "user": True, "message": "too few scans"})
    said = say(done)
    assert f"stopped: {training}\n" in said and "failed: study: too few scans" in said and "no run is at work" in said


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"run.yaml: cannot be read .*lldm3d run --workdir"):
        status(str(tmp_path))
    assert not list(tmp_path.iterdir())
    (tmp_path / "run.yaml").write_text("format: 2\nmethods: [lldm]\n")
    with pytest.raises(UserError, match="run.yaml: lacks data, settings, sources; restore it"):
        status(str(tmp_path))


def test_a_stage_notes_how_long_it_took_and_whether_it_went_on(done, monkeypatch):
    plan = plan_in(done)
    job = find_job(plan, "study")

    def killed(*_: object) -> None:
        assert holder(stage_lock(done, "study"))
        raise KeyboardInterrupt

    monkeypatch.setattr("lldm3d.pipeline.actions.write_tables_of_study", killed)
    with pytest.raises(KeyboardInterrupt):
        stage(str(done), "study")
    assert "seconds" not in noted(done, job)
    monkeypatch.setattr("lldm3d.pipeline.actions.write_tables_of_study", lambda *_: None)
    do(done, job, plan)
    assert noted(done, job)["goes_on"] and noted(done, job)["seconds"] < 60
    do(done, job, plan)
    assert not noted(done, job)["goes_on"]


def test_others_of_a_kind_and_what_was_measured_tell_what_is_left(done):
    plan = plan_in(done)
    jobs = all_jobs(plan)
    first, *rest = [job for job in jobs if job.stage == "segment"]
    image, label = (find_job(plan, f"{LLDM}/{name}") for name in ("image_ldm", "label_ldm"))
    note(done, first.name, began=1, seconds=100)
    (done / "dataset/dataset.json").write_text("{}")
    note_limits(done, plan, {"train/lldm/image_ldm": 2.0})
    found = outlook(done, plan, jobs, [image, label, *rest])
    assert found.seconds == {image.name: 120, **{job.name: 100 for job in rest}} and found.unknown == ["label_ldm"]
    note(done, first.name, began=1, seconds=1, goes_on=True)  # only the end of it
    assert not outlook(done, plan, jobs, rest).seconds


def test_what_can_be_done_together_is_counted_once():
    jobs = [
        Job("train", "a", (), ("a.pt",), processes=1),
        Job("train", "b", (), ("b.pt",), processes=1),
        Job("train", "c", ("a.pt",), ("c.pt",), processes=1),
        Job("report", "d", ("b.pt", "c.pt"), ("d.html",)),
    ]
    seconds = {"a": 10, "b": 40, "c": 5, "d": 1}
    assert schedule(jobs, seconds, at_once=2) == 41 and schedule(jobs, seconds, at_once=1) == 56
    assert schedule(jobs[:2], seconds, at_once=2) == 40 and schedule([], {}, 1) == 0


def test_the_lock_of_a_run_that_begins_outlasts_a_look(tmp_path):
    import fcntl

    looked = open(tmp_path / "lock", "w")
    fcntl.flock(looked, fcntl.LOCK_SH)
    threading.Timer(0.03, looked.close).start()
    with locked(tmp_path / "lock", "it"):
        assert holder(tmp_path / "lock").startswith(f"{os.getpid()} on")
    assert holder(tmp_path / "lock") is None and holder(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59.4, "59 s"), (150, "2 min"), (3590, "1 h 0 min"), (7500, "2 h 5 min"), (3e5, "3 days 11 h")],
)
def test_a_time_in_words(seconds, words):
    assert in_words(seconds) == words


def test_the_advice_can_be_copied_where_a_folder_has_a_space_in_its_name(done, say):
    undo(done, "study")
    spaced = done.rename(done.parent / "two words")
    assert f"`lldm3d run --workdir '{spaced}'` goes on with what is left" in say(spaced)
