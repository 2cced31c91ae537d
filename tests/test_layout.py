"""The project's files fit each other: README, CI, dependencies, and what an installed wheel holds."""

import configparser
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from benchmarks.mutations.__main__ import load_mutations, mutated
from benchmarks.structure import folder, imports, modules, structure

from lldm3d import bundle
from lldm3d.errors import UserError

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def options() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def requirements(text: str) -> list[str]:
    """Normalised names of the packages in a requirement list."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [re.split(r"[=<>~ ]", line.strip())[0].lower().replace("_", "-") for line in lines]


def test_the_ci_runs_the_readme_s_test_command():
    pattern = re.search(r"grep -F -- \"(.+)\" README.md", (ROOT / ".ci/run").read_text())[1]
    commands = [line for line in README.splitlines() if pattern in line]
    assert len(commands) == 1, f".ci/run looks for the one line of README.md with {pattern}, found {commands}"
    assert commands[0] == (
        "python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e '.[dev,generative]' && .venv/bin/pytest"
    )


# the folders of the package, in the order in which a case passes through them
FOLDERS = "data phantom training codec diffusion methods lesions pairs evaluation study report export pipeline".split()
FREE = ("cli", "__main__")  # may import every folder
# of tools/; the house of 0.8 had 13,488: since then ladder, scarcity, Haar bands, orientation, label-to-image methods,
# the viewer of the report, BIDS, DICOM, releases, the state of a run, checkpoints of others, five methods of edits,
# volumes from slices, lesions by any method and their realism, LPIPS, pseudo-labels and voxels left out of a loss,
# models of one work directory for scans of another, FID of crops round lesions, cross-validation
LINES = 24_950


@pytest.fixture(scope="module")
def counted() -> dict:
    return structure()


def test_no_imports_go_in_circles(counted):
    assert not counted["circles_of_files"] and not counted["circles_of_folders"]


def test_a_folder_imports_only_those_before_it():
    """Modules at the top of the package import none."""
    wrong = []
    for name, target in sorted(imports(modules())):
        ours, theirs = folder(name), folder(target)
        if theirs in FOLDERS and ours != theirs and ours not in FREE:
            order = FOLDERS.index(ours) if ours in FOLDERS else -1
            wrong += [f"{name} imports {target}"] if order < FOLDERS.index(theirs) else []
    assert not wrong


def test_no_two_public_functions_or_classes_share_a_name(counted):
    assert not counted["public_names_defined_twice"]


def test_the_package_does_not_grow(counted):
    assert counted["lines_of_tools"] <= LINES


@pytest.mark.parametrize("mutation", load_mutations(), ids=lambda mutation: mutation["what"])
def test_a_mutation_finds_its_place(mutation):
    """`python -m benchmarks.mutations` puts each into a copy of the tree, whose tests shall find it."""
    mutated((ROOT / mutation["file"]).read_text(), mutation)


def test_every_install_line_uses_the_tested_versions():
    text = README + (ROOT / "CONTRIBUTING.md").read_text()
    assert all("-c constraints.txt" in line for line in text.splitlines() if "pip install" in line)


def test_every_dependency_has_a_tested_version():
    cfg = options()
    needed = [cfg["options"]["install_requires"], *(cfg["options.extras_require"][e] for e in ("generative", "dev"))]
    pinned = requirements((ROOT / "constraints.txt").read_text())
    missing = [name for text in needed for name in requirements(text) if name not in pinned]
    assert not missing, f"constraints.txt pins no version of {missing}"


def test_every_folder_with_code_is_a_package():
    """A folder without `__init__.py` would be missing from an installed wheel."""
    folders = {file.parent for file in (ROOT / "tools/lldm3d").rglob("*.py")}
    missing = sorted(str(folder.relative_to(ROOT)) for folder in folders if not (folder / "__init__.py").is_file())
    assert not missing, f"without __init__.py: {missing}"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The folder of the unpacked wheel, built from a copy of the tree."""
    pytest.importorskip("setuptools", reason="the wheel is built without a network; pip install -e '.[dev]'")
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("tools", "bundles"):
        unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info", "models", "eval")
        shutil.copytree(ROOT / name, source / name, ignore=unwanted)
    build = "from setuptools import build_meta; import sys; build_meta.build_wheel(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", build, target], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    zipfile.ZipFile(next(target.glob("*.whl"))).extractall(target)
    return target


def test_the_wheel_holds_every_module_config_and_document(wheel):
    tools = [file for file in (ROOT / "tools/lldm3d").rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    wanted = {file.relative_to(ROOT / "tools").as_posix() for file in tools}
    parts = ("configs", "docs")
    bundles = [file for file in (ROOT / "bundles").rglob("*") if file.parent.name in parts or file.name == "LICENSE"]
    wanted |= {f"lldm3d/{file.relative_to(ROOT).as_posix()}" for file in bundles if file.is_file()}
    held = {file.relative_to(wheel).as_posix() for file in wheel.rglob("*") if file.is_file()}
    assert not wanted - held, f"the wheel lacks {sorted(wanted - held)}: see [options.package_data] in setup.cfg"


def test_the_installed_package_finds_its_bundles(wheel):
    code = "from lldm3d.bundle import bundle_path; print(bundle_path('seg_unet'))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=wheel, env={"PYTHONPATH": str(wheel)}, capture_output=True
    )
    assert Path(done.stdout.decode().strip()) == wheel / "lldm3d/bundles/seg_unet", done.stderr.decode()


def test_a_checkout_uses_the_bundles_of_its_top_folder():
    assert bundle.bundle_path("seg_unet") == ROOT / "bundles" / "seg_unet"


def test_an_unknown_bundle_is_refused_with_those_that_exist():
    with pytest.raises(UserError, match="no bundle 'seg_unte' .* the bundles are .*seg_unet"):
        bundle.bundle_path("seg_unte")
