"""Hooks of mkdocs: the README as the first page, the notebook as a page, no links to files that are not on the site."""

import json
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from other files."""
    if notebook := files.get_file_from_path("tutorial.ipynb"):
        files.remove(notebook)
    readme = (ROOT / "README.md").read_text().replace("](docs/", "](").replace("tutorial.ipynb", "tutorial.md")
    files.append(File.generated(config, "index.md", content=readme))
    files.append(File.generated(config, "tutorial.md", content=notebook_page(ROOT / "docs/tutorial.ipynb")))
    return files


def notebook_page(path: Path) -> str:
    """The cells of a notebook as Markdown."""
    cells = json.loads(path.read_text())["cells"]
    texts = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    return "\n\n".join(text if kind == "markdown" else f"```python\n{text}\n```" for kind, text in texts)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to files of the repository that are no pages become plain text."""
    folder = posixpath.dirname(page.file.src_uri)

    def link(found: re.Match) -> str:
        text, target = found.groups()
        name = target.partition("#")[0]
        path = posixpath.normpath(posixpath.join(folder, name))
        if path == "../README.md":
            return f"[{text}]({posixpath.relpath('index.md', folder or '.')})"
        return found[0] if not name or "://" in target or files.get_file_from_path(path) else text

    return re.sub(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)", link, markdown)
