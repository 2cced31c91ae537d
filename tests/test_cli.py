import importlib
import inspect
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from lldm3d import cli
from lldm3d.commands import chain


def lldm3d(*arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PAGER": "cat"}
    command = [sys.executable, "-m", "lldm3d", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)


def test_help_is_quick_as_heavy_modules_wait():
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    result = lldm3d("--help")
    assert result.returncode == 0
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 1  # s of computing; import torch takes 2
    for command in cli.COMMANDS:
        assert command.__name__ in result.stdout + result.stderr


def test_a_users_mistake_is_one_message_and_status_2(tmp_path):
    result = lldm3d("stage", "--workdir", str(tmp_path), "prepare")
    assert result.returncode == 2
    assert result.stderr.startswith(f"lldm3d: error: {tmp_path}/run.yaml") and "Traceback" not in result.stderr


def test_an_unknown_command_and_an_unknown_flag_end_with_status_2():
    assert lldm3d("fly").returncode == 2
    assert lldm3d("check", "/nowhere", "--fast").returncode == 2


def test_an_unknown_flag_is_noticed_before_the_command_runs(monkeypatch):
    calls = []
    monkeypatch.setattr(cli, "COMMANDS", (recorded(calls),))
    monkeypatch.setattr(sys, "argv", ["lldm3d", "command", "--size", "1,2,3", "--fast"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2 and not calls


def test_sizes_arrive_as_tuples(monkeypatch):
    calls = []
    monkeypatch.setattr(cli, "COMMANDS", (recorded(calls),))
    monkeypatch.setattr(sys, "argv", ["lldm3d", "command", "--size", "160,160,64"])
    cli.main()
    assert calls == [(160, 160, 64)]


def test_a_folder_may_be_named_like_a_number(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = subprocess.run([sys.executable, "-m", "lldm3d", "check", "2024"], capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.startswith("lldm3d: error: 2024:")


def test_a_label_map_may_stand_on_the_command_line(monkeypatch):
    seen = {}
    monkeypatch.setattr(chain, "call", lambda module, function, arguments: seen.update(arguments))
    monkeypatch.setattr(
        sys, "argv", ["lldm3d", "run", "--workdir", "w", "--data", "d", "--label_map", "{whole: [1, 2]}"]
    )
    cli.main()
    assert seen["data"] == {"data": str(Path("d").resolve()), "label_map": {"whole": [1, 2]}}


def test_an_interrupt_ends_with_status_130(monkeypatch):
    def command():
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "COMMANDS", (command,))
    monkeypatch.setattr(sys, "argv", ["lldm3d", "command"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 130


def recorded(calls: list):
    def command(size):
        calls.append(size)

    return command


@pytest.mark.parametrize(
    ("command", "module", "function"),
    [
        (cli.phantom, "lldm3d.phantom.write", "write"),
        (cli.prepare, "lldm3d.data.prepare", "prepare"),
        (cli.encode, "lldm3d.codec.latents", "encode"),
        (cli.generate, "lldm3d.pairs.generate", "generate"),
        (cli.evaluate, "lldm3d.evaluation.evaluate", "evaluate"),
        (cli.report, "lldm3d.report.write", "report"),
        (cli.pack, "lldm3d.export.package", "pack"),
        (cli.export, "lldm3d.export.write", "export"),
    ],
)
def test_a_command_offers_what_its_module_takes_with_the_same_defaults(command, module, function):
    ours, theirs = (inspect.signature(item).parameters for item in (command, load(module, function)))
    assert list(ours) == list(theirs), f"make the parameters of cli.{command.__name__} those of {module}.{function}"
    for name, parameter in theirs.items():
        assert parameter.default in (ours[name].default, inspect.Parameter.empty), name


def load(module: str, function: str):
    return getattr(importlib.import_module(module), function)
