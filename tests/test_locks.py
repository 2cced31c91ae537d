import errno
import os
import signal
import socket
import subprocess
import sys

import pytest

from lldm3d.errors import UserError
from lldm3d.locks import free_gpus, locked

HOLD = """
import sys, time
from pathlib import Path
from lldm3d.locks import locked
with locked(Path(sys.argv[1]), "it"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_the_second_holder_is_refused_and_told_the_first_one(tmp_path, holder):
    with pytest.raises(UserError, match=f"the work directory is in use by process {holder.pid}"):
        with locked(tmp_path / "lock", "the work directory"):
            pass


def test_death_of_the_holder_releases_the_lock(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with locked(tmp_path / "lock", "the work directory"):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()} on {socket.gethostname()}"


def test_stages_of_one_machine_take_different_gpus_and_those_of_another_have_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr("lldm3d.locks.visible_gpus", lambda: ["0", "1"])
    with free_gpus(tmp_path) as first, free_gpus(tmp_path) as second:
        assert [first, second] == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]
        monkeypatch.setattr("socket.gethostname", lambda: "another")
        with free_gpus(tmp_path) as third:
            assert third == first


def test_a_stage_of_several_processes_takes_as_many_gpus_as_are_free(tmp_path, monkeypatch):
    monkeypatch.setattr("lldm3d.locks.visible_gpus", lambda: ["0", "1", "2"])
    with free_gpus(tmp_path) as one, free_gpus(tmp_path, 2) as two:
        assert [one, two] == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1,2"}]


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def flock(file, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(UserError, match=f"{tmp_path}/lock: this file system gives no locks.*--workdir"):
        with locked(tmp_path / "lock", "it"):
            pass
