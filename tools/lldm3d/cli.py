"""The command `lldm3d`: a table of commands, their help, and the errors of their use.

Each command is the function of a module, named in `COMMANDS`: its signature and docstring are the options and their
help. The module is imported when its command is called or asked for help, as torch and MONAI take seconds.
"""

import contextlib
import errno
import importlib
import inspect
import io
import os
import re
import sys
import textwrap
import types
from collections.abc import Callable, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NoReturn, Union, get_args, get_origin

from lldm3d import __version__
from lldm3d.children import raise_on_sigterm
from lldm3d.errors import ChildError, Refused, UserError, did_you_mean, unwritable

STATUSES = {ChildError: 1, UserError: 2, Refused: 3}  # exit statuses
# of an OSError: the user's place has no room, or is not the user's
NO_PLACE = ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "ENOTDIR", "EEXIST", "ENAMETOOLONG", "ELOOP")
COMMANDS = {  # name: function, what it does
    "check": ("lldm3d.data.checks:check", "find every fault of your data at once"),
    "prepare": ("lldm3d.data.prepare:prepare", "bring scans to one grid and intensity range, split by patient"),
    "phantom": ("lldm3d.phantom.write:write_phantom", "or write a data set of simulated liver MR"),
    "run": ("lldm3d.pipeline.run:run", "from data to report: train, draw pairs, judge them, segment"),
    "status": ("lldm3d.pipeline.status:status", "what a run does, has done and has left to do, from another terminal"),
    "study": ("lldm3d.pipeline.run:study", "segment with real, synthetic and both: networks, tasks, regimes, seeds"),
    "cross_validate": ("lldm3d.pipeline.folds:cross_validate", "run and study for few scans: each is tested once"),
    "generate": ("lldm3d.pairs.generate:generate", "draw more pairs of image and label"),
    "edit": ("lldm3d.pairs.editing:edit", "add, remove or grow lesions in a scan"),
    "harmonise": ("lldm3d.evaluation.harmonise:harmonise", "draw a data set anew, to the look of one slice"),
    "evaluate": ("lldm3d.evaluation.evaluate:evaluate", "judge any synthetic data set: quality, alignment, copies"),
    "report": ("lldm3d.report.write:report", "write the report again"),
    "export": ("lldm3d.export.write:export", "write cases for nnU-Net, Auto3DSeg, as BIDS or as DICOM"),
    "release": ("lldm3d.export.release:release", "write the folder of synthetic pairs that may be shared"),
    "verify": ("lldm3d.export.release:verify", "check such a folder that you have received"),
    "pack": ("lldm3d.export.package:pack", "write trained models as bundles that run with MONAI alone"),
    "convert": ("lldm3d.methods.conversion:convert", "begin from weights of monai-generative or the Model Zoo"),
    "tasks": ("lldm3d.data.dataset:add_tasks", "name tasks of a data set, such as all vessels as one class"),
    "encode": ("lldm3d.codec.latents:encode", "encode a data set with both autoencoders"),
    "join": ("lldm3d.pairs.folder:join", "make one data set of pairs that several calls drew"),
    "filter": ("lldm3d.evaluation.filtering:keep_agreeing", "keep the pairs with whose labels real networks agree"),
    "refine": ("lldm3d.evaluation.refining:refine", "mend or leave out what most real networks contradict in labels"),
    "pseudo_label": ("lldm3d.evaluation.refining:pseudo_label", "label unlabelled scans by the vote of real networks"),
    "stage": ("lldm3d.pipeline.stage:stage", "run one stage of a work directory by hand"),
}
RARER = ("convert", "tasks", "encode", "join", "filter", "refine", "pseudo_label", "stage")
WAY = """\
usage: lldm3d COMMAND [OPTIONS]

From data to the answer, does synthetic data make my segmentation better?

{way}

Rarer:

{rarer}

Begin with simulated data:  lldm3d run --profile demo --workdir work/demo
or with your own:           lldm3d check DATA, then lldm3d run --data DATA --profile small --workdir work/mine

`lldm3d COMMAND --help` shows the options of a command, `lldm3d --version` the version."""


def main() -> None:
    """Exit status 2 for a user's mistake, 3 when a limit of the user's is passed, 1 when a child process failed, 130
    when interrupted, 143 when ended by SIGTERM."""
    raise_on_sigterm()
    try:
        call_command(sys.argv[1:])
    except tuple(STATUSES) as error:
        print(f"lldm3d: error: {error}", file=sys.stderr)
        sys.exit(STATUSES[type(error)])
    except BrokenPipeError:  # what reads the output, such as head, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if errno.errorcode.get(error.errno) not in NO_PLACE:
            raise
        print(f"lldm3d: error: {unwritable(error.filename or Path.cwd(), error)}", file=sys.stderr)
        sys.exit(2)
    except RuntimeError as error:
        if not str(error).startswith("Symlink loop"):  # what Path.resolve says before Python 3.13
            raise
        print(f"lldm3d: error: {error}: this link leads to itself; give another path", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def call_command(arguments: list[str]) -> None:
    """Show what is asked for, or call the command with its options.

    Raises UserError for a wrong use of the command line, before anything runs; and what the command raises.
    """
    name, *rest = arguments or ["--help"]
    if name in ("--help", "-h", "help"):
        lines = {name: f"  {name:<14} {purpose}" for name, (_, purpose) in COMMANDS.items()}
        way = [line for name, line in lines.items() if name not in RARER]  # in the order in which one needs them
        print(WAY.format(way="\n".join(way), rarer="\n".join(lines[name] for name in RARER)))
    elif name == "--version":
        print(f"lldm3d {__version__}")
    elif name not in COMMANDS:
        raise UserError(
            f"{name!r} is no command; {did_you_mean(name, COMMANDS)}the commands are {', '.join(COMMANDS)}; "
            "`lldm3d --help` explains them"
        )
    elif {"--help", "-h"} & set(rest):
        print(command_help(name, function_of(name)))
    else:
        function = function_of(name)
        function(**parse_options(name, function, rest))


def function_of(command: str) -> Callable:
    """Import the function that a command is."""
    module, function = COMMANDS[command][0].split(":")
    return getattr(importlib.import_module(module), function)


def parse_options(command: str, function: Callable, arguments: list[str]) -> dict[str, Any]:
    """The values that `arguments` give to the parameters of `function`, parsed by python-fire.

    Fire calls a stand-in, as it notices an unknown option only after the call, which may be a week later.

    Raises UserError for an unknown or missing option, and a value of another type than the parameter's.
    """
    import fire  # takes a tenth of a second

    parameters, values = options_of(function), {}
    require_known(command, function, arguments)
    parsers = {name: value_parser(command, parameter) for name, parameter in parameters.items()}
    signature = inspect.signature(function)

    def stand_in(*given, **named) -> None:
        bound = signature.bind(*given, **named).arguments
        further = [name for name in bound if name not in parameters]  # of a function with **options
        values.update(bound | {key: value for name in further for key, value in bound.pop(name).items()})

    stand_in.__signature__ = signature
    stand_in = fire.decorators.SetParseFns(**parsers)(stand_in)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            fire.Fire(stand_in, command=arguments, name=f"lldm3d {command}")
    except fire.core.FireExit as stop:
        word = stop.trace.elements[-1].ErrorAsStr().split()[-1]  # Fire's sentences end with the name in question
        needed = word in parameters and parameters[word].default is inspect.Parameter.empty
        refuse(command, function, f"--{word} is missing" if needed else f"{word!r} is an argument too many")
    return values


def options_of(function: Callable) -> dict[str, inspect.Parameter]:
    """The parameters of a function that can be named."""
    named = inspect.signature(function).parameters.items()
    return {name: item for name, item in named if item.kind not in (item.VAR_POSITIONAL, item.VAR_KEYWORD)}


def takes_further_options(function: Callable) -> bool:
    """Whether a function has `**options`, whose names it checks itself."""
    return any(item.kind == item.VAR_KEYWORD for item in inspect.signature(function).parameters.values())


def require_known(command: str, function: Callable, arguments: list[str]) -> None:
    """Raise UserError for an option that the command has not, or one without its value."""
    parameters = options_of(function)
    for word, after in pairwise([*arguments, "--"]):
        if not is_option(word):
            continue
        name, equals, _ = word.partition("=")
        key = name.lstrip("-").replace("-", "_")
        alone = not equals and is_option(after)
        if alone and key.startswith("no") and is_switch(parameters.get(key[2:])):
            continue
        if key in parameters and word.startswith("--"):
            if alone and not is_switch(parameters[key]):
                refuse(command, function, f"--{key} needs a value: {accepted(parameters[key].annotation)}")
        elif not (takes_further_options(function) and key and word.startswith("--")):
            near = did_you_mean(f"--{key}", [f"--{option}" for option in parameters])
            refuse(command, function, f"there is no option {name}", near)


def is_option(word: str) -> bool:
    """Whether a word of the command line begins an option, as Fire sees it: a negative number does not."""
    return word == "-" or bool(re.match("--|-[a-zA-Z]", word))


def is_switch(parameter: inspect.Parameter | None) -> bool:
    """Whether an option stands without a value."""
    return parameter is not None and bool in kinds(parameter.annotation)


def refuse(command: str, function: Callable, fault: str, hint: str = "") -> NoReturn:
    """Raise UserError with a fault and the options that the command has."""
    options = ", ".join(f"--{name}" for name in options_of(function))
    raise UserError(f"{fault}; {hint}the options of {command} are {options}; `lldm3d {command} --help` explains them")


def kinds(annotation: Any) -> list[Any]:
    """The types that an annotation allows."""
    return list(get_args(annotation)) if get_origin(annotation) in (Union, types.UnionType) else [annotation]


def list_of(annotation: Any) -> tuple[type, int | None] | None:
    """Type of the elements, and their number where it is fixed, of a list; None where none is allowed."""
    for kind in kinds(annotation):
        if isinstance(origin := get_origin(kind) or kind, type) and issubclass(origin, Sequence) and origin is not str:
            elements = [element for element in get_args(kind) if element is not ...]
            return (elements or [str])[0], len(elements) if len(elements) > 1 else None
    return None


def accepted(annotation: Any) -> str:
    """What an option takes, in plain words."""
    allowed = kinds(annotation)
    if listed := list_of(annotation):
        kind, length = listed
        return f"{f'{length} ' if length else ''}{'names' if kind is str else 'numbers'} separated by commas"
    words = {bool: "true or false", dict: "a file, or {name: value}", Path: "a path", str: "text"}
    words |= {int: "a whole number", float: "a number"}
    return next((text for kind, text in words.items() if kind in allowed), "a value")


def value_parser(command: str, parameter: inspect.Parameter) -> Callable[[str], Any]:
    """A function that turns the text of an option into the type of its parameter.

    A path or name stays text whatever it looks like: a folder named 2024 is no number.
    """
    from fire.parser import DefaultParseValue  # numbers, lists and mappings as Python writes them, other text as it is

    allowed, listed = kinds(parameter.annotation), list_of(parameter.annotation)

    def parse(text: str) -> Any:
        try:
            if not text.strip():  # of a shell variable that is not set: `--add ""` would be no --add
                raise ValueError(text)
            if text == "None" and type(None) in allowed and not {str, Path} & set(allowed):
                return None
            if listed:
                (kind, length), words = listed, text.strip("()[] ").split(",")  # in brackets or not
                found = tuple(kind(word.strip(" '\"")) for word in words if word.strip())
                if length not in (None, len(found)):
                    raise ValueError(text)
                return found
            if dict in allowed and text.startswith("{"):
                if not isinstance(found := DefaultParseValue(text), dict):
                    raise ValueError(text)
                return found
            if {str, Path} & set(allowed):
                return text
            if bool in allowed:
                return {"true": True, "false": False}[text.lower()]
            number = next((kind for kind in (int, float) if kind in allowed), DefaultParseValue)
            return number(text)
        except (ValueError, KeyError) as error:
            fault = f"{command} --{parameter.name} is {text!r}, but takes {accepted(parameter.annotation)}"
            raise UserError(fault) from error

    return parse


def command_help(command: str, function: Callable) -> str:
    """Summary, usage, and each option with its meaning and default."""
    summary, meanings = split_docstring(function)
    parameters = options_of(function)
    needed = [f"--{name} {metavar(item)}" for name, item in parameters.items() if item.default is item.empty]
    usage = " ".join([f"usage: lldm3d {command}", *needed, "[OPTIONS]"])
    options = [option_help(item, meanings.get(name, "")) for name, item in parameters.items()]
    if takes_further_options(function):
        options.append(hanging("  --ID VALUE", next(text for name, text in meanings.items() if name not in parameters)))
    return "\n".join([usage, "", summary, "", "options:", *options])


def metavar(parameter: inspect.Parameter) -> str:
    """What stands for the value of an option; nothing for a switch."""
    if is_switch(parameter):
        return ""
    if listed := list_of(parameter.annotation):
        return "NAMES" if listed[0] is str else "NUMBERS"
    return accepted(parameter.annotation).split(",")[0].split()[-1].upper()


def option_help(parameter: inspect.Parameter, meaning: str) -> str:
    """An option, what it takes, its meaning, and its default where the meaning does not tell it."""
    default = parameter.default
    if default is parameter.empty:
        meaning += " Needed."
    elif default is not None and default is not False and default != () and "default" not in meaning:
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        shown = f"yes, --no{parameter.name} for no" if default is True else shown
        end = "" if meaning.endswith("...") else "."
        meaning = f"{meaning.removesuffix(end)}; default: {shown}."
    return hanging(f"  --{parameter.name} {metavar(parameter)}".rstrip(), meaning)


def hanging(head: str, text: str, indent: int = 28) -> str:
    """A head, and a text beside it, or below it where the head is long."""
    lines = textwrap.wrap(text.strip(), 118 - indent) or [""]
    beside = f"{head:<{indent}}{lines.pop(0)}" if len(head) < indent - 1 else head
    return "\n".join([beside.rstrip(), *(" " * indent + line for line in lines)])


def split_docstring(function: Callable) -> tuple[str, dict[str, str]]:
    """The text of a docstring before `Args:`, and the meaning of each argument there."""
    text, _, rest = (inspect.getdoc(function) or "").partition("\nArgs:\n")
    about = re.split(r"\n(?:Raises|Returns|Source)\b", text)[0].strip()
    block = re.split(r"\n(?=\S)", rest)[0]
    found = re.findall(r"^    (\*{0,2}\w+(?:, \w+)*): (.*(?:\n     .*)*)", block, re.MULTILINE)
    pairs = chain.from_iterable([(name, text) for name in names.split(", ")] for names, text in found)
    return without_marks(about), {name.lstrip("*"): " ".join(without_marks(text).split()) for name, text in pairs}


def without_marks(text: str) -> str:
    """Text of a docstring without the marks of code."""
    return re.sub(r"`+([^`]+)`+", r"\1", text)
