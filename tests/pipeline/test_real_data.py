"""A whole run on crops of one real abdominal MR with 49 classes, of which three are taken."""

import nibabel as nib
import numpy as np
import pytest
import yaml
from tests.in_process import write_profile

from lldm3d.data.dataset import load_cases, load_schema

from .conftest import lldm3d
from .test_workflow import SECTIONS

LABEL_MAP = {
    "classes": {"liver": 5, "inferior vena cava": 24, "portal and splenic vein": 25},
    "tubular": ["inferior vena cava", "portal and splenic vein"],
}
CROPS = {"crops": 12, "roi_size": [32, 32, 16], "center": "portal and splenic vein", "split_by": "case"}


@pytest.mark.slow
def test_a_run_goes_through_on_crops_of_one_real_mr(real_data, tmp_path):
    folder = real_data("liver_mr")
    (tmp_path / "map.yaml").write_text(yaml.safe_dump(LABEL_MAP, sort_keys=False))
    sections = {key: value for key, value in SECTIONS.items() if key != "phantom"}
    profile = write_profile(tmp_path / "crops.yaml", **{**sections, "prepare": CROPS})
    files = ["--images", folder / "abdomen_mr.nii.gz", "--labels", folder / "abdomen_mr_seg.nii.gz"]
    files += ["--label_map", tmp_path / "map.yaml"]
    result = lldm3d("run", "--workdir", tmp_path / "work", "--profile", profile, *files, "--cores", 1)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    schema = load_schema(tmp_path / "work/dataset")
    assert schema.class_names == ("background", *LABEL_MAP["classes"])
    labels = [nib.load(case.label).get_fdata() for case in load_cases(tmp_path / "work/dataset", "training")]
    assert {1, 2, 3} <= set(np.unique(labels).astype(int).tolist())
    assert (tmp_path / "work/report/report.html").is_file()
