"""Work in processes: results in order, errors as they are, nothing left behind."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from lldm3d import processes
from lldm3d.children import tied_to_me
from lldm3d.errors import UserError

INTERRUPTED = """
import os, sys, time
from lldm3d import processes
from lldm3d.children import raise_on_sigterm
raise_on_sigterm()
processes.usable_cores = lambda: 3
def work(number):
    print(number, flush=True)
    time.sleep(0.5 if len(sys.argv) == 1 else 60)
list(processes.in_processes(work, range(100), "working"))
"""


@pytest.fixture(autouse=True)
def three_cores(monkeypatch):
    monkeypatch.setattr(processes, "usable_cores", lambda: 3)


def late_first(number: int) -> int:
    time.sleep(0.1 if number == 0 else 0)
    return number**2


def fail(number: int) -> int:
    if number == 2:
        raise UserError("scan_2.nii.gz: is broken")
    return number


def test_results_are_in_order():
    assert list(processes.in_processes(late_first, range(10), "working")) == [n**2 for n in range(10)]
    assert list(processes.in_processes(late_first, [], "working")) == []


def test_a_users_mistake_reaches_the_user_as_one():
    with pytest.raises(UserError, match="^scan_2.nii.gz: is broken$"):
        list(processes.in_processes(fail, range(10), "working"))


def test_a_process_that_the_system_ended_is_told_with_the_mend():
    with pytest.raises(UserError, match="ended one of 3 processes.*memory.*taskset"):
        list(processes.in_processes(end_myself, range(10), "working"))


def end_myself(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_command_that_is_ended_does_not_wait_for_what_has_begun():
    command = subprocess.Popen([sys.executable, "-c", INTERRUPTED, "long"], stdout=subprocess.PIPE)
    assert command.stdout.readline()
    command.terminate()
    assert command.wait(timeout=30) == 143


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_command(number):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = subprocess.Popen([sys.executable, "-c", INTERRUPTED], preexec_fn=tied_to_me(signal.SIGINT), **pipes)
    assert command.stdout.readline()
    workers = psutil.Process(command.pid).children()
    command.send_signal(number)
    for worker in workers:
        if number != signal.SIGKILL:  # as Ctrl-C in a terminal, and a cluster, send it
            worker.send_signal(number)
    told = command.communicate(timeout=30)[1].decode()
    assert told.count("Traceback") == (number == signal.SIGINT)
    assert len(workers) == 3 and not psutil.wait_procs(workers, timeout=10)[1]
