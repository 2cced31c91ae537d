"""Which hand-made mistakes the fast tests find, as JSON: `python -m benchmarks.mutations [--all] [--only 3,7]`.

Each mutation of mutations.yaml is put into a copy of the tree, whose tests then run until the first fails: those that
the mutation names, or all of them.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
MUTATIONS = Path(__file__).with_name("mutations.yaml")
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "work", "__pycache__", "*.egg-info", "results")


def load_mutations() -> list[dict]:
    """Each has `what` is wrong, the `file`, its `old` text, which stands there once, the `new` one, and `tests`."""
    return yaml.safe_load(MUTATIONS.read_text())


def mutated(text: str, mutation: dict) -> str:
    """The text with the mutation in it. Raises ValueError where its old text does not stand there exactly once."""
    count = text.count(mutation["old"])
    if count != 1:
        raise ValueError(f"{mutation['file']}: holds {mutation['old']!r} {count} times, not once ({mutation['what']})")
    return text.replace(mutation["old"], mutation["new"])


def run_tests(tree: Path, tests: list[str], options: list[str]) -> str | None:
    """The first test that fails, None where all pass. Raises RuntimeError where they cannot be run."""
    command = [sys.executable, "-m", "pytest", "-q", "--maxfail=1", "-p", "no:cacheprovider", *options, *tests]
    environment = {**os.environ, "PYTHONPATH": str(tree / "tools")}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    failed = re.search(r"^(?:FAILED|ERROR) (\S+::.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
    if done.returncode not in (0, 1) or bool(failed) != bool(done.returncode):
        raise RuntimeError(done.stdout[-3000:] + done.stderr[-1000:])
    return failed[1] if failed else None


def caught(mutation: dict, every_test: bool) -> dict:
    """The first test that fails with the mutation and passes without it, None where all pass, and what it took."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(ROOT, tree, ignore=LEFT_OUT)
        options, file = [f"--basetemp={folder}/tmp", *([] if every_test else ["-n", "0"])], tree / mutation["file"]
        right = file.read_text()
        file.write_text(mutated(right, mutation))
        failed = run_tests(tree, ["tests"] if every_test else mutation["tests"].split(), options)
        file.write_text(right)
        if failed and run_tests(tree, [failed], [*options, "-n", "0"]):
            raise RuntimeError(f"{failed}: fails without the mutation as well")
    return {
        "what": mutation["what"],
        "file": mutation["file"],
        "caught_by": failed,
        "seconds": round(time.monotonic() - begin),
    }


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="run the whole fast suite, not only the named tests")
    parser.add_argument("--only", help="numbers of mutations, counted from 1, with commas between")
    options = parser.parse_args()
    mutations = load_mutations()
    numbers = [int(item) for item in options.only.split(",")] if options.only else range(1, len(mutations) + 1)
    found = []
    for number in numbers:
        found.append({"number": number, **caught(mutations[number - 1], options.all)})
        print(f"{number}: {found[-1]}", file=sys.stderr, flush=True)
    print(
        json.dumps(
            {"mutations": len(found), "caught": sum(bool(item["caught_by"]) for item in found), "each": found}, indent=1
        )
    )


if __name__ == "__main__":
    main()
