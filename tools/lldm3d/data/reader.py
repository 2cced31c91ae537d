"""Reading compressed NIfTI files fast."""

from pathlib import Path

import deflate
import nibabel as nib
import numpy as np
from monai.config import PathLike
from monai.data import NibabelReader
from monai.data.utils import correct_nifti_header_if_necessary
from monai.utils import ensure_tuple
from nibabel.volumeutils import apply_read_scaling


class DeflateReader(NibabelReader):
    """MONAI's `NibabelReader` with libdeflate, which unpacks a whole file at once.

    nibabel's own Python gzip takes 2.5 times as long: 37 for 15 ms for 160x160x64 voxels of float32 with noise; and its
    `from_bytes` copies the voxels twice. Header extensions, which MONAI leaves out, are not read.
    """

    def read(self, data: PathLike | tuple[PathLike, ...], **kwargs) -> nib.Nifti1Image:
        filenames = ensure_tuple(data)
        if len(filenames) > 1 or not str(filenames[0]).endswith(".nii.gz"):
            return super().read(data, **kwargs)
        self.filenames = filenames
        content = deflate.gzip_decompress(Path(filenames[0]).read_bytes())
        header = nib.Nifti1Header(bytes(content[: nib.Nifti1Header.sizeof_hdr]))
        shape, dtype, offset = header.get_data_shape(), header.get_data_dtype(), header.get_data_offset()
        voxels = np.ndarray(shape, dtype, content, offset, order="F")
        scaled = apply_read_scaling(voxels, *header.get_slope_inter())
        return correct_nifti_header_if_necessary(nib.Nifti1Image(scaled, header.get_best_affine(), header))
