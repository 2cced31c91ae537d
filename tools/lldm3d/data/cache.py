"""Volumes that are read and transformed once, and then mapped from files that all trainings share."""

import inspect
import os
import random
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from pickle import UnpicklingError

import monai
import nibabel as nib
import torch
from monai.config import PathLike
from monai.data import NibabelReader, PersistentDataset
from monai.data.utils import correct_nifti_header_if_necessary, pickle_hashing
from monai.transforms import Compose, LoadImaged
from monai.utils import convert_to_tensor, ensure_tuple
from torch.serialization import get_crc32_options, set_crc32_options
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from lldm3d.data.dataset import axes_of
from lldm3d.data.volumes import turn
from lldm3d.errors import UserError
from lldm3d.files import open_nifti, save_checkpoint
from lldm3d.processes import usable_cores


class DeflateReader(NibabelReader):
    """MONAI's `NibabelReader` with libdeflate, which unpacks a whole file at once (`open_nifti`).

    Args:
        orientation: "ras" or "stored", to which each volume is turned: pairs of other programs may have axes of their
            own.
    """

    def __init__(self, orientation: str = "ras", **keywords) -> None:
        super().__init__(**keywords)
        self.axes = axes_of(orientation)

    def read(self, data: PathLike | tuple[PathLike, ...], **kwargs) -> nib.Nifti1Image:
        filenames = ensure_tuple(data)
        if len(filenames) > 1:
            return super().read(data, **kwargs)
        self.filenames = filenames
        image = correct_nifti_header_if_necessary(open_nifti(filenames[0]))
        return image.as_reoriented(turn(image.affine, self.axes))


PLAIN = (torch.Tensor, str, int, float)  # what is kept; not the notes of transforms for their inverses


def transforms_hash(transforms: Sequence[Callable]) -> bytes:
    """A hash of the settings of transforms, and of the modules that hold their code and that of their readers."""
    readers = [reader for item in transforms if isinstance(item, LoadImaged) for reader in item._loader.readers]
    modules = sorted({inspect.getfile(type(item)) for item in [*transforms, *readers]})
    return pickle_hashing([transforms, [Path(module).read_bytes() for module in modules], monai.__version__])


class MappedDataset(PersistentDataset):
    """Cases whose transforms up to the first random one are done once, by all cores, and then mapped from files.

    A file that changes (path, size, time) is read again, and transforms that change (settings, code, readers, MONAI's
    version) make files of their own. Trainings at the same time share the files, and the system their pages in memory:
    one may find what another has made, and what two make at once is the same. Items have plain tensors; they are views
    of the files, so a transform must not write into its input (MONAI's random ones do not). An item has its "index" as
    well, which is in no file.

    Stock `PersistentDataset` notices no changed file; it makes one case after the other, and copies a whole case into
    memory in each draw. `CacheDataset` reads all anew in each process, and holds all in the memory of each.

    Args:
        data: cases as dicts.
        transform: Compose of dictionary transforms.
        cache_dir: folder of the files, safe to delete whenever no training runs.

    Raises:
        UserError: where `cache_dir` cannot be written.
    """

    def __init__(self, data: Sequence[dict], transform: Compose, cache_dir: str | Path) -> None:
        super().__init__(data, transform, cache_dir=None, hash_transform=transforms_hash)
        self.folder = Path(cache_dir) / self.transform_hash[:16]
        self.paths = [self.folder / f"{case_hash(case)}-{files_hash(case)}.pt" for case in data]
        self.make_missing()
        self.cases = [self.open(index) for index in range(len(data))]

    def make_missing(self) -> None:
        """Make the files that are not there, in processes."""
        missing = _Missing([index for index, path in enumerate(self.paths) if not path.is_file()], self.make)
        processes = min(len(missing), usable_cores())
        own = torch.Generator()  # else a training would draw other numbers when the files are there
        loader = DataLoader(missing, batch_size=None, num_workers=processes, generator=own)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be written ({error}); give another cache_dir") from None
        for error in tqdm(loader, "reading volumes", mininterval=1, disable=not missing.indices):
            if error:
                break  # which waits for the other processes; an exception would keep them until it is forgotten
        else:
            return
        raise UserError(error)

    def make(self, index: int) -> None:
        """Make the file of a case, unless another training was faster, and delete those of its earlier states."""
        path, case = self.paths[index], self.data[index]
        if path.is_file():
            return
        earlier = list(self.folder.glob(f"{case_hash(case)}-*.pt"))
        found = convert_to_tensor(self._pre_transform(dict(case)), convert_numeric=False, track_meta=False)
        before = get_crc32_options()
        set_crc32_options(False)  # the zip's checksums take as long as writing; a mapped file's are never read
        try:
            save_checkpoint(path, {key: value for key, value in found.items() if isinstance(value, PLAIN)})
        finally:
            set_crc32_options(before)
        for other in earlier:
            other.unlink(missing_ok=True)

    def open(self, index: int) -> dict:
        """The mapped case; a file that a crash of the machine has cut off is made again."""
        try:
            return torch.load(self.paths[index], mmap=True, weights_only=True)
        except (RuntimeError, OSError, EOFError, UnpicklingError):  # as torch finds the end or the middle gone
            self.paths[index].unlink(missing_ok=True)
            self.make(index)
            return torch.load(self.paths[index], mmap=True, weights_only=True)

    def _transform(self, index: int) -> dict:
        return self._post_transform({**self.cases[index], "index": index})


class _Missing(Dataset):
    """Makes a file in place of each item, in an order of its own: trainings that start at once share the work."""

    def __init__(self, indices: list[int], make: Callable[[int], None]) -> None:
        self.indices, self.make = random.Random(os.getpid()).sample(indices, len(indices)), make

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, number: int) -> str:
        """Why the file could not be written; empty where it was."""
        try:
            self.make(self.indices[number])
        except (UserError, OSError) as error:
            return str(error)
        return ""


def case_hash(case: dict) -> str:
    """Of a case: a hash of its entries, paths as they stand."""
    return _digest(sorted(case.items()))


def files_hash(case: dict) -> str:
    """Of a case's files: a hash of their sizes and times."""
    paths = [Path(value) for _, value in sorted(case.items()) if isinstance(value, str)]
    stats = [path.stat() for path in paths if path.is_file()]
    return _digest([(found.st_size, found.st_mtime_ns) for found in stats])


def _digest(content: object) -> str:
    return sha256(repr(content).encode()).hexdigest()[:16]
