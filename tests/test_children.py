import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lldm3d import children
from lldm3d.children import quoted, run_logged
from lldm3d.errors import ChildError, UserError

CHILD = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
PARENT = f"""
import sys
from pathlib import Path
from lldm3d.children import raise_on_sigterm, run_logged
raise_on_sigterm()
run_logged([sys.executable, "-c", {CHILD!r}], Path(sys.argv[1]), Path(sys.argv[1]) / "log.txt", {{}})
"""


def run_python(code: str, folder: Path) -> str:
    run_logged([sys.executable, "-c", code], folder, folder / "log.txt", {})
    return (folder / "log.txt").read_text()


def test_log_holds_the_command_and_the_output_without_what_was_drawn_over(tmp_path):
    log = run_python(r"print('a\rb\rlast\nnext'); print('end', end='')", tmp_path)
    assert log.startswith(f"$ cd {tmp_path} && ")
    assert log.endswith("\nlast\nnext\nend")


def test_freed_memory_is_kept_unless_the_user_has_set_it(tmp_path, monkeypatch):
    code = "import os; print(os.environ['MALLOC_TRIM_THRESHOLD_'])"
    assert run_python(code, tmp_path).endswith(f"\n{2**30}\n")
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert run_python(code, tmp_path).endswith("\n131072\n")


def test_a_failed_child_shows_its_last_lines_and_the_path_of_the_log(tmp_path):
    with pytest.raises(ChildError, match=f"(?s){tmp_path}/log.txt.*status 3.*the reason"):
        run_python("print('the reason'); raise SystemExit(3)", tmp_path)


def test_of_a_traceback_only_the_exceptions_are_shown_cause_first(tmp_path):
    with pytest.raises(ChildError) as error:
        run_python("try:\n  1 / 0\nexcept ArithmeticError as e:\n  raise ValueError('wrapped') from e", tmp_path)
    assert str(error.value).splitlines()[1:] == ["ZeroDivisionError: division by zero", "ValueError: wrapped"]


MISTAKE = """
from lldm3d.errors import UserError
print('begun')
try:
    raise UserError('give another start')
except UserError as error:
    raise RuntimeError('wrapped\\n by MONAI') from error
"""


def test_of_a_users_mistake_the_terminal_shows_no_traceback(tmp_path, capfdbinary):
    with pytest.raises(UserError, match="^give another start$"):
        run_python(MISTAKE, tmp_path)
    printed = capfdbinary.readouterr().out
    assert printed.endswith(b"begun\n") and b"Traceback" in (tmp_path / "log.txt").read_bytes()


def test_other_tracebacks_are_shown_and_soon(tmp_path, capfdbinary, monkeypatch):
    monkeypatch.setattr(children, "PATIENCE", 0.2)
    code = "import time, traceback\ntry:\n  1 / 0\nexcept ArithmeticError:\n  traceback.print_exc()\n"
    run_python(f"{code}time.sleep(0.6)\nprint('goes on')", tmp_path)
    printed = capfdbinary.readouterr().out
    assert printed.endswith(b"ZeroDivisionError: division by zero\ngoes on\n")
    with pytest.raises(ChildError):
        run_python("1 / 0", tmp_path)
    assert b"Traceback" in capfdbinary.readouterr().out


def test_the_logged_command_runs_in_a_shell():
    words = ["['a.yaml', '/b c/d.yaml']", "$x", "plain", 'a"b']
    shell = f"printf '%s\\n' {' '.join(map(quoted, words))}"
    assert subprocess.run(shell, shell=True, capture_output=True, text=True).stdout.splitlines() == words


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_child_ends_with_its_parent(tmp_path, number):
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    # what starts the tests in the background may have them ignore interrupts, and children inherit that
    heed = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **heed)
    parent.stdout.readline()  # the command
    child = int(parent.stdout.readline())
    os.kill(parent.pid, number)
    assert parent.wait(timeout=10) != 0
    assert ends(child)


def test_a_child_whose_parent_died_while_it_was_starting_ends_at_once():
    code = "import os; from lldm3d.children import end_with_parent; end_with_parent(15, {}); print('at work')"
    for parent, printed in (("os.getppid()", "at work\n"), ("1", "")):
        child = subprocess.run([sys.executable, "-c", code.format(parent)], capture_output=True, text=True)
        assert child.stdout == printed and child.stderr == ""


def ends(pid: int, patience: float = 10) -> bool:
    """Whether the process is gone, or a zombie that nobody waits for, within `patience` seconds."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().split()[2] == "Z":
            return True
        time.sleep(0.1)
    return False
