"""The documents say what is there: links, commands and their options, lengths."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from lldm3d import cli
from lldm3d.pipeline.profile import Profile, load_profile

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("bundles/**/*.md")]
ALL = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@ALL
def test_links_lead_to_files_and_headings(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        name, _, anchor = link.partition("#")
        if link.startswith("https://"):
            continue
        target = (page.parent / name).resolve() if name else page
        assert target.exists() and target.is_relative_to(ROOT), f"{page}: {link}"
        if anchor:
            assert anchor in map(slug, re.findall(r"^#+ (.*)", target.read_text(), re.MULTILINE)), f"{page}: {link}"


@ALL
def test_commands_have_the_options_they_are_shown_with(page):
    text = page.read_text().replace("\\\n", " ")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    commands = [re.sub(r"^.*(?<![\w/.=-])(?:\.venv/bin/)?lldm3d ", "", line) for line in lines if "lldm3d " in line]
    for words in (shlex.split(command, comments=True) for command in commands):
        if words[0] in cli.COMMANDS:
            cli.require_known(words[0], cli.function_of(words[0]), words[1:])


@ALL
def test_profiles_are_as_they_are_shown(page, tmp_path):
    """Sections may stand without the `base: small` that a profile begins with."""
    blocks = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    for text in blocks:
        content = yaml.safe_load(text)
        if set(content) <= {"base", *Profile.model_fields}:
            path = tmp_path / "mine.yaml"
            path.write_text(yaml.safe_dump({"base": "small"} | content))
            load_profile(str(path))


def test_the_site_has_every_page():
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in ROOT.glob("docs/**/*.md")}
    named = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text().partition("nav:")[2]))
    assert named == pages | {"index.md", "tutorial.md"}, "mkdocs.yml"


def test_the_tutorial_is_stored_without_outputs():
    cells = json.loads((ROOT / "docs/tutorial.ipynb").read_text())["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


def test_readme_and_docs_are_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120
    assert sum(len(page.read_text().split()) for page in ROOT.glob("docs/**/*.md")) <= 11000


def test_documents_name_no_path_outside_the_repository():
    outside = [str(page) for page in PAGES if re.search(r"\.\./shared|\s/work/|/home/", page.read_text())]
    assert not outside
