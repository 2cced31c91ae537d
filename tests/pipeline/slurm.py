"""A real Slurm of one node on this machine, without accounting: munged, slurmctld and slurmd on loopback."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from lldm3d.children import stop, tied_to_me

DAEMONS = ("munged", "slurmctld", "slurmd")
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
ReturnToService=2
MpiDefault=none
KillWait=5
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=4000 Gres=gpu:1 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """The daemons that are not installed; Debian has them outside a user's PATH."""
    return [name for name in DAEMONS if not program(name)]


def program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


@contextmanager
def one_node() -> Iterator[dict[str, str]]:
    """Start Slurm with one pretended GPU, and yield the environment that its commands need.

    Its folder is a short one, as the path of a socket has at most 107 characters.
    """
    with (
        TemporaryDirectory(prefix="slurm") as name,
        ExitStack() as started,
    ):
        folder, user, host = Path(name), pwd.getpwuid(os.getuid()).pw_name, socket.gethostname().split(".")[0]
        ports = {"controller_port": free_port(), "node_port": free_port()}
        folder.chmod(0o711)  # munged refuses a socket that not all users reach
        text = CONF.format(folder=folder, user=user, host=host, cpus=os.cpu_count(), **ports)
        (folder / "slurm.conf").write_text(text)
        (folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")
        (folder / "state").mkdir()
        (folder / "key").write_bytes(os.urandom(128))
        (folder / "key").chmod(0o600)
        environment = commands(folder)
        paths = [f"--{key}={folder / file}" for key, file in MUNGE.items()]
        daemon(started, folder, environment, "munged", "--foreground", *paths)
        wait_for(folder, (folder / "munge.socket").exists)
        daemon(started, folder, environment, "slurmctld", "-D")
        daemon(started, folder, environment, "slurmd", "-D")
        wait_for(folder, lambda: slurm(environment, "sinfo", "--noheader", "--format", "%T").stdout.strip() == "idle")
        started.callback(slurm, environment, "scancel", "--user", user, "--signal", "KILL", "--full")
        yield environment


MUNGE = {
    "socket": "munge.socket",
    "key-file": "key",
    "pid-file": "munged.pid",
    "log-file": "munged.log",
    "seed-file": "munged.seed",
}


def commands(folder: Path) -> dict[str, str]:
    """The environment in which Slurm's commands find this Slurm.

    Snakemake's plugin takes SLURM_CONF from the environment of `srun` in a job, so a `srun` that knows it comes first.
    """
    conf, srun = folder / "slurm.conf", folder / "srun"
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={conf} exec {program("srun")} "$@"\n')
    srun.chmod(0o755)
    return {"SLURM_CONF": str(conf), "PATH": f"{folder}:{os.environ['PATH']}"}


def daemon(started: ExitStack, folder: Path, environment: dict[str, str], name: str, *arguments: str) -> None:
    """Start a daemon in the foreground, which ends with `started` or with this process."""
    with open(folder / f"{name}.out", "wb") as log:
        process = subprocess.Popen(
            [program(name), *arguments],
            env=os.environ | environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # an interrupt of the tests must not end it before the jobs are cancelled
            preexec_fn=tied_to_me(signal.SIGKILL),
        )
    started.callback(stop, process)


def slurm(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess:
    """Run a command of Slurm."""
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)


def wait_for(folder: Path, condition, patience: float = 30) -> None:
    """Wait until `condition` holds; raises RuntimeError with what the daemons wrote."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            said = "\n".join(f"{log.name}: {log.read_text()[-2000:]}" for log in folder.glob("*.out"))
            raise RuntimeError(f"Slurm did not start within {patience} s: {said}")
        time.sleep(0.2)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
