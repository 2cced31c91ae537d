import importlib
import inspect
import os
import subprocess
import sys
import time

import pytest

from lldm3d import cli


def lldm3d(*arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PAGER": "cat"}
    command = [sys.executable, "-m", "lldm3d", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)


def test_help_is_quick_as_heavy_modules_wait():
    start = time.monotonic()
    result = lldm3d("--help")
    assert result.returncode == 0 and time.monotonic() - start < 2  # 0.15 s on an idle machine
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
        (cli.phantom, "lldm3d.phantom", "write"),
        (cli.prepare, "lldm3d.data.prepare", "prepare"),
        (cli.encode, "lldm3d.latents", "encode"),
        (cli.generate, "lldm3d.generate", "generate"),
        (cli.evaluate, "lldm3d.evaluation", "evaluate"),
        (cli.report, "lldm3d.report", "report"),
    ],
)
def test_a_command_offers_what_its_module_takes_with_the_same_defaults(command, module, function):
    target = getattr(importlib.import_module(module), function)
    assert defaults(command) == defaults(target), f"make the parameters of cli.{command.__name__} those of {module}"


def defaults(function) -> dict:
    return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}
