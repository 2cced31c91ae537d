"""Fast reading of compressed NIfTI: the same voxels and metadata as MONAI's reader."""

import nibabel as nib
import numpy as np
import pytest
from monai.data import NibabelReader
from monai.transforms import LoadImage
from nibabel.nifti1 import Nifti1Extension

from lldm3d.data.cache import DeflateReader


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
@pytest.mark.parametrize("dtype", ["<f4", "<i2", ">i2", "u1"])
def test_it_reads_what_monai_reads(tmp_path, suffix, dtype):
    voxels, integer = (200 * np.random.default_rng(0).random((5, 6, 7))).astype(dtype), dtype != "<f4"
    header = nib.Nifti1Header(endianness="<" if dtype == "u1" else dtype[0])
    image = nib.Nifti1Image(voxels, np.diag([1, 2, 3, 1]), header)
    image.header.set_slope_inter(2.0 if integer else None, 1.0 if integer else None)
    image.header.extensions.append(Nifti1Extension("comment", b"which moves the voxels"))
    path = tmp_path / f"scan{suffix}"
    nib.save(image, path)
    for reader in (DeflateReader(), NibabelReader()):
        assert np.array_equal(reader.get_data(reader.read(path))[0], nib.load(path).get_fdata())
    # `LoadImage` alone does not show a reader's failure: it tries another one
    ours, theirs = (LoadImage(reader=reader)(path) for reader in (DeflateReader(), NibabelReader()))
    assert np.array_equal(ours, theirs) and ours.dtype == theirs.dtype
    assert np.array_equal(ours.affine, theirs.affine) and ours.meta.keys() == theirs.meta.keys()


def test_a_pair_of_another_program_is_read_along_the_axes_of_the_data_set(tmp_path):
    voxels, affine = np.random.default_rng(0).random((5, 6, 7)).astype(np.float32), np.diag([1.0, 2, 3, 1])
    image = nib.Nifti1Image(voxels, affine)
    turn = nib.orientations.axcodes2ornt("PIR")
    other = image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(affine), turn))
    nib.save(other, tmp_path / "scan.nii.gz")
    read = LoadImage(reader=DeflateReader())(tmp_path / "scan.nii.gz")
    assert np.array_equal(read, voxels) and np.array_equal(read.affine, affine)
    as_stored = LoadImage(reader=DeflateReader(orientation="stored"))(tmp_path / "scan.nii.gz")
    assert np.array_equal(as_stored, np.moveaxis(np.asarray(other.dataobj), 1, 2))  # but the thick axis comes last
