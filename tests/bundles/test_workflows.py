"""Every bundle passes MONAI's property check and the conformance check, and infers; MONAI's command line runs them."""

import json
import logging
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from lldm3d.bundle import bundle_path

from .small import BASELINES, KINDS, TRAINED, settings, workflow

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("config", KINDS)
@pytest.mark.parametrize("bundle", TRAINED)
def test_monai_s_property_check_passes(bundle, config, work, tmp_path):
    flow = workflow(bundle, config, work, tmp_path)
    assert flow.check_properties() == []
    assert (flow.trainer if config == "train" else flow.evaluator) is not None


@pytest.mark.parametrize("bundle", [bundle for bundle in TRAINED if bundle not in BASELINES])
def test_inference_writes_volumes(bundle, work, tmp_path):
    workflow(bundle, "inference", work, tmp_path).run()
    assert list(tmp_path.rglob("*.nii.gz"))


@pytest.mark.parametrize(
    "bundle, config, run_id", [("label_ldm", "train", "training"), ("controlnet", "inference", "inferring")]
)
def test_monai_s_command_line_runs_a_bundle_from_its_folder(bundle, config, run_id, work, tmp_path):
    """Segmentations and baselines: see the tests of several processes."""
    (tmp_path / "overrides.yaml").write_text(
        yaml.safe_dump({**settings(bundle, config, work, tmp_path), "bundle_root": "."})
    )
    files = str([f"configs/{config}.yaml", str(tmp_path / "overrides.yaml")])
    command = [sys.executable, "-m", "monai.bundle", "run", run_id, "--config_file", files, "--seed=1"]
    done = subprocess.run(command, cwd=bundle_path(bundle), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert list(tmp_path.rglob("model.pt" if config == "train" else "*.nii.gz"))


@pytest.mark.slow
@pytest.mark.parametrize("bundle", TRAINED)
def test_the_independent_conformance_check_passes(bundle, work, tmp_path, monkeypatch):
    """The check is a script beside the checkout; no weights come with the bundles, so it is not asked about them."""
    script = ROOT.parent / "shared" / "bundle_conformance.py"
    if not script.is_file():
        pytest.skip("../shared/bundle_conformance.py does not exist")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(logging, "disable", lambda *_: None)
    overrides = {kind: settings(bundle, config, work, tmp_path) for config, kind in KINDS.items()}
    further = [path.stem for path in bundle_path(bundle).glob("configs/train_*.yaml")]
    overrides |= {config: settings(bundle, config, work, tmp_path) for config in further}
    (tmp_path / "overrides.json").write_text(
        json.dumps({Path(bundle).name: {**overrides, "__exclude__": ["file:models/model.pt"]}})
    )
    options = {"schema_dir": str(Path(__file__).parent), "overrides": str(tmp_path / "overrides.json")}
    options |= {"pna": [1, 1, 1], "no_dynamic": False, "no_export": True}
    rows = runpy.run_path(str(script))["check_one"](str(bundle_path(bundle)), SimpleNamespace(**options))
    assert len(rows) > 30
    assert [row for row in rows if row[0] == "FAIL"] == []
