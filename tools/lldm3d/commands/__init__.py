"""The commands of `lldm3d`: a function of a few lines for each, whose docstring is its help; each calls one module."""

from lldm3d.commands.chain import report, run, stage, study
from lldm3d.commands.data import check, encode, phantom, prepare, tasks
from lldm3d.commands.pairs import evaluate, generate, join
from lldm3d.commands.sharing import export, pack

__all__ = [
    "check",
    "encode",
    "evaluate",
    "export",
    "generate",
    "join",
    "pack",
    "phantom",
    "prepare",
    "report",
    "run",
    "stage",
    "study",
    "tasks",
]
