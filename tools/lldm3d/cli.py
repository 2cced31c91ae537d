"""The command `lldm3d`: python-fire reads the arguments, and a function of `lldm3d.commands` is called."""

import functools
import sys
from collections.abc import Callable

import fire

from lldm3d.commands.chain import report, run, stage, study
from lldm3d.commands.data import check, encode, phantom, prepare, tasks
from lldm3d.commands.pairs import evaluate, generate, join
from lldm3d.commands.sharing import export, pack
from lldm3d.errors import ChildError, Refused, UserError

STATUSES = {ChildError: 1, UserError: 2, Refused: 3}  # exit statuses
COMMANDS = (run, study, stage, tasks, phantom, prepare, check, encode, generate, join, evaluate, report, pack, export)


def deferred(command: Callable, calls: list[Callable]) -> Callable:
    """Stand in for `command` while fire reads the arguments.

    Fire itself would notice an unknown flag only after the command has run, which may be a week later.
    """

    @functools.wraps(command)
    def record(*args, **kwargs) -> None:
        calls.append(functools.partial(command, *args, **kwargs))

    texts = {name: str for name, kind in command.__annotations__.items() if kind in (str, str | None)}
    return fire.decorators.SetParseFns(**texts)(record)  # a folder named 2024 is no number


def main() -> None:
    """Exit status 2 for a user's mistake, 3 when a limit of the user's is passed, 1 when a child process failed, 130
    when interrupted."""
    calls: list[Callable] = []
    fire.Fire({command.__name__: deferred(command, calls) for command in COMMANDS}, name="lldm3d")
    try:
        for command in calls:
            command()
    except tuple(STATUSES) as error:
        print(f"lldm3d: error: {error}", file=sys.stderr)
        sys.exit(STATUSES[type(error)])
    except KeyboardInterrupt:
        sys.exit(130)
