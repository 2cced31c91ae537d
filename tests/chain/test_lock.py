import os
import signal
import socket
import subprocess
import sys

import pytest

from lldm3d.chain.lock import locked
from lldm3d.errors import UserError

HOLD = """
import sys, time
from pathlib import Path
from lldm3d.chain.lock import locked
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
