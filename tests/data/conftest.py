"""What `lldm3d prepare` says of data that it cannot take."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lldm3d import cli


@pytest.fixture
def refusal(tmp_path, monkeypatch, capsys) -> Callable[[Path], str]:
    """`refusal(folder)` is the one line for which `lldm3d prepare` ends with status 2 and writes nothing."""

    def prepare(folder: Path) -> str:
        output = tmp_path / "prepared/data"
        monkeypatch.setattr("sys.argv", ["lldm3d", "prepare", "--data", str(folder), "--output_dir", str(output)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr().err.splitlines()
        assert stop.value.code == 2 and said[-1].startswith("lldm3d: error: ")
        assert all("%|" in line for line in said[:-1]), said  # of a progress bar
        assert not output.exists() and not [*output.parent.glob("*")]
        shutil.rmtree(output.parent, ignore_errors=True)
        return said[-1]

    return prepare
