"""Reading compressed NIfTI files fast."""

import nibabel as nib
from monai.config import PathLike
from monai.data import NibabelReader
from monai.data.utils import correct_nifti_header_if_necessary
from monai.utils import ensure_tuple

from lldm3d.files import open_nifti


class DeflateReader(NibabelReader):
    """MONAI's `NibabelReader` with libdeflate, which unpacks a whole file at once (`open_nifti`)."""

    def read(self, data: PathLike | tuple[PathLike, ...], **kwargs) -> nib.Nifti1Image:
        filenames = ensure_tuple(data)
        if len(filenames) > 1 or not str(filenames[0]).endswith(".nii.gz"):
            return super().read(data, **kwargs)
        self.filenames = filenames
        return correct_nifti_header_if_necessary(open_nifti(filenames[0]))
