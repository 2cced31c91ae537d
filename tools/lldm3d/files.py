"""Reading and writing files and folders so that nothing half-written ever bears its final name."""

import fcntl
import gzip
import hashlib
import json
import math
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.resources import files as resources
from pathlib import Path
from zlib import crc32

import deflate
import nibabel as nib
import numpy as np
import yaml
from nibabel.volumeutils import apply_read_scaling

from lldm3d.errors import UserError, unwritable

PARTIAL = ".partial-"  # how names of files begin that are not finished
PROBED = 2**18  # bytes: packing them takes 3 ms


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` (same suffixes) and rename it to `path` when the block ends well.

    Raises UserError where it cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f"{PARTIAL}{uuid.uuid4().hex}{''.join(path.suffixes[-2:])}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # not mkstemp, whose files are private: their mode would need the umask, which only a change of it tells
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: str | Path, content: object) -> None:
    """Write `content` as indented JSON; NaN is refused since it is not JSON."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def write_yaml(path: str | Path, content: dict) -> None:
    """Write `content` as YAML, its keys in their order."""
    with atomic_write(path) as temporary:
        temporary.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def read_json(path: str | Path) -> dict:
    """Read a JSON file, with or without a byte order mark. Raises UserError where it is missing or broken."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"), object_pairs_hook=without_doubles)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the path of an existing JSON file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 ({error}); save it with this encoding") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not valid JSON ({error})") from None


def without_doubles(pairs: list[tuple]) -> dict:
    """A mapping of a file. Raises ValueError where a name stands twice, of which the last would win unsaid."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return found


class StrictLoader(yaml.SafeLoader):
    """Reads no mapping in which a name stands twice, and names as they stand there: `yes`, `on` and `null` too."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        names = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for name in names:
            if isinstance(name, yaml.ScalarNode):
                name.tag = self.DEFAULT_SCALAR_TAG
        without_doubles([(self.construct_object(name, deep=True), None) for name in names])
        return super().construct_mapping(node, deep)


def read_yaml(path: str | Path, remedy: str, text: str | None = None) -> dict:
    """Read a YAML file that holds a mapping, or its `text`. Raises UserError ending in `remedy`."""
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8-sig") if text is None else text, StrictLoader)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:  # TypeError of a name that is a list
        raise UserError(f"{path}: is not valid YAML ({error}); correct the file") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold `name: ...` lines, holds {content!r}; {remedy}")
    return content


def remove_partial(folder: Path) -> None:
    """Remove the files that a killed process left half-written in or below a folder that no other writes to now."""
    for path in filter(Path.is_file, folder.rglob(f"{PARTIAL}*")):
        path.unlink(missing_ok=True)


def save_nifti(path: str | Path, array: np.ndarray, affine: np.ndarray) -> None:
    """Write `array` [X, Y, Z] as NIfTI with its own dtype; `affine` [4, 4] in mm."""
    image = nib.Nifti1Image(np.asfortranarray(array), affine)
    image.header.set_xyzt_units("mm")
    with atomic_write(path) as temporary:
        if str(path).endswith(".nii.gz"):
            # stored as it is where its middle would shrink by less than a fifth: to pack 160x160x64 voxels of float32
            # with noise takes 80 ms and to unpack them 20, each time, and saves 12 %; as they are both take 2
            content = image.to_bytes()
            probe = content[len(content) // 2 :][:PROBED]
            level = 1 if len(deflate.gzip_compress(probe, 1)) < 0.8 * len(probe) else 0
            temporary.write_bytes(deflate.gzip_compress(content, level))
        else:
            nib.save(image, temporary)


def open_nifti(path: str | Path) -> nib.Nifti1Image | nib.Nifti2Image:
    """A NIfTI file, a `.nii.gz` unpacked at once by libdeflate.

    nibabel's Python gzip takes 2.5 times as long, and its `from_bytes` copies the voxels twice. What is not one whole
    gzip of a NIfTI file (several in a row, more than 4 GiB, broken ones) is left to nibabel. Header extensions are not
    read. Raises ValueError for voxels of no size, for which nibabel takes 1 mm.
    """
    if Path(path).exists() and not Path(path).is_file():  # to read a pipe would wait for ever
        raise ValueError("it is a folder, a pipe or a device")
    content = Path(path).read_bytes() if str(path).endswith(".nii") else b""
    if str(path).endswith(".nii.gz"):
        with suppress(deflate.DeflateError, ValueError, MemoryError):
            content = deflate.gzip_decompress(Path(path).read_bytes())
    if (kind := _nifti_kind(content)) is None:
        return _load_checked(path)
    header = _checked_header(kind, content)
    shape, dtype, offset = header.get_data_shape(), header.get_data_dtype(), header.get_data_offset()
    if offset < kind.header_class.single_vox_offset:  # 0 is the header to nibabel, what follows it to other programs
        raise ValueError(f"its voxels begin at byte {offset}, which is within its header")
    if len(content) < _whole(header):
        return _load_checked(path)
    voxels = np.ndarray(shape, dtype, content, offset, order="F")
    return kind(apply_read_scaling(voxels, *header.get_slope_inter()), header.get_best_affine(), header)


def _nifti_kind(content: bytes) -> type | None:
    """The class of the file that begins with `content`; None where it is no NIfTI that holds its voxels as well."""
    if content[344:348] == b"n+1\0":
        return nib.Nifti1Image
    return nib.Nifti2Image if content[4:8] == b"n+2\0" else None


def _checked_header(kind: type, content: bytes) -> nib.Nifti1Header:
    """The header as nibabel.load mends it, of voxels that have a size before."""
    header = kind.header_class(bytes(content[: kind.header_class.sizeof_hdr]), check=False)
    if not (size := header["pixdim"][1:4][: len(header.get_data_shape())]).min(initial=1) > 0:
        raise ValueError(f"the size of its voxels is {size.round(4).tolist()} mm")
    header.check_fix()
    return header


def _whole(header: nib.Nifti1Header) -> int:
    """The bytes of a file with all the voxels that its header tells of."""
    return header.get_data_offset() + math.prod(header.get_data_shape()) * header.get_data_dtype().itemsize


def _load_checked(path: str | Path) -> nib.Nifti1Image:
    """What nibabel reads, after all of the file was read: it stops before a gzip's checksum, and reads damage."""
    packed = str(path).lower().endswith(".gz")
    with gzip.open(path) if packed else open(path, "rb") as file:
        content = file.read(nib.Nifti2Header.sizeof_hdr)  # the longest header
        length = len(content) + sum(map(len, iter(lambda: file.read(2**24), b"")))
    if kind := _nifti_kind(content):
        header = _checked_header(kind, content)
        if length < (whole := _whole(header)):
            raise ValueError(f"its header tells of {header.get_data_shape()} voxels, {whole} bytes; it has {length}")
    return nib.load(path)


def load_nifti(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a NIfTI file as (array in its scaled dtype, affine [4, 4]). Raises UserError where it cannot be read."""
    try:
        image = open_nifti(path)
        return np.asanyarray(image.dataobj), image.affine
    except Exception as error:  # nibabel, gzip and the file system each raise their own kinds
        raise UserError(f"{path}: cannot be read as NIfTI ({error})") from None


def save_checkpoint(path: str | Path, content: dict) -> None:
    """Write a checkpoint of plain tensors, numbers, strings, lists and dicts: what `weights_only=True` reads back."""
    import torch  # takes seconds, and most of what reads files needs none

    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        try:
            torch.save(content, file)  # given a path, torch writes the temporary name into the file: its hash changes
        except RuntimeError as error:  # of its zip, where the file takes no more
            raise OSError(str(error).partition("\n")[0]) from error


def load_checkpoint(path: str | Path, made_by: str | None, mmap: bool = False) -> dict:
    """Read a checkpoint onto the CPU with `weights_only=True`; `made_by` is the stage that the error message names,
    None for weights from elsewhere."""
    if not Path(path).is_file():
        first = f"; it is made by the stage {made_by!r}: run that stage first" if made_by else ""
        raise UserError(f"{path}: no such checkpoint{first}")
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # pickle, zip and torch each raise their own kinds
        again = f"; run the stage {made_by!r} again" if made_by else ""
        raise UserError(f"{path}: is not a readable checkpoint ({error}){again}") from None


def package_text(name: str) -> str:
    """A text file of this package, such as report/template.html."""
    return resources("lldm3d").joinpath(name).read_text()


def checksum(path: Path) -> str:
    """Of a volume's content: gzip keeps it in the last eight bytes."""
    if path.suffix != ".gz":
        return f"{crc32(path.read_bytes()):08x}"
    with open(path, "rb") as file:
        file.seek(-8, 2)
        return file.read().hex()


def sha256(path: str | Path) -> str:
    """The file's SHA-256 as hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


MARKER = ".lldm3d.json"  # in each folder that a command has made: the files that it wrote


@contextmanager
def output_folder(path: str | Path, overwrite: bool, inputs: Iterable[str | Path] = ()) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` when the block ends well, with a list of its files in `MARKER`.

    Raises UserError as `require_replaceable` does, before the block and again before anything is replaced.
    """
    path, inputs = Path(path).resolve(), list(inputs)
    require_replaceable(path, overwrite, inputs)
    try:
        with passing_folder(path.parent) as outer:
            temporary = outer / "new"  # inside, since such folders are private to the user
            temporary.mkdir()
            yield temporary
            write_json(temporary / MARKER, {"files": sorted(files_in(temporary))})
            require_replaceable(path, overwrite, inputs)
            if path.exists():
                path.rename(outer / REPLACED)
            temporary.rename(path)
    except OSError as error:  # of what others write there too
        raise unwritable(path, error) from error


HELD, REPLACED = ".lldm3d.lock", "old"  # within a passing folder


@contextmanager
def passing_folder(parent: Path) -> Iterator[Path]:
    """Yield a folder within `parent` that is there for the block. Those of killed processes there are removed: they
    hold a file that no process locks, and nothing of the user's that was about to be replaced."""
    parent.mkdir(parents=True, exist_ok=True)
    for path in parent.glob(f"{PARTIAL}*/{HELD}"):
        with suppress(OSError), open(path, "r+") as file:  # of one that is in use, or gone by now
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not (path.parent / REPLACED).exists():
                shutil.rmtree(path.parent)
    with tempfile.TemporaryDirectory(dir=parent, prefix=PARTIAL) as name, open(Path(name, "new_lock"), "w") as file:
        with suppress(OSError):  # where there are no locks it stays, were it left behind
            fcntl.flock(file, fcntl.LOCK_EX)
            Path(file.name).rename(Path(name, HELD))
        yield Path(name)


def require_replaceable(path: str | Path, overwrite: bool, inputs: Iterable[str | Path] = ()) -> None:
    """Raise UserError unless `path` is new, or holds nothing but what a command wrote there and `overwrite` is set.

    An input is never replaced, nor a folder that holds one.
    """
    path = Path(path).resolve()
    for item in inputs:
        real = Path(os.path.realpath(item))  # Path.resolve raises where links go round in a circle
        if path in (real, *real.parents):
            raise UserError(f"--output_dir {path} would replace the input {item}; choose another folder")
    if path.exists() and not path.is_dir():
        raise UserError(f"--output_dir {path} is a file; give the name of a new folder")
    found = {name for name in files_in(path) if name != MARKER and PARTIAL not in name}
    if found and not overwrite:
        raise UserError(f"--output_dir {path} exists; it is not empty, so choose another folder or give --overwrite")
    if foreign := sorted(found - files_made(path)):
        raise UserError(
            f"--output_dir {path} holds {foreign[0]}{f' and {len(foreign) - 1} more files' if foreign[1:] else ''}, "
            "which this command did not write, so nothing there is replaced; choose another folder, or move them away"
        )


def require_writable(folder: Path) -> None:
    """Raise UserError where a folder, or the nearest one above it that exists, takes no file; leaves none there."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise unwritable(folder, error) from error


def files_made(folder: Path) -> set[str]:
    """The files that a command has made in a folder, as its `MARKER` lists them."""
    marker = read_json(folder / MARKER) if (folder / MARKER).is_file() else {}
    listed = marker.get("files") if isinstance(marker, dict) else None
    return {name for name in listed if isinstance(name, str)} if isinstance(listed, list) else set()


def files_in(folder: Path) -> Iterator[str]:
    """All files and links in a folder and those below it, hidden ones too, as paths relative to it."""
    for parent, folders, files in os.walk(folder):
        links = [name for name in folders if Path(parent, name).is_symlink()]
        for name in (*files, *links):
            yield Path(parent, name).relative_to(folder).as_posix()
