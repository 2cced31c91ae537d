"""Fast reading of compressed NIfTI: the same voxels and metadata as MONAI's reader."""

import nibabel as nib
import numpy as np
import pytest
from monai.data import NibabelReader
from monai.transforms import LoadImage

from lldm3d.data.reader import DeflateReader


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_it_reads_what_monai_reads(tmp_path, suffix, dtype):
    image = nib.Nifti1Image((1000 * np.random.default_rng(0).random((5, 6, 7))).astype(dtype), np.diag([-1, 2, 3, 1]))
    image.header.set_slope_inter(2.0 if dtype == np.int16 else None, 1.0 if dtype == np.int16 else None)
    nib.save(image, tmp_path / f"scan{suffix}")
    ours, theirs = (
        LoadImage(reader=reader)(tmp_path / f"scan{suffix}") for reader in (DeflateReader(), NibabelReader())
    )
    assert np.array_equal(ours, theirs) and ours.dtype == theirs.dtype
    assert np.array_equal(ours.affine, theirs.affine) and ours.meta.keys() == theirs.meta.keys()
