"""The exceptions that the command line shows as one line, and a hint that their messages share."""

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class UserError(Exception):
    """A mistake in the input: the message says what was found, what is allowed, in which file, and how to mend it.

    The command line prints the message alone and exits with status 2.
    """


def unwritable(path: object, error: OSError) -> UserError:
    """What is said of a file that cannot be written: a full disk, a quota, a folder of someone else's."""
    return UserError(
        f"{path}: cannot be written ({error.strerror or error}); make room or take another folder, then call it again"
    )


def needs_package(name: str, extra: str) -> ModuleType:
    """A package of an extra, imported. Raises UserError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{name} cannot be imported ({error}); `pip install 'lldm3d[{extra}]'`") from None


class Refused(Exception):
    """The work is done and written, but passes a limit that the user set. The command line exits with status 3."""


class ChildError(Exception):
    """A child process failed for a reason of its own. The command line exits with status 1."""


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """The nearest of the allowed names as the beginning of a sentence; nothing when none is near."""
    close = difflib.get_close_matches(str(name), list(allowed), n=1)
    return f"did you mean {close[0]}? " if close else ""
