"""What paints a new lesion into a single scan: copy-paste, or a method as a work directory has trained it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from monai.bundle import ConfigParser

from lldm3d.bundle import bundle_path, defined, literal, load_configs, read_literal
from lldm3d.data.dataset import Schema, load_schema
from lldm3d.data.scans import Scan
from lldm3d.errors import UserError, did_you_mean
from lldm3d.files import read_yaml
from lldm3d.lesions.editor import Edit, Editor
from lldm3d.methods.registry import Method, load_method, method_names
from lldm3d.pairs.edits import painted
from lldm3d.pairs.generate import read_run_yaml, seen_data, trained_folder

COPY_PASTE = "copy_paste"


@dataclass(frozen=True)
class Texture:
    """A method that paints lesions; one that learns nothing has no more than its name."""

    method: Method
    models: Path | None = None  # folder of its trainings
    settings: dict | None = None  # ids of its inference
    paint: Callable | None = None  # as `lldm3d.pairs.edits.EditGeneration` takes it

    def scan(self, editor: Editor, edits: Sequence[Edit], seed: int, index: int) -> Scan:
        """A scan after its edits: the same as the pair `index` of `lldm3d generate` with these edits and seed."""
        if self.paint is None:
            return editor.scan(edits)
        return painted(editor, edits, self.paint, seed, index, self.paint.device)


def open_texture(name: str, workdir: str | None, lesion: str | None, schema: Schema) -> Texture:
    """The method `name`, with its networks of a work directory and the settings by which that run draws.

    Args:
        lesion: class that is to be painted; None where nothing is.
        schema: of the scans.

    Raises:
        UserError: where it paints no lesions, is not trained there, or learnt another class or other scans.
    """
    require_painting(name)
    method = load_method(name)
    if not method.trainings:
        return Texture(method)
    if not workdir or not Path(workdir).is_dir():
        given = f"{workdir} is no folder; " if workdir else ""
        raise UserError(
            f"--texture {name}: {given}give --workdir, or as --lesions_from one, of a run that trained {name}"
        )
    work = Path(workdir).resolve()
    models = trained_folder(work, method, None)
    theirs = load_schema(seen_data(work, models))
    learnt = learnt_class(method, models, theirs)
    if learnt not in (None, lesion):
        raise UserError(f"--texture {name}: {models} learnt {learnt}, not {lesion}; paint it by --texture {COPY_PASTE}")
    if not np.allclose(theirs.spacing, schema.spacing, rtol=0.01):
        other, ours = (",".join(f"{length:g}" for length in one.spacing) for one in (theirs, schema))
        raise UserError(
            f"--texture {name}: {models} learnt voxels of {other} mm, and the scan's have {ours}; prepare it with "
            f"--spacing {other}"
        )
    for key in ("orientation", "intensity"):
        other, ours = (getattr(one, key) for one in (theirs, schema))
        if None not in (other, ours) and other != ours:
            raise UserError(
                f"--texture {name}: {models} learnt scans of --{key} {other}, and this one was prepared with {ours}; "
                f"prepare it with --{key} {other}"
            )
    section = read_run_yaml(work).get("settings", {}).get("methods", {}).get(name, {})
    settings = defined(method.bundle, method.inference, section.get("inference", {}))
    return Texture(method, models, settings, opened(method, models, settings))


def require_painting(name: str) -> None:
    """Raises UserError for what is no method that paints lesions into scans."""
    painting = [method for method in method_names() if load_method(method).edits]
    if name not in painting:
        kind = "draws no lesions into scans" if name in method_names() else "is no method"
        near = did_you_mean(name, painting)
        raise UserError(f"--texture {name!r} {kind}; {near}the methods that do are {', '.join(painting)}")


def learnt_class(method: Method, models: Path, theirs: Schema) -> str | None:
    """The class of lesions that a method's last training learnt; None where it learnt all classes.

    Args:
        theirs: schema of the data that it learnt from, whose only lesion it is where its settings name none.
    """
    training = list(method.trainings)[-1]
    if not defined(method.bundle_of(training), method.trainings[training].configs, {"lesion": None}):
        return None
    path = models / training / "overrides.yaml"
    named = (read_yaml(path, "train it again") if path.is_file() else {}).get("lesion")
    return read_literal(named) if named else theirs.lesions[0] if theirs.lesions else None


def opened(method: Method, models: Path, settings: dict) -> Callable:
    """The painter `paint` of a method's inference config. Raises UserError where a model cannot be used."""
    parser = ConfigParser(load_configs(bundle_path(method.bundle), method.inference))
    parser.update({**settings, "method_dir": literal(str(models))})
    try:
        return parser.get_parsed_content("paint")
    except Exception as error:  # MONAI raises its own from ours
        cause: BaseException | None = error
        while cause and not isinstance(cause, UserError):
            cause = cause.__cause__
        raise (cause or error) from None
