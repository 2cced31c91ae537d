"""How large the house is and how its modules hang together, as JSON: `python -m benchmarks.structure`.

Counts modules, lines, functions, public names defined twice, and circles of imports between files and between folders.
"""

import ast
import json
import re
from collections import defaultdict
from pathlib import Path
from statistics import median

import fire
import networkx

from benchmarks.machine import ROOT

PACKAGE = ROOT / "tools" / "lldm3d"


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def imported(tree: ast.Module, known: set[str]) -> set[str]:
    """The modules of the package that a module imports, also within functions and for types alone."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == PACKAGE.name:
            names = {f"{node.module}.{item.name}" for item in node.names}
            found |= (names & known) or {node.module}
    return found


def circles(edges: set[tuple[str, str]]) -> list[list[str]]:
    """Groups of names that reach each other."""
    parts = networkx.strongly_connected_components(networkx.DiGraph(edges))
    return [sorted(part) for part in parts if len(part) > 1]


def folder(module: str) -> str:
    """The folder of a module inside the package, its own name where it lies at the top."""
    return module.split(".")[1] if "." in module else module


def modules() -> dict[str, ast.Module]:
    return {module_name(file): ast.parse(file.read_text()) for file in sorted(PACKAGE.rglob("*.py"))}


def imports(trees: dict[str, ast.Module]) -> set[tuple[str, str]]:
    """Each (module, module that it imports)."""
    return {(name, target) for name, tree in trees.items() for target in imported(tree, set(trees)) if name != target}


def structure() -> dict:
    files, trees = sorted(PACKAGE.rglob("*.py")), modules()
    edges = imports(trees)
    between = {(folder(a), folder(b)) for a, b in edges if folder(a) != folder(b)}
    places, lengths = defaultdict(list), []
    for name, tree in trees.items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(name)
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        lengths += [node.end_lineno - node.lineno + 1 for node in functions]
    lines = {module_name(file): len(file.read_text().splitlines()) for file in files}
    words = {
        file.relative_to(ROOT).as_posix(): len(re.findall(r"\S+", file.read_text()))
        for file in ROOT.glob("docs/**/*.md")
    }
    return {
        "modules": sum(not file.name.startswith("__") for file in files),
        "lines_of_tools": sum(len(file.read_text().splitlines()) for file in files),
        "longest_modules": dict(sorted(lines.items(), key=lambda item: -item[1])[:5]),
        "function_lines": {"median": median(lengths), "90%": sorted(lengths)[int(0.9 * len(lengths))]},
        "public_names_defined_twice": {name: found for name, found in sorted(places.items()) if len(found) > 1},
        "circles_of_files": circles(edges),
        "circles_of_folders": circles(between),
        "lines_of_tests": sum(len(file.read_text().splitlines()) for file in ROOT.glob("tests/**/*.py")),
        "readme_lines": len((ROOT / "README.md").read_text().splitlines()),
        "docs_words": sum(words.values()),
        "docs": words,
    }


def main() -> None:
    """Count and print."""
    print(json.dumps(structure(), indent=1))


if __name__ == "__main__":
    fire.Fire(main)
