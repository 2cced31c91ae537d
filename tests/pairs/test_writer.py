import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Engine

from lldm3d.errors import UserError
from lldm3d.pairs.writer import CaseWriter


def pairs(number):
    image, label = torch.rand(number, 1, 6, 5, 4), torch.randint(0, 3, (number, 1, 6, 5, 4), dtype=torch.uint8)
    affine = torch.eye(4, dtype=torch.float64).repeat(number, 1, 1)
    names = [f"case_{index}" for index in range(number)]
    return {"name": names, "image": image, "label": label, "affine": affine}


def run(output_dir, batches):
    engine = Engine(lambda engine, batch: batch)
    CaseWriter(str(output_dir)).attach(engine)
    engine.run(batches)


GPU = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_all_files_are_there_when_the_run_ends(tmp_path, device):
    batch = pairs(40)  # more than may wait
    run(tmp_path, [{key: item if key == "name" else item.to(device) for key, item in batch.items()}])
    for index, name in enumerate(batch["name"]):
        label = np.asarray(nib.load(tmp_path / f"labelsTr/{name}.nii.gz").dataobj)
        np.testing.assert_array_equal(label, batch["label"][index, 0].numpy())
        image = nib.load(tmp_path / f"imagesTr/{name}.nii.gz")
        assert image.get_data_dtype() == np.float32
        np.testing.assert_allclose(image.get_fdata(), batch["image"][index, 0].numpy(), rtol=2**-12)


def test_a_file_that_cannot_be_written_ends_the_run_and_leaves_no_image(tmp_path):
    (tmp_path / "labelsTr").write_text("a file where the folder must be")
    with pytest.raises(UserError, match="labelsTr/case_0.nii.gz: cannot be written"):
        run(tmp_path, [pairs(1), pairs(1)])
    assert not list(tmp_path.glob("imagesTr/*"))
