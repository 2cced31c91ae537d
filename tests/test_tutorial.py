"""The notebook of the documentation, from a folder of scans to the answer."""

import os
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs/tutorial.ipynb"


@pytest.mark.slow  # five minutes
def test_the_tutorial_runs_to_its_answer(tmp_path, monkeypatch):
    nbclient, nbformat = (pytest.importorskip(name) for name in ("nbclient", "nbformat"))
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    notebook = nbformat.read(NOTEBOOK, 4)
    nbclient.NotebookClient(notebook, timeout=7200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = "\n".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "lldm3d: done; the report is" in said and "stages done in" in said, said
    assert (tmp_path / "work/report/report.html").is_file() and len(list((tmp_path / "more/imagesTr").iterdir())) == 4
