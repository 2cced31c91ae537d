"""Reading compressed NIfTI files fast."""

from pathlib import Path

import deflate
import nibabel as nib
from monai.config import PathLike
from monai.data import NibabelReader
from monai.data.utils import correct_nifti_header_if_necessary
from monai.utils import ensure_tuple


class DeflateReader(NibabelReader):
    """MONAI's `NibabelReader` with libdeflate, which unpacks a whole file at once.

    nibabel's own Python gzip takes 2.5 times as long: 37 for 15 ms for 160x160x64 voxels of float32 with noise.
    """

    def read(self, data: PathLike | tuple[PathLike, ...], **kwargs) -> nib.Nifti1Image:
        filenames = ensure_tuple(data)
        if len(filenames) > 1 or not str(filenames[0]).endswith(".nii.gz"):
            return super().read(data, **kwargs)
        self.filenames = filenames
        content = deflate.gzip_decompress(Path(filenames[0]).read_bytes())
        return correct_nifti_header_if_necessary(nib.Nifti1Image.from_bytes(content))
