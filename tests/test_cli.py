import inspect
import json
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lldm3d import __version__, cli
from lldm3d.errors import ChildError, Refused, UserError


@pytest.fixture
def lldm3d(monkeypatch, capsys):
    """Give the command line words; exit status, stdout and stderr come back."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lldm3d", *map(str, words)])
        try:
            cli.main()
            status = 0
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def command(monkeypatch):
    """Make a function the command `try`."""

    def offer(function) -> None:
        monkeypatch.setitem(cli.COMMANDS, "try", ("nowhere:function", "only tries"))
        monkeypatch.setattr(cli, "function_of", lambda name: function)

    return offer


def scan(
    folder: str | Path,
    size: tuple[int, int, int] = (1, 1, 1),
    names: tuple[str, ...] = (),
    label_map: str | dict | None = None,
    limit: int | None = None,
    share: float = 0.5,
    fast: bool = False,
):
    """Scan a folder.

    Args:
        folder: of the scans, as `2024`.
        size: voxels.
        names: of it.
        label_map: file.
        limit: of cases.
        share: of them.
        fast: or slow.
    """
    print(json.dumps([str(folder), size, names, label_map, limit, share, fast]))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["2024"], ["2024", [1, 1, 1], [], None, None, 0.5, False]),
        (["--folder", "1e3", "--size", "160,160,64"], ["1e3", [160, 160, 64], [], None, None, 0.5, False]),
        (["--folder=a=b", "--size=(8, 8, 4)", "--fast"], ["a=b", [8, 8, 4], [], None, None, 0.5, True]),
        (["x", "--names", "b,2024"], ["x", [1, 1, 1], ["b", "2024"], None, None, 0.5, False]),
        (["x", "--label-map", "{whole: [1, 2]}"], ["x", [1, 1, 1], [], {"whole": [1, 2]}, None, 0.5, False]),
        (["x", "--label_map", "map.yaml", "--limit", "None"], ["x", [1, 1, 1], [], "map.yaml", None, 0.5, False]),
        (["x", "--limit", "-3", "--share", "1", "--nofast"], ["x", [1, 1, 1], [], None, -3, 1.0, False]),
        (["x", "--fast=true", "--limit=12"], ["x", [1, 1, 1], [], None, 12, 0.5, True]),
    ],
)
def test_options_arrive_as_what_the_command_takes(lldm3d, command, words, expected):
    command(scan)
    status, out, err = lldm3d("try", *words)
    assert (status, err) == (0, "") and json.loads(out) == expected


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["x", "--fats"], "no option --fats; did you mean --fast?"),
        (["x", "-f"], "no option -f"),
        (["x", "--", "--trace"], "no option --"),
        ([], "--folder is missing"),
        (["--fast"], "--folder is missing"),
        (["x", "--limit"], "--limit needs a value: a whole number"),
        (["--folder", "--fast"], "--folder needs a value: a path"),
        (["x", "--limit", "many"], "--limit is 'many', but takes a whole number"),
        (["x", "--limit", "2.5"], "--limit is '2.5', but takes a whole number"),
        (["x", "--size", "8,8"], "--size is '8,8', but takes 3 numbers separated by commas"),
        (["x", "--label_map", "{1, 2}"], "--label_map is '{1, 2}', but takes a file, or {name: value}"),
        (["x", "--label_map", ""], "--label_map is '', but takes a file, or {name: value}"),  # of an unset variable
        (["x", "--names", " "], "--names is ' ', but takes names separated by commas"),
        (["x", "--fast=perhaps"], "--fast is 'perhaps', but takes true or false"),
        (["x", "8,8,8", "a", "{a: 1}", "1", "0.1", "true", "more"], "'more' is an argument too many"),
    ],
)
def test_a_wrong_use_is_one_message_with_status_2_before_anything_runs(lldm3d, command, words, fault):
    command(scan)
    status, out, err = lldm3d("try", *words)
    assert status == 2 and out == "" and err.startswith("lldm3d: error: ") and fault in err
    if "takes" not in fault:
        assert "--folder, --size, --names, --label_map, --limit, --share, --fast" in err


def test_an_unknown_command_is_told_the_nearest(lldm3d):
    status, _, err = lldm3d("prepair")
    assert status == 2 and "did you mean prepare?" in err and all(name in err for name in cli.COMMANDS)


def test_further_options_reach_the_command_that_takes_any(lldm3d, command):
    command(lambda folder, **options: print(folder, options))
    assert lldm3d("try", "x", "--steps", "8", "--solver=heun")[:2] == (0, "x {'steps': 8, 'solver': 'heun'}\n")


@pytest.mark.parametrize(
    ("error", "status"), [(UserError("why"), 2), (Refused("why"), 3), (ChildError("why"), 1), (KeyboardInterrupt, 130)]
)
def test_exit_statuses(lldm3d, command, error, status):
    def stops():
        raise error

    command(stops)
    found, _, err = lldm3d("try")
    assert found == status and err == ("" if status == 130 else "lldm3d: error: why\n")


def test_a_link_that_leads_to_itself_is_told(lldm3d, command, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    command(lambda folder: Path(folder).resolve(strict=True))
    status, _, err = lldm3d("try", tmp_path / "loop")
    assert status == 2 and err.startswith("lldm3d: error: ") and "/loop" in err


def test_a_command_that_is_ended_puts_its_things_away(lldm3d, command):
    put_away = []

    def ended():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            put_away.append(True)

    command(ended)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert lldm3d("try")[0] == 143 and put_away
    finally:
        signal.signal(signal.SIGTERM, before)


def test_version(lldm3d):
    assert lldm3d("--version") == (0, f"lldm3d {__version__}\n", "")


def test_the_overview_is_quick_and_leads_from_data_to_answer():
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    result = subprocess.run([sys.executable, "-m", "lldm3d", "--help"], capture_output=True, text=True)
    assert result.returncode == 0
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 0.5  # s of computing; torch takes 2
    listed = re.findall(r"^  (\w+) +\S", result.stdout, re.MULTILINE)
    assert listed == list(cli.COMMANDS) and listed[:4] == ["check", "prepare", "phantom", "run"]


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_tells_each_option_in_plain_words(lldm3d, name):
    status, out, err = lldm3d(name, "--help")
    assert status == 0 and err == "" and out.startswith(f"usage: lldm3d {name} ")
    assert not re.search(r"GROUP|FIRE|Optional|\bNone\b|Args:|Raises|`| \| |Any\b|class '", out)
    for option in cli.options_of(cli.function_of(name)):
        text = re.search(rf"^  --{option}\b(?: [A-Z]+)?\s+(.*)", out, re.MULTILINE)
        assert text and text[1] not in ("", "Needed.") and not text[1].startswith("default"), option


def test_help_tells_defaults(lldm3d, command):
    command(scan)
    out = lldm3d("try", "--help")[1]
    assert "usage: lldm3d try --folder PATH [OPTIONS]" in out
    assert "--folder PATH             of the scans, as 2024. Needed." in out
    assert "--size NUMBERS            voxels; default: 1,1,1." in out and "--fast                    or slow." in out


def test_help_tells_of_further_options(lldm3d, command):
    def draw(n: int = 1, **settings):
        """Draw.

        Args:
            n: how many.
            settings: ids of the config.
        """

    command(draw)
    assert "--ID VALUE                ids of the config.\n" in lldm3d("try", "--help")[1]


def test_commands_are_the_functions_of_their_modules():
    for name in cli.COMMANDS:
        assert inspect.isfunction(cli.function_of(name)), name


def test_check_takes_the_sources_of_prepare(lldm3d):
    ours, theirs = (set(cli.options_of(cli.function_of(name))) for name in ("check", "prepare"))
    assert ours == theirs & ours and {"data", "images", "labels", "label_map"} <= ours


def test_check_prints_all_faults_of_two_folders(lldm3d, tmp_path):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        for case in ("a_0000", "b"):  # the name of a file comes before nnU-Net's ending
            (tmp_path / folder / f"{case}.nii.gz").write_text("no scan")
    sources = ["--images", tmp_path / "images", "--labels", tmp_path / "labels", "--label_map", "{liver: 1}"]
    status, _, err = lldm3d("check", *sources)
    assert status == 2 and "4 faults" in err and len(re.findall(r"\n.*/(?:a_0000|b)\.nii\.gz: ", err)) == 4


def test_a_reader_that_has_enough_is_no_fault():
    done = subprocess.run(f"{sys.executable} -m lldm3d --help | head -1", shell=True, capture_output=True, text=True)
    assert done.stdout and not done.stderr
